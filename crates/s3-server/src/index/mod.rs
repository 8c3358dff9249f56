//! The index: one SQLite file that says which body belongs to which key.

pub(super) mod buckets;
pub(super) mod events;
pub(super) mod list;
pub(super) mod objects;
pub(super) mod uploads;

use afterload_core::failpoint;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::Store;
use super::bodies::{Garbage, Sealed};
use super::fault::Fault;

const SCHEMA: &str = include_str!("schema.sql");
const VERSION: i64 = 1;
/// Connections for reading that are kept for the next reader.
const KEPT: usize = 8;

/// Connections to the index.
pub(super) struct Index {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

/// A transaction that writes, and what happens to bodies when it has been committed.
pub(super) struct Tx<'a> {
    pub(super) sql: rusqlite::Transaction<'a>,
    /// Bodies that nothing names any more; removed after the commit.
    pub(super) garbage: Vec<Garbage>,
    /// Bodies that now have a name; removed if there is no commit.
    pub(super) kept: Vec<Sealed>,
    /// Whether an object has been created.
    pub(super) created: bool,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let mut connection = connect(path)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match tx.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? {
            0 => tx.execute_batch(&format!("{SCHEMA}; PRAGMA user_version = {VERSION}"))?,
            VERSION => {}
            newer => return Err(Fault::Other(format!("its format {newer} is newer than this program"))),
        }
        tx.commit()?;
        Ok(Self { path: path.to_owned(), writer: Mutex::new(connection), readers: Mutex::default() })
    }

    fn with_reader<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let spare = lock(&self.readers).pop();
        let mut connection = match spare {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        // One snapshot for all queries of the work.
        let tx = connection.transaction()?;
        let result = work(&tx);
        tx.finish()?;
        let mut readers = lock(&self.readers);
        if readers.len() < KEPT {
            readers.push(connection);
        }
        result
    }
}

impl Store {
    /// Reads the index; blocks.
    pub(super) fn read_now<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        self.index.with_reader(work)
    }

    /// Reads the index.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let store = Arc::clone(self);
        blocking(move || store.index.with_reader(work)).await
    }

    /// Changes the index in one transaction, and then the bodies. It runs to its end even if nobody waits any more.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let store = Arc::clone(self);
        blocking(move || {
            let (result, garbage) = {
                let mut writer = lock(&store.index.writer);
                let sql = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let mut tx = Tx { sql, garbage: Vec::new(), kept: Vec::new(), created: false };
                let result = work(&mut tx)?;
                let Tx { sql, garbage, kept, created } = tx;
                failpoint!("store.before_commit");
                let committed = sql.commit();
                failpoint!("store.after_commit");
                // Also after a failed commit, because it may have reached the disk; the sweep finds out.
                kept.into_iter().for_each(Sealed::keep);
                committed?;
                if created {
                    store.news.notify_one();
                }
                (result, garbage)
            };
            store.bodies.discard(garbage);
            Ok(result)
        })
        .await
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Fault::Other(format!("a request was lost: {error}"))),
    }
}

/// A connection left behind by a panic has rolled back and is as good as new.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(15))?;
    to_wal(&connection)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The change to WAL does not wait for other processes that do the same, so it is tried again.
#[expect(clippy::disallowed_methods, reason = "only while the store is being opened")]
fn to_wal(connection: &Connection) -> Result<(), Fault> {
    for _ in 0..500 {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())) {
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::DatabaseBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return Ok(result?),
        }
    }
    Err(Fault::Other("another process keeps the index locked".to_owned()))
}
