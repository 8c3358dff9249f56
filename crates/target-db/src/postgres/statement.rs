//! Runs statements on PostgreSQL. A second connection cancels them.

use crate::codes;
use afterload_core::failpoint;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Column, Connection as _, Either, Executor as _, PgConnection, Row};
use tokio_util::sync::CancellationToken;

use super::{PostgresDatabase, decode, sqlstate};
use crate::statement::{
    Checkpoint, ParsedStatement, RowCollector, StatementArgs, StatementResult, StatementRun, stopped_error,
};
use afterload_core::error::{Error, Result, database_error_message};

/// How long to wait before the next cancel request. A request that arrives between two statements has no effect.
const CANCEL_RETRY_INTERVAL: Duration = Duration::from_millis(200);

pub(super) async fn run(database: &PostgresDatabase, job: StatementRun) -> Result<(StatementResult, Checkpoint)> {
    let stop = job.args.stop.clone();
    let mut connection = tokio::select! {
        acquired = database.pool.acquire() => acquired?,
        () = stop.cancelled() => return Err(stopped_error()),
    };
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
    let done = run_until_stopped(database, backend, &stop, run_transaction(database, &mut connection, job)).await;
    if done.is_err() || stop.is_cancelled() {
        // The next user of the connection must not find unread rows or a late cancel request.
        connection.close_on_drop();
    }
    done.map_err(|error| match stop.is_cancelled() && error.code() != codes::LEASE_LOST {
        true => stopped_error(),
        false => error,
    })
}

/// Runs `work`. After `stop`, it sends cancel requests for `backend` until the work ends.
pub(super) async fn run_until_stopped<T>(
    database: &PostgresDatabase,
    backend: i32,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = stop.cancelled() => loop {
            cancel_backend(database, backend).await;
            if let Ok(done) = tokio::time::timeout(CANCEL_RETRY_INTERVAL, &mut work).await {
                break done;
            }
        },
    }
}

/// Asks the server to cancel the statement of `backend`. A failure is only logged, because the caller asks again.
async fn cancel_backend(database: &PostgresDatabase, backend: i32) {
    let asked = async {
        let options = database.pool.connect_options();
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::query("SELECT pg_cancel_backend($1)").bind(backend).execute(&mut connection).await?;
        connection.close().await
    };
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(connection.name = database.options.name, %error, "a statement was not cancelled");
        }
        Err(_) => tracing::warn!(connection.name = database.options.name, "a statement was not cancelled in time"),
    }
}

async fn run_transaction(
    database: &PostgresDatabase,
    connection: &mut PgConnection,
    job: StatementRun,
) -> Result<(StatementResult, Checkpoint)> {
    let statements = &database.checkpoint_sql;
    let begin = if job.writes { "BEGIN" } else { "BEGIN READ ONLY" };
    let mut transaction = connection.begin_with(begin).await?;
    let begun = Instant::now();
    if let Some(fence) = &job.fence {
        let mine = sqlx::query(AssertSqlSafe(statements.check_epoch())).bind(&fence.checkpoint_key).bind(fence.epoch);
        if mine.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Err(fence.lease_lost_error());
        }
    }
    let mut effect = execute(&mut transaction, &job.statement, &job.args).await?;
    let StatementRun { fence, checkpoint_fn: note, args: call, .. } = job;
    let noted = note(&effect)?;
    if let Some(fence) = fence {
        let now = database.options.clock.now();
        let advance = sqlx::query(AssertSqlSafe(statements.update_cursor())).bind(&noted.cursor).bind(now);
        advance.bind(noted.finished.then_some(now)).bind(&fence.checkpoint_key).execute(&mut *transaction).await?;
    }
    if call.stop.is_cancelled() {
        return Err(stopped_error());
    }
    failpoint!("statement.before_commit");
    transaction.commit().await.map_err(map_statement_error)?;
    failpoint!("statement.after_commit");
    effect.lock_duration = begun.elapsed();
    Ok((effect, noted))
}

async fn execute(
    connection: &mut PgConnection,
    command: &ParsedStatement,
    call: &StatementArgs,
) -> Result<StatementResult> {
    let query = command.sql.bind_for_postgres(connection, &call.values).await?.to_sqlx_query();
    let mut taker = RowCollector::new(call.result_mode);
    let keep = call.result_mode;
    let mut affected = 0;
    let mut answers = connection.fetch_many(query);
    while let Some(answer) = answers.try_next().await.map_err(map_statement_error)? {
        match answer {
            Either::Left(done) => affected = done.rows_affected(),
            Either::Right(row) => {
                let names = row.columns().iter().map(Column::name);
                taker.collect_row(names, |index| decode::decode_value(&row, index, keep))?;
            }
        }
    }
    Ok(taker.finish(affected))
}

/// Maps the error of a user's statement. Conversion errors get the code `sql_value_invalid`.
fn map_statement_error(error: sqlx::Error) -> Error {
    match sqlstate(&error).as_deref() {
        Some("22P02" | "22003" | "22007" | "22008") => {
            Error::new(codes::SQL_VALUE_INVALID, database_error_message(&error))
        }
        _ => error.into(),
    }
}
