//! The SQLite back end: rusqlite on a handle of sqlx's pool, because sqlx costs about 8 µs per statement.

mod bind;
mod bound_cell;
mod bulk_update;
mod describe;
mod foreign_keys;
mod guard;
mod key_index;
mod load;
mod refusals;
mod select;
mod statement;

use crate::codes;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ffi;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{LockedSqliteHandle, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Sqlite, SqlitePool};
use tokio_util::sync::CancellationToken;

use crate::bind::{BindValues, ParameterizedSql};
use crate::bulk_load::LoadPlan;
use crate::bulk_update::{BoundUpdate, BulkUpdate, UpdatePlan};
use crate::checkpoint::{self, CheckpointSql};
use crate::config::{ConnectionConfig, ConnectionOptions};
use crate::errors::{invalid_url_error, panic_error, unavailable_error};
use crate::query::{QueryLimits, RowVisitor, SelectRequest};
use crate::read_only::Refusal;
use crate::row_source::RowSource;
use crate::statement::{Checkpoint, StatementResult, StatementRun, stopped_error};
use crate::table::TableInfo;
use crate::target_database::TargetDatabase;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{TableName, quote_identifiers};
use afterload_core::shortage;
use load::{SqliteLoader, accepts_conflict_keys};

/// How many virtual machine operations SQLite runs between two stop checks. They take a millisecond at most.
const OPS_PER_STOP_CHECK: i32 = 10_000;

/// A SQLite file.
#[derive(Clone)]
pub struct SqliteDatabase {
    pool: SqlitePool,
    options: Arc<ConnectionOptions>,
    checkpoint_sql: CheckpointSql,
}

impl SqliteDatabase {
    /// Runs blocking work on a connection of the pool.
    ///
    /// The work must not leave a statement or transaction open. rusqlite's types close them on drop, also in a panic.
    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut pooled = self.pool.acquire().await?;
        let done = tokio::task::spawn_blocking(move || {
            let mut locked = futures::executor::block_on(pooled.lock_handle())?;
            with_rusqlite(&mut locked, work)
        });
        done.await.map_err(panic_error)?
    }

    /// Like `run_blocking`, on a connection that keeps its transaction. Gives the connection back.
    async fn run_on<T: Send + 'static>(
        mut pooled: PoolConnection<Sqlite>,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<(PoolConnection<Sqlite>, T)> {
        let done = tokio::task::spawn_blocking(move || {
            let done = {
                let mut locked = futures::executor::block_on(pooled.lock_handle())?;
                with_rusqlite(&mut locked, work)?
            };
            Ok::<_, Error>((pooled, done))
        });
        done.await.map_err(panic_error)?
    }

    /// Like `run_blocking`, for work that `stop` interrupts.
    async fn run_interruptible<T: Send + 'static>(
        &self,
        stop: &CancellationToken,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut pooled = tokio::select! {
            pooled = self.pool.acquire() => pooled?,
            () = stop.cancelled() => return Err(stopped_error()),
        };
        let stop = stop.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut watched = InterruptibleHandle(futures::executor::block_on(pooled.lock_handle())?);
            watched.0.set_progress_handler(OPS_PER_STOP_CHECK, move || !stop.is_cancelled());
            with_rusqlite(&mut watched.0, work)
        });
        done.await.map_err(panic_error)?
    }
}

impl TargetDatabase for SqliteDatabase {
    type Loader = SqliteLoader;

    async fn open(config: &ConnectionConfig, facts: ConnectionOptions) -> Result<Self> {
        let url = config.url.expose_secret();
        let options = SqliteConnectOptions::from_str(url).map_err(|_| invalid_url_error(&facts.name))?;
        let options = options.busy_timeout(Duration::from_secs(10));
        let options = match facts.read_only {
            true => options.read_only(true),
            false => options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full),
        };
        // A file does not disconnect like a server, so the pool skips the test before each use.
        let pool = SqlitePoolOptions::new().max_connections(4).test_before_acquire(false);
        let pool = pool.acquire_timeout(Duration::from_secs(30));
        let pool = pool.connect_with(options).await.map_err(|error| unavailable_error(&facts.name, &error))?;
        Ok(Self { pool, options: Arc::new(facts), checkpoint_sql: CheckpointSql::new(None) })
    }

    async fn create_checkpoint_tables(&self) -> Result<()> {
        for sql in self.checkpoint_sql.create_tables() {
            sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await?;
        }
        Ok(())
    }

    fn options(&self) -> &ConnectionOptions {
        &self.options
    }

    async fn describe_table(&self, name: &TableName) -> Result<Option<TableInfo>> {
        describe::describe_table(&self.pool, name).await
    }

    async fn has_unique_keys(&self, table: &TableName, keys: &[String]) -> Result<bool> {
        let (table, keys) = (table.to_quoted_sql(), keys.to_vec());
        let columns = quote_identifiers(keys.iter().map(String::as_str));
        let values = vec!["NULL"; keys.len()].join(", ");
        let insert = format!("INSERT INTO {table} ({columns}) VALUES ({values})");
        self.run_blocking(move |connection| accepts_conflict_keys(connection, &insert, &keys)).await
    }

    checkpoint::sqlx_checkpoint_methods!();

    async fn prepare_load(&self, plan: LoadPlan) -> Result<SqliteLoader> {
        SqliteLoader::new(self.clone(), plan).await
    }

    async fn run_statement(&self, run: StatementRun) -> Result<(StatementResult, Checkpoint)> {
        statement::run(self, run).await
    }

    async fn find_refusal(&self, sql: &ParameterizedSql, _: &BindValues) -> Result<Option<Refusal>> {
        guard::find_refusal(self, sql).await
    }

    async fn select_rows<R: RowVisitor>(
        &self,
        requests: Vec<SelectRequest>,
        limits: QueryLimits,
        visitor: R,
    ) -> Result<R> {
        select::run(self, requests, limits, visitor).await
    }

    fn plan_bulk_update(&self, plan: &UpdatePlan<'_>) -> Result<BulkUpdate> {
        bulk_update::plan(plan)
    }

    fn bind_bulk_update(&self, update: &BulkUpdate, rows: impl RowSource) -> BoundUpdate {
        bulk_update::bind(update, rows)
    }

    fn record_columns(&self, _: &TableInfo) -> String {
        "*".to_owned()
    }

    fn typed_parameter(&self, name: &str, _: &str) -> String {
        format!(":{name}")
    }

    fn key_as_text(&self, key: &str) -> String {
        key.to_owned()
    }

    fn key_bound_as_text(&self, key: &str) -> String {
        // A blob is read as text, but SQLite sorts every blob after any text. So a blob cannot be a bound.
        format!("CASE typeof({key}) WHEN 'blob' THEN NULL ELSE {key} END")
    }

    fn prefers_plain_insert(&self) -> bool {
        false
    }

    /// A SQLite file has only one writer.
    fn max_writers(&self, _: usize) -> usize {
        1
    }
}

