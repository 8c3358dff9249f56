//! Statements on PostgreSQL, which another connection cancels.

mod decode;

use afterload_core::failpoint;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Column, Connection as _, Either, Executor as _, PgConnection, Row};
use tokio_util::sync::CancellationToken;

use super::answer::Taker;
use super::{Call, Command, Effect, Job, Noted};
use crate::postgres::{Postgres, sqlstate};
use afterload_core::clock;
use afterload_core::error::{Error, Result, reason};

/// The code for a value that the database cannot bring to the type that is wanted.
pub(super) const NOT_OF_TYPE: &str = "sql_value_invalid";
/// How long to wait before asking once more: what is asked between two statements stops neither.
const ASKING: Duration = Duration::from_millis(200);

pub(super) async fn run(database: &Postgres, job: Job) -> Result<(Effect, Noted)> {
    let stop = job.call.stop.clone();
    let mut connection = tokio::select! {
        acquired = database.pool.acquire() => acquired?,
        () = stop.cancelled() => return Err(super::stopped()),
    };
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
    let done = until_stopped(database, backend, &stop, transaction(database, &mut connection, job)).await;
    if done.is_err() || stop.is_cancelled() {
        // Neither rows that nobody reads nor a late request to cancel may be met by the next user.
        connection.close_on_drop();
    }
    done.map_err(|error| match stop.is_cancelled() && error.code() != "lease_lost" {
        true => super::stopped(),
        false => error,
    })
}

/// Does the work; once `stop` is cancelled, asks the server to end what `backend` does until the work is over.
pub(crate) async fn until_stopped<T>(
    database: &Postgres,
    backend: i32,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = stop.cancelled() => loop {
            cancel(database, backend).await;
            if let Ok(done) = tokio::time::timeout(ASKING, &mut work).await {
                break done;
            }
        },
    }
}

/// Asks another process of the server to stop what it does. That the asking fails is seen by what goes on.
async fn cancel(database: &Postgres, backend: i32) {
    let asked = async {
        let options = database.pool.connect_options();
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::query("SELECT pg_cancel_backend($1)").bind(backend).execute(&mut connection).await?;
        connection.close().await
    };
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(connection.name = database.facts.name, %error, "a statement was not cancelled");
        }
        Err(_) => tracing::warn!(connection.name = database.facts.name, "a statement was not cancelled in time"),
    }
}

async fn transaction(database: &Postgres, connection: &mut PgConnection, job: Job) -> Result<(Effect, Noted)> {
    let statements = &database.statements;
    let begin = if job.writes { "BEGIN" } else { "BEGIN READ ONLY" };
    let mut transaction = connection.begin_with(begin).await?;
    let begun = Instant::now();
    if let Some(fence) = &job.fence {
        let mine = sqlx::query(AssertSqlSafe(statements.fence())).bind(&fence.key).bind(fence.epoch);
        if mine.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Err(fence.lost());
        }
    }
    let mut effect = execute(&mut transaction, &job.command, &job.call).await?;
    let Job { fence, note, call, .. } = job;
    let noted = note(&effect)?;
    if let Some(fence) = fence {
        let now = clock::now();
        let advance = sqlx::query(AssertSqlSafe(statements.advance())).bind(&noted.0).bind(now);
        advance.bind(noted.1.then_some(now)).bind(&fence.key).execute(&mut *transaction).await?;
    }
    if call.stop.is_cancelled() {
        return Err(super::stopped());
    }
    failpoint!("statement.before_commit");
    transaction.commit().await.map_err(failed)?;
    failpoint!("statement.after_commit");
    effect.held = begun.elapsed();
    Ok((effect, noted))
}

async fn execute(connection: &mut PgConnection, command: &Command, call: &Call) -> Result<Effect> {
    let query = command.statement.for_postgres(connection, &call.values).await?.query();
    let mut taker = Taker::new(call.keep);
    let keep = call.keep;
    let mut affected = 0;
    let mut answers = connection.fetch_many(query);
    while let Some(answer) = answers.try_next().await.map_err(failed)? {
        match answer {
            Either::Left(done) => affected = done.rows_affected(),
            Either::Right(row) => {
                let names = row.columns().iter().map(Column::name);
                taker.row(names, |index| decode::value(&row, index, keep))?;
            }
        }
    }
    Ok(taker.finish(affected))
}

/// What the database says of a user's statement.
fn failed(error: sqlx::Error) -> Error {
    match sqlstate(&error).as_deref() {
        Some("22P02" | "22003" | "22007" | "22008") => Error::permanent(NOT_OF_TYPE, reason(&error)),
        _ => error.into(),
    }
}
