//! SQLite: rusqlite on the very handle of sqlx's pool, because sqlx costs about 8 µs per statement.

use afterload_core::failpoint;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{ErrorCode, ToSql, TransactionBehavior, ffi};
use sqlx::sqlite::{LockedSqliteHandle, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, SqlitePool};
use tokio_util::sync::CancellationToken;

use super::bulk::{Action, Outcome, Plan, Refusal, Seal, Sealed, not_unique};
use super::checkpoints::{Fence, Statements};
use super::{Batch, Cell, Facts, Kind, invalid, statement, unavailable};
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::table_name::list;

/// How many operations of its virtual machine SQLite does between two looks at whether it should stop: a millisecond at
/// most.
pub(super) const OPERATIONS: i32 = 10_000;

/// A SQLite file.
#[derive(Clone)]
pub struct Sqlite {
    pub(super) pool: SqlitePool,
    pub(super) facts: Arc<Facts>,
    pub(super) statements: Statements,
}

impl Sqlite {
    pub(super) async fn open(url: &str, facts: Arc<Facts>) -> Result<Self> {
        let options = SqliteConnectOptions::from_str(url).map_err(|_| invalid(&facts.name))?;
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
        let pool = pool.connect_with(options).await.map_err(|error| unavailable(&facts.name, &error))?;
        Ok(Self { pool, facts, statements: Statements::new(None) })
    }

    pub(super) async fn create_checkpoints(&self) -> Result<()> {
        for sql in self.statements.create() {
            sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Runs blocking work on a connection of the pool. The work must leave no statement and no transaction open;
    /// rusqlite's own types see to that when they are dropped, also in a panic.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut pooled = self.pool.acquire().await?;
        let done = tokio::task::spawn_blocking(move || {
            let mut locked = futures::executor::block_on(pooled.lock_handle())?;
            on_handle(&mut locked, work)
        });
        done.await.map_err(panicked)?
    }

    /// The same for work that is interrupted when it is asked to stop.
    pub(super) async fn stoppable<T: Send + 'static>(
        &self,
        stop: &CancellationToken,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut pooled = tokio::select! {
            pooled = self.pool.acquire() => pooled?,
            () = stop.cancelled() => return Err(statement::stopped()),
        };
        let stop = stop.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut watched = Watched(futures::executor::block_on(pooled.lock_handle())?);
            watched.0.set_progress_handler(OPERATIONS, move || !stop.is_cancelled());
            on_handle(&mut watched.0, work)
        });
        done.await.map_err(panicked)?
    }
}

/// A handle that somebody may interrupt for as long as this lives, also through a panic.
pub(super) struct Watched<'a>(pub(super) LockedSqliteHandle<'a>);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.remove_progress_handler();
    }
}

pub(super) fn on_handle<T>(
    locked: &mut LockedSqliteHandle<'_>,
    work: impl FnOnce(&mut rusqlite::Connection) -> Result<T>,
) -> Result<T> {
    let handle = locked.as_raw_handle().as_ptr();
    #[expect(unsafe_code, reason = "rusqlite works on a handle of sqlx only this way")]
    // SAFETY: the handle is open, and sqlx's worker keeps off it for as long as `locked` lives, which is longer than
    // `connection`; `from_handle` does not close it.
    let mut connection = unsafe { rusqlite::Connection::from_handle(handle) }.map_err(failed)?;
    work(&mut connection)
}

pub(super) fn panicked(error: tokio::task::JoinError) -> Error {
    Error::permanent("internal_error", format!("the work on a database panicked: {error}"))
}

/// A table made ready to receive rows.
pub struct Loader {
    sqlite: Sqlite,
    shared: Arc<Shared>,
}

struct Shared {
    plan: Plan,
    statements: Statements,
    insert: String,
    upsert: Option<String>,
}

impl Loader {
    pub(super) async fn new(sqlite: Sqlite, plan: Plan) -> Result<Self> {
        let places = (1..=plan.columns.len()).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
        let insert = format!("INSERT INTO {} ({}) VALUES ({places})", plan.table.name.quoted(), list(plan.names()));
        let upsert = (plan.action() == Some(Action::Update)).then(|| format!("{insert}{}", plan.do_update()));
        let insert = format!("{insert}{}", plan.do_nothing());
        let shared = Arc::new(Shared { plan, statements: sqlite.statements.clone(), insert, upsert });
        let probe = Arc::clone(&shared);
        sqlite.blocking(move |connection| probe.prepare(connection)).await?;
        Ok(Self { sqlite, shared })
    }

    pub(super) async fn load<T: AsRef<Batch> + Send + Sync + 'static>(
        &self,
        rows: Arc<T>,
        fence: Option<Fence>,
        seal: Seal,
    ) -> Result<(Outcome, Sealed)> {
        let shared = Arc::clone(&self.shared);
        self.sqlite.blocking(move |connection| shared.load(connection, (*rows).as_ref(), fence, seal)).await
    }
}

impl Shared {
    /// Fails early where the statements do not fit the table.
    fn prepare(&self, connection: &rusqlite::Connection) -> Result<()> {
        let all = std::iter::once(&self.insert).chain(&self.upsert);
        for sql in all {
            connection.prepare(sql).map_err(|error| match error.to_string().contains("ON CONFLICT clause") {
                true => not_unique(&self.plan),
                false => failed(error),
            })?;
        }
        Ok(())
    }

