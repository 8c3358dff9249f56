//! SQLite: rusqlite on the very handle of sqlx's pool, because sqlx costs about 8 µs per statement.

use crate::codes;
use afterload_core::failpoint;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{ErrorCode, ToSql, TransactionBehavior, ffi};
use sqlx::sqlite::{LockedSqliteHandle, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, SqlitePool};
use tokio_util::sync::CancellationToken;

use super::bulk_load::{
    ChunkCommit, ChunkCommitFn, KeyConflictAction, LoadOutcome, LoadPlan, RowRefusal, conflict_keys_error,
};
use super::checkpoint::{CheckpointSql, Fence};
use super::{BatchCell, ConnectionOptions, DbColumnType, RowBatch, invalid_url_error, statement, unavailable_error};
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::quote_identifiers;

/// How many operations of its virtual machine SQLite does between two looks at whether it should stop: a millisecond at
/// most.
pub(super) const OPS_PER_STOP_CHECK: i32 = 10_000;

/// A SQLite file.
#[derive(Clone)]
pub struct SqliteDatabase {
    pub(super) pool: SqlitePool,
    pub(super) options: Arc<ConnectionOptions>,
    pub(super) checkpoint_sql: CheckpointSql,
}

impl SqliteDatabase {
    pub(super) async fn open(url: &str, facts: Arc<ConnectionOptions>) -> Result<Self> {
        let options = SqliteConnectOptions::from_str(url).map_err(|_| invalid_url_error(&facts.name))?;
        let options = options.busy_timeout(Duration::from_secs(10));
        let options = match facts.read_only {
            true => options.read_only(true),
            false => options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full),
        };
        // A file does not go away as a server does, so nothing is tried before each use.
        let pool = SqlitePoolOptions::new().max_connections(4).test_before_acquire(false);
        let pool = pool.acquire_timeout(Duration::from_secs(30));
        let pool = pool.connect_with(options).await.map_err(|error| unavailable_error(&facts.name, &error))?;
        Ok(Self { pool, options: facts, checkpoint_sql: CheckpointSql::new(None) })
    }

    pub(super) async fn create_checkpoint_tables(&self) -> Result<()> {
        for sql in self.checkpoint_sql.create_tables() {
            sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Runs blocking work on a connection of the pool. The work must leave no statement and no transaction open;
    /// rusqlite's own types see to that when they are dropped, also in a panic.
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

    /// The same for work that is interrupted when it is asked to stop.
    pub(super) async fn run_interruptible<T: Send + 'static>(
        &self,
        stop: &CancellationToken,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut pooled = tokio::select! {
            pooled = self.pool.acquire() => pooled?,
            () = stop.cancelled() => return Err(statement::stopped_error()),
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

/// A handle that somebody may interrupt for as long as this lives, also through a panic.
pub(super) struct InterruptibleHandle<'a>(pub(super) LockedSqliteHandle<'a>);

impl Drop for InterruptibleHandle<'_> {
    fn drop(&mut self) {
        self.0.remove_progress_handler();
    }
}

pub(super) fn with_rusqlite<T>(
    locked: &mut LockedSqliteHandle<'_>,
    work: impl FnOnce(&mut rusqlite::Connection) -> Result<T>,
) -> Result<T> {
    let handle = locked.as_raw_handle().as_ptr();
    #[expect(unsafe_code, reason = "rusqlite works on a handle of sqlx only this way")]
    // SAFETY: the handle is open, and sqlx's worker keeps off it for as long as `locked` lives, which is longer than
    // `connection`; `from_handle` does not close it.
    let mut connection = unsafe { rusqlite::Connection::from_handle(handle) }.map_err(map_sqlite_error)?;
    work(&mut connection)
}

pub(super) fn panic_error(error: tokio::task::JoinError) -> Error {
    Error::new(codes::INTERNAL_ERROR, format!("the work on a database panicked: {error}"))
}

/// A table made ready to receive rows.
pub struct SqliteLoader {
    database: SqliteDatabase,
    shared: Arc<SqliteLoadJob>,
}

struct SqliteLoadJob {
    plan: LoadPlan,
    checkpoint_sql: CheckpointSql,
    insert: String,
    upsert: Option<String>,
}

impl SqliteLoader {
    pub(super) async fn new(sqlite: SqliteDatabase, plan: LoadPlan) -> Result<Self> {
        let places = (1..=plan.columns.len()).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
        let insert = format!(
            "INSERT INTO {} ({}) VALUES ({places})",
            plan.table.name.to_quoted_sql(),
            quote_identifiers(plan.column_names())
        );
        let upsert = (plan.conflict_action() == Some(KeyConflictAction::Update))
            .then(|| format!("{insert}{}", plan.on_conflict_do_update()));
        let insert = format!("{insert}{}", plan.on_conflict_do_nothing());
        let shared = Arc::new(SqliteLoadJob { plan, checkpoint_sql: sqlite.checkpoint_sql.clone(), insert, upsert });
        let probe = Arc::clone(&shared);
        sqlite.run_blocking(move |connection| probe.check_statements(connection)).await?;
        Ok(Self { database: sqlite, shared })
    }

    pub(super) async fn load<T: AsRef<RowBatch> + Send + Sync + 'static>(
        &self,
        rows: Arc<T>,
        fence: Option<Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let shared = Arc::clone(&self.shared);
        self.database
            .run_blocking(move |connection| shared.load_in_transaction(connection, (*rows).as_ref(), fence, seal))
            .await
    }
}