/// A handle with a progress handler. Dropping it removes the handler, also in a panic.
struct InterruptibleHandle<'a>(LockedSqliteHandle<'a>);

impl Drop for InterruptibleHandle<'_> {
    fn drop(&mut self) {
        self.0.remove_progress_handler();
    }
}

fn with_rusqlite<T>(
    locked: &mut LockedSqliteHandle<'_>,
    work: impl FnOnce(&mut rusqlite::Connection) -> Result<T>,
) -> Result<T> {
    let handle = locked.as_raw_handle().as_ptr();
    #[expect(unsafe_code, reason = "rusqlite works on a handle of sqlx only this way")]
    // SAFETY: the handle is open. sqlx's worker does not use it while `locked` lives, and `locked` outlives
    // `connection`. `from_handle` does not close the handle.
    let mut connection = unsafe { rusqlite::Connection::from_handle(handle) }.map_err(map_sqlite_error)?;
    work(&mut connection)
}

fn error_text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        error => error.to_string(),
    }
}

fn map_sqlite_error(error: rusqlite::Error) -> Error {
    let extended = error.sqlite_error().and_then(|error| u32::try_from(error.extended_code).ok());
    if let Some(code) = extended.and_then(shortage::sqlite_code) {
        return Error::new(code, error_text(&error));
    }
    let code = error.sqlite_error().map(|error| error.extended_code & 0xff);
    match code {
        Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_IOERR) => {
            Error::new(codes::DATABASE_UNAVAILABLE, error_text(&error))
        }
        Some(ffi::SQLITE_INTERRUPT) => stopped_error(),
        _ => Error::new(codes::DATABASE_ERROR, error_text(&error)),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::TransactionBehavior;

    use super::*;
    use afterload_core::clock::Clock;
    use afterload_core::error::ErrorCode;
    use afterload_core::secret::Secret;

    const TEST_FAILED: ErrorCode = ErrorCode::permanent("test_failed", "The test makes it fail");

    async fn memory() -> SqliteDatabase {
        let options = ConnectionOptions {
            name: "app".into(),
            clock: Clock::system(),
            read_only: false,
            checkpoints: true,
            functions: Vec::new(),
        };
        let folder = tempfile::tempdir().unwrap().keep();
        let url = Secret::new(format!("sqlite://{}", folder.join("x.db").display()));
        let config = ConnectionConfig {
            url,
            schema: None,
            read_only: false,
            checkpoints: Default::default(),
            functions: Vec::new(),
        };
        SqliteDatabase::open(&config, options).await.unwrap()
    }

    #[tokio::test]
    async fn no_transaction_survives_an_error_or_a_panic() {
        let sqlite = memory().await;
        sqlx::query("CREATE TABLE t (a INT)").execute(&sqlite.pool).await.unwrap();
        for panics in [false, true] {
            let done = sqlite.run_blocking(move |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
                transaction.execute("INSERT INTO t VALUES (1)", ()).unwrap();
                match panics {
                    true => panic!("on purpose"),
                    false => Err::<(), _>(Error::new(TEST_FAILED, "on purpose")),
                }
            });
            assert!(done.await.is_err());
        }
        // All four connections of the pool can still write and see no rows.
        for _ in 0..8 {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&sqlite.pool).await.unwrap();
            assert_eq!(count, 0);
            let begun = sqlite.run_blocking(|connection| {
                connection
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .map(|_| ())
                    .map_err(map_sqlite_error)
            });
            begun.await.unwrap();
        }
    }
}
