//! Statements on SQLite, whose work others interrupt.

use afterload_core::failpoint;
use std::time::Instant;

use rusqlite::TransactionBehavior;
use rusqlite::types::ValueRef;
use serde_json::Value;

use super::answer::Taker;
use super::{Effect, Job, Noted};
use crate::bind::native;
use crate::sqlite::{Sqlite, failed};
use crate::{Given, Plain};
use afterload_core::clock;
use afterload_core::error::Result;

pub(super) async fn run(database: &Sqlite, job: Job) -> Result<(Effect, Noted)> {
    let stop = job.call.stop.clone();
    let statements = database.statements.clone();
    let work = move |connection: &mut rusqlite::Connection| {
        let behavior = if job.writes { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
        let transaction = connection.transaction_with_behavior(behavior).map_err(failed)?;
        let begun = Instant::now();
        // Waiting for the lock cannot be interrupted.
        job.stopped()?;
        if let Some(fence) = &job.fence
            && transaction.execute(&statements.fence(), (&fence.key, fence.epoch)).map_err(failed)? == 0
        {
            return Err(fence.lost());
        }
        let mut effect = match &job.rows {
            Some(rows) => execute_each(&transaction, &job, rows.as_ref())?,
            None => execute(&transaction, &job)?,
        };
        let Job { fence, note, call, .. } = job;
        let noted = note(&effect)?;
        if let Some(fence) = fence {
            let now = clock::now();
            let values = (&noted.0, now, noted.1.then_some(now), &fence.key);
            transaction.execute(&statements.advance(), values).map_err(failed)?;
        }
        if call.stop.is_cancelled() {
            return Err(super::stopped());
        }
        failpoint!("statement.before_commit");
        transaction.commit().map_err(failed)?;
        failpoint!("statement.after_commit");
        effect.held = begun.elapsed();
        Ok((effect, noted))
    };
    database.stoppable(&stop, work).await
}

fn execute(connection: &rusqlite::Connection, job: &Job) -> Result<Effect> {
    let bound = job.command.statement.for_sqlite(&job.call.values)?;
    let mut statement = connection.prepare(&bound.sql).map_err(failed)?;
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let reads = statement.readonly();
    if !reads && !job.writes {
        return Err(super::may_write());
    }
    let before = connection.total_changes();
    let mut taker = Taker::new(job.call.keep);
    let mut rows = statement.query(rusqlite::params_from_iter(bound.values)).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        if !names.is_empty() {
            taker.row(names.iter().map(String::as_str), |index| Ok(json(row.get_ref(index).map_err(failed)?)))?;
        }
    }
    drop(rows);
    let affected = match reads {
        true => taker.given(),
        // What changes no rows, such as `CREATE TABLE`, leaves the count of the statement before.
        false if connection.total_changes() == before => 0,
        false => connection.changes(),
    };
    Ok(taker.finish(affected))
}

fn execute_each(connection: &rusqlite::Connection, job: &Job, rows: &dyn Given) -> Result<Effect> {
    let mut statement = connection.prepare(&job.command.statement.numbered()).map_err(failed)?;
    let mut affected = 0;
    for row in 0..rows.rows() {
        for place in 0..statement.parameter_count() {
            match rows.value(row, place) {
                Plain::Null => statement.raw_bind_parameter(place + 1, rusqlite::types::Null),
                Plain::Whole(number) => statement.raw_bind_parameter(place + 1, number),
                Plain::Real(number) => statement.raw_bind_parameter(place + 1, number),
                Plain::Text(text) => statement.raw_bind_parameter(place + 1, text.as_ref()),
                Plain::Json(value) => statement.raw_bind_parameter(place + 1, native(value)),
            }
            .map_err(failed)?;
        }
        affected += statement.raw_execute().map_err(failed)? as u64;
    }
    Ok(Effect { affected, ..Effect::default() })
}

/// Bytes are shown as PostgreSQL shows them.
fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => format!("\\x{}", hex::encode(bytes)).into(),
    }
}