impl SqliteLoadJob {
    /// Fails early where the statements do not fit the table.
    fn check_statements(&self, connection: &rusqlite::Connection) -> Result<()> {
        let all = std::iter::once(&self.insert).chain(&self.upsert);
        for sql in all {
            connection.prepare(sql).map_err(|error| match error.to_string().contains("ON CONFLICT clause") {
                true => conflict_keys_error(&self.plan),
                false => map_sqlite_error(error),
            })?;
        }
        Ok(())
    }

    fn load_in_transaction(
        &self,
        connection: &mut rusqlite::Connection,
        rows: &RowBatch,
        fence: Option<Fence>,
        seal: ChunkCommitFn,
    ) -> Result<(LoadOutcome, ChunkCommit)> {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(map_sqlite_error)?;
        if let Some(fence) = &fence {
            let mine = transaction
                .execute(&self.checkpoint_sql.check_epoch(), (&fence.checkpoint_key, fence.epoch))
                .map_err(map_sqlite_error)?;
            if mine == 0 {
                return Err(fence.lease_lost_error());
            }
        }
        let outcome = self.load_rows(&transaction, rows)?;
        let sealed = seal(&outcome);
        if let Some(fence) = &fence {
            let now = clock::now_millis();
            let values = (&sealed.cursor, now, sealed.finished.then_some(now), &fence.checkpoint_key);
            transaction.execute(&self.checkpoint_sql.update_cursor(), values).map_err(map_sqlite_error)?;
            let mut insert = transaction.prepare(&self.checkpoint_sql.insert_reject()).map_err(map_sqlite_error)?;
            for reject in &sealed.rejects {
                insert.execute((&fence.checkpoint_key, reject.seq, &reject.line)).map_err(map_sqlite_error)?;
            }
        }
        failpoint!("chunk.before_commit");
        transaction.commit().map_err(map_sqlite_error)?;
        failpoint!("chunk.after_commit");
        Ok((outcome, sealed))
    }

