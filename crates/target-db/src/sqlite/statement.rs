//! Runs statements on SQLite. A progress handler interrupts them.

use afterload_core::failpoint;
use std::time::Instant;

use rusqlite::TransactionBehavior;
use rusqlite::types::ValueRef;
use serde_json::Value;

use super::bind::to_sqlite_value;
use super::{SqliteDatabase, map_sqlite_error};
use crate::row_source::{RowSource, Scalar};
use crate::statement::{Checkpoint, RowCollector, StatementResult, StatementRun, may_write_error, stopped_error};
use afterload_core::decimal::float_to_json;
use afterload_core::error::Result;

pub(super) async fn run(database: &SqliteDatabase, job: StatementRun) -> Result<(StatementResult, Checkpoint)> {
    let stop = job.args.stop.clone();
    let (statements, clock) = (database.checkpoint_sql.clone(), database.options.clock.clone());
    let work = move |connection: &mut rusqlite::Connection| {
        let behavior = if job.writes { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
        let transaction = connection.transaction_with_behavior(behavior).map_err(map_sqlite_error)?;
        let begun = Instant::now();
        // A stop cannot interrupt the wait for the write lock, so it is checked now.
        job.check_stopped()?;
        if let Some(fence) = &job.fence
            && transaction
                .execute(&statements.check_epoch(), (&fence.checkpoint_key, fence.epoch))
                .map_err(map_sqlite_error)?
                == 0
        {
            return Err(fence.lease_lost_error());
        }
        let mut effect = match &job.row_source {
            Some(rows) => execute_each_row(&transaction, &job, rows.as_ref())?,
            None => execute(&transaction, &job)?,
        };
        let StatementRun { fence, checkpoint_fn: note, args: call, .. } = job;
        let noted = note(&effect)?;
        if let Some(fence) = fence {
            let now = clock.now();
            let values = (&noted.cursor, now, noted.finished.then_some(now), &fence.checkpoint_key);
            transaction.execute(&statements.update_cursor(), values).map_err(map_sqlite_error)?;
        }
        if call.stop.is_cancelled() {
            return Err(stopped_error());
        }
        failpoint!("statement.before_commit");
        transaction.commit().map_err(map_sqlite_error)?;
        failpoint!("statement.after_commit");
        effect.lock_duration = begun.elapsed();
        Ok((effect, noted))
    };
    database.run_interruptible(&stop, work).await
}

fn execute(connection: &rusqlite::Connection, job: &StatementRun) -> Result<StatementResult> {
    let bound = job.statement.sql.bind_for_sqlite(&job.args.values)?;
    let mut statement = connection.prepare(&bound.sql).map_err(map_sqlite_error)?;
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let reads = statement.readonly();
    if !reads && !job.writes {
        return Err(may_write_error());
    }
    let before = connection.total_changes();
    let mut taker = RowCollector::new(job.args.result_mode);
    let mut rows = statement.query(rusqlite::params_from_iter(bound.values)).map_err(map_sqlite_error)?;
    while let Some(row) = rows.next().map_err(map_sqlite_error)? {
        if !names.is_empty() {
            taker.collect_row(names.iter().map(String::as_str), |index| {
                Ok(to_json_value(row.get_ref(index).map_err(map_sqlite_error)?))
            })?;
        }
    }
    drop(rows);
    let affected = match reads {
        true => taker.row_count(),
        // A statement that changes no rows, such as `CREATE TABLE`, keeps the count of the previous statement.
        false if connection.total_changes() == before => 0,
        false => connection.changes(),
    };
    Ok(taker.finish(affected))
}

fn execute_each_row(
    connection: &rusqlite::Connection,
    job: &StatementRun,
    rows: &dyn RowSource,
) -> Result<StatementResult> {
    let mut statement = connection.prepare(&job.statement.sql.to_numbered_sql()).map_err(map_sqlite_error)?;
    let mut affected = 0;
    for row in 0..rows.row_count() {
        for place in 0..statement.parameter_count() {
            match rows.value_at(row, place) {
                Scalar::Null => statement.raw_bind_parameter(place + 1, rusqlite::types::Null),
                Scalar::Integer(number) => statement.raw_bind_parameter(place + 1, number),
                Scalar::Float(number) => statement.raw_bind_parameter(place + 1, number),
                Scalar::Text(text) => statement.raw_bind_parameter(place + 1, text.as_ref()),
                Scalar::Json(value) => statement.raw_bind_parameter(place + 1, to_sqlite_value(value)?),
            }
            .map_err(map_sqlite_error)?;
        }
        affected += statement.raw_execute().map_err(map_sqlite_error)? as u64;
    }
    Ok(StatementResult { affected, ..StatementResult::default() })
}

/// Converts a value to JSON. Bytes have the text that PostgreSQL writes.
fn to_json_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => float_to_json(number),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => format!("\\x{}", hex::encode(bytes)).into(),
    }
}