    fn load(
        &self,
        connection: &mut rusqlite::Connection,
        rows: &Batch,
        fence: Option<Fence>,
        seal: Seal,
    ) -> Result<(Outcome, Sealed)> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        if let Some(fence) = &fence {
            let mine = transaction.execute(&self.statements.fence(), (&fence.key, fence.epoch)).map_err(failed)?;
            if mine == 0 {
                return Err(fence.lost());
            }
        }
        let outcome = self.rows(&transaction, rows)?;
        let sealed = seal(&outcome);
        if let Some(fence) = &fence {
            let now = clock::now();
            let values = (&sealed.cursor, now, sealed.finished.then_some(now), &fence.key);
            transaction.execute(&self.statements.advance(), values).map_err(failed)?;
            let mut insert = transaction.prepare(&self.statements.reject()).map_err(failed)?;
            for reject in &sealed.rejects {
                insert.execute((&fence.key, reject.seq, &reject.line)).map_err(failed)?;
            }
        }
        failpoint!("chunk.before_commit");
        transaction.commit().map_err(failed)?;
        failpoint!("chunk.after_commit");
        Ok((outcome, sealed))
    }

    fn rows(&self, transaction: &rusqlite::Transaction<'_>, rows: &Batch) -> Result<Outcome> {
        let mut insert = transaction.prepare(&self.insert).map_err(failed)?;
        let mut upsert = self.upsert.as_ref().map(|sql| transaction.prepare(sql)).transpose().map_err(failed)?;
        let mut outcome = Outcome::default();
        for row in 0..rows.rows() {
            match self.row(&mut insert, upsert.as_mut(), rows, row) {
                Ok(Done::Inserted) => outcome.inserted += 1,
                Ok(Done::Updated) => outcome.updated += 1,
                Ok(Done::Nothing) if self.plan.action() == Some(Action::Reject) => {
                    outcome.refused.push(self.plan.conflict_refusal(row));
                }
                Ok(Done::Nothing) => outcome.skipped += 1,
                // A failed statement undoes itself only, unless the schema asks for `ROLLBACK`.
                Err(error) if refused(&error) && !transaction.is_autocommit() => {
                    outcome.refused.push(Refusal { row, code: "database_refused", message: message(&error) });
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(outcome)
    }

    /// Inserts a row. An upsert tries a plain insert first: only so the counts tell new rows from old ones.
    fn row(
        &self,
        insert: &mut rusqlite::Statement<'_>,
        upsert: Option<&mut rusqlite::Statement<'_>>,
        rows: &Batch,
        row: usize,
    ) -> rusqlite::Result<Done> {
        if self.execute(insert, rows, row)? > 0 {
            return Ok(Done::Inserted);
        }
        let touched = upsert.map_or(Ok(0), |upsert| self.execute(upsert, rows, row))?;
        Ok(if touched > 0 { Done::Updated } else { Done::Nothing })
    }

    fn execute(&self, statement: &mut rusqlite::Statement<'_>, rows: &Batch, row: usize) -> rusqlite::Result<usize> {
        for (index, cell) in rows.row(row).iter().enumerate() {
            let text = self.plan.columns[index].0.kind == Kind::Text;
            statement.raw_bind_parameter(index + 1, Bound { rows, cell: *cell, text })?;
        }
        statement.raw_execute()
    }
}

enum Done {
    Inserted,
    Updated,
    Nothing,
}

/// A cell on its way into a statement. Decimals go as text: the column's affinity makes the best number of them.
struct Bound<'a> {
    rows: &'a Batch,
    cell: Cell,
    text: bool,
}

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.cell {
            Cell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Cell::Int(value) => ToSqlOutput::Owned(Value::Integer(value)),
            Cell::Bool(value) if !self.text => ToSqlOutput::Owned(Value::Integer(value.into())),
            Cell::Text { start, len } => {
                ToSqlOutput::Borrowed(ValueRef::Text(&self.rows.text[start as usize..(start + len) as usize]))
            }
            cell => {
                let mut text = String::with_capacity(32);
                self.rows.render(cell, &mut text);
                ToSqlOutput::Owned(Value::Text(text))
            }
        })
    }
}

/// Whether it was the row that the database did not like.
fn refused(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig))
}

fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        error => error.to_string(),
    }
}

pub(super) fn failed(error: rusqlite::Error) -> Error {
    let code = error.sqlite_error().map(|error| error.extended_code & 0xff);
    match code {
        Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_IOERR | ffi::SQLITE_FULL) => {
            Error::transient("database_unavailable", message(&error))
        }
        Some(ffi::SQLITE_INTERRUPT) => statement::stopped(),
        _ => Error::permanent("database_error", message(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn memory() -> Sqlite {
        let facts = Arc::new(Facts { name: "app".into(), read_only: false, checkpoints: true });
        let folder = tempfile::tempdir().unwrap().keep();
        Sqlite::open(&format!("sqlite://{}", folder.join("x.db").display()), facts).await.unwrap()
    }

    #[tokio::test]
    async fn no_transaction_survives_an_error_or_a_panic() {
        let sqlite = memory().await;
        sqlx::query("CREATE TABLE t (a INT)").execute(&sqlite.pool).await.unwrap();
        for panics in [false, true] {
            let done = sqlite.blocking(move |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
                transaction.execute("INSERT INTO t VALUES (1)", ()).unwrap();
                match panics {
                    true => panic!("on purpose"),
                    false => Err::<(), _>(Error::permanent("test", "on purpose")),
                }
            });
            assert!(done.await.is_err());
        }
        // All four connections of the pool can still write, and see nothing.
        for _ in 0..8 {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&sqlite.pool).await.unwrap();
            assert_eq!(count, 0);
            let begun = sqlite.blocking(|connection| {
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map(|_| ()).map_err(failed)
            });
            begun.await.unwrap();
        }
    }
}