    fn load_rows(&self, transaction: &rusqlite::Transaction<'_>, rows: &RowBatch) -> Result<LoadOutcome> {
        let mut insert = transaction.prepare(&self.insert).map_err(map_sqlite_error)?;
        let mut upsert =
            self.upsert.as_ref().map(|sql| transaction.prepare(sql)).transpose().map_err(map_sqlite_error)?;
        let mut outcome = LoadOutcome::default();
        for row in 0..rows.row_count() {
            match self.load_row(&mut insert, upsert.as_mut(), rows, row) {
                Ok(RowEffect::Inserted) => outcome.inserted += 1,
                Ok(RowEffect::Updated) => outcome.updated += 1,
                Ok(RowEffect::Unchanged) if self.plan.conflict_action() == Some(KeyConflictAction::Reject) => {
                    outcome.refused.push(self.plan.conflict_refusal(row));
                }
                Ok(RowEffect::Unchanged) => outcome.skipped += 1,
                // A failed statement undoes itself only, unless the schema asks for `ROLLBACK`.
                Err(error) if is_row_error(&error) && !transaction.is_autocommit() => {
                    outcome.refused.push(RowRefusal {
                        row,
                        code: codes::DATABASE_REFUSED,
                        message: error_text(&error),
                    });
                }
                Err(error) => return Err(map_sqlite_error(error)),
            }
        }
        Ok(outcome)
    }

    /// Inserts a row. An upsert tries a plain insert first: only so the counts tell new rows from old ones.
    fn load_row(
        &self,
        insert: &mut rusqlite::Statement<'_>,
        upsert: Option<&mut rusqlite::Statement<'_>>,
        rows: &RowBatch,
        row: usize,
    ) -> rusqlite::Result<RowEffect> {
        if self.execute_row(insert, rows, row)? > 0 {
            return Ok(RowEffect::Inserted);
        }
        let touched = upsert.map_or(Ok(0), |upsert| self.execute_row(upsert, rows, row))?;
        Ok(if touched > 0 { RowEffect::Updated } else { RowEffect::Unchanged })
    }

    fn execute_row(
        &self,
        statement: &mut rusqlite::Statement<'_>,
        rows: &RowBatch,
        row: usize,
    ) -> rusqlite::Result<usize> {
        for (index, cell) in rows.row_cells(row).iter().enumerate() {
            let text = self.plan.columns[index].0.column_type == DbColumnType::Text;
            statement.raw_bind_parameter(index + 1, BoundCell { rows, cell: *cell, as_text: text })?;
        }
        statement.raw_execute()
    }
}

enum RowEffect {
    Inserted,
    Updated,
    Unchanged,
}

/// A cell on its way into a statement. Decimals go as text: the column's affinity makes the best number of them.
struct BoundCell<'a> {
    rows: &'a RowBatch,
    cell: BatchCell,
    as_text: bool,
}

impl ToSql for BoundCell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.cell {
            BatchCell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            BatchCell::Int(value) => ToSqlOutput::Owned(Value::Integer(value)),
            BatchCell::Bool(value) if !self.as_text => ToSqlOutput::Owned(Value::Integer(value.into())),
            BatchCell::Text { start, len } => {
                ToSqlOutput::Borrowed(ValueRef::Text(&self.rows.text_buffer[start as usize..(start + len) as usize]))
            }
            cell => {
                let mut text = String::with_capacity(32);
                self.rows.render_cell(cell, &mut text);
                ToSqlOutput::Owned(Value::Text(text))
            }
        })
    }
}

/// Whether it was the row that the database did not like.
fn is_row_error(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig))
}

fn error_text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        error => error.to_string(),
    }
}

pub(super) fn map_sqlite_error(error: rusqlite::Error) -> Error {
    let code = error.sqlite_error().map(|error| error.extended_code & 0xff);
    match code {
        Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_IOERR | ffi::SQLITE_FULL) => {
            Error::new(codes::DATABASE_UNAVAILABLE, error_text(&error))
        }
        Some(ffi::SQLITE_INTERRUPT) => statement::stopped_error(),
        _ => Error::new(codes::DATABASE_ERROR, error_text(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::error::ErrorCode;

    const TEST_FAILED: ErrorCode = ErrorCode::permanent("test_failed", "The test makes it fail");

    async fn memory() -> SqliteDatabase {
        let facts = Arc::new(ConnectionOptions { name: "app".into(), read_only: false, checkpoints: true });
        let folder = tempfile::tempdir().unwrap().keep();
        SqliteDatabase::open(&format!("sqlite://{}", folder.join("x.db").display()), facts).await.unwrap()
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
        // All four connections of the pool can still write, and see nothing.
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
