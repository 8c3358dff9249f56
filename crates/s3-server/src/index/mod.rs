//! The index: one SQLite file that maps keys to blobs.

mod blob_rows;
pub(super) mod buckets;
pub(super) mod events;
pub(super) mod list;
pub(super) mod objects;
pub(super) mod uploads;

use afterload_core::clock::UnixMillis;
use afterload_core::failpoint;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::S3Backend;
use super::blobs::{UnreferencedBlobs, WrittenBlob};
use super::error::S3ServerError;
use super::lock::lock_unpoisoned;

const INDEX_SCHEMA: &str = include_str!("schema.sql");
const INDEX_VERSION: i64 = 1;
/// Idle read connections that are kept for reuse.
const MAX_IDLE_READERS: usize = 8;

/// Connections to the index.
pub(super) struct ObjectIndex {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

/// A write transaction, and the blobs to remove or keep after the commit.
pub(super) struct IndexTx<'a> {
    pub(super) sql: rusqlite::Transaction<'a>,
    /// The time of the transaction.
    pub(super) now: UnixMillis,
    /// Blobs that the index no longer names. They are removed after the commit.
    pub(super) unreferenced: Vec<UnreferencedBlobs>,
    /// Blobs that the index names now. They are removed if the transaction fails before its commit.
    pub(super) referenced: Vec<WrittenBlob>,
    /// Whether the transaction creates an object.
    pub(super) object_created: bool,
}

impl ObjectIndex {
    pub(super) fn open(path: &Path) -> Result<Self, S3ServerError> {
        let mut connection = open_connection(path)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match tx.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? {
            0 => tx.execute_batch(&format!("{INDEX_SCHEMA}; PRAGMA user_version = {INDEX_VERSION}"))?,
            INDEX_VERSION => {}
            newer => return Err(S3ServerError::Other(format!("its format {newer} is newer than this program"))),
        }
        tx.commit()?;
        Ok(Self { path: path.to_owned(), writer: Mutex::new(connection), readers: Mutex::default() })
    }

    fn with_reader<T>(&self, work: impl FnOnce(&Connection) -> Result<T, S3ServerError>) -> Result<T, S3ServerError> {
        let spare = lock_unpoisoned(&self.readers).pop();
        let mut connection = match spare {
            Some(connection) => connection,
            None => open_connection(&self.path)?,
        };
        // All queries of one call read the same snapshot.
        let tx = connection.transaction()?;
        let result = work(&tx);
        tx.finish()?;
        let mut readers = lock_unpoisoned(&self.readers);
        if readers.len() < MAX_IDLE_READERS {
            readers.push(connection);
        }
        result
    }
}

impl S3Backend {
    /// Reads the index on the current thread, and blocks it.
    pub(super) fn read_index_blocking<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, S3ServerError>,
    ) -> Result<T, S3ServerError> {
        self.index.with_reader(work)
    }

    /// Reads the index in a blocking task.
    pub(super) async fn read_index<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, S3ServerError> + Send + 'static,
    ) -> Result<T, S3ServerError> {
        let store = Arc::clone(self);
        run_blocking(move || store.index.with_reader(work)).await
    }

    /// Changes the index in one transaction, then removes blobs. It completes even if its future is dropped.
    pub(super) async fn write_index<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut IndexTx<'_>) -> Result<T, S3ServerError> + Send + 'static,
    ) -> Result<T, S3ServerError> {
        let store = Arc::clone(self);
        run_blocking(move || {
            let (result, garbage) = {
                // A panic rolls its transaction back, so the connection can be reused.
                let mut writer = lock_unpoisoned(&store.index.writer);
                let sql = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let mut tx = IndexTx {
                    sql,
                    now: store.clock.now(),
                    unreferenced: Vec::new(),
                    referenced: Vec::new(),
                    object_created: false,
                };
                let result = work(&mut tx)?;
                let IndexTx { sql, unreferenced: garbage, referenced: kept, object_created: created, .. } = tx;
                failpoint!("store.before_commit");
                let committed = sql.commit();
                failpoint!("store.after_commit");
                // A failed commit may still have reached the disk, so the blobs stay. Garbage collection decides later.
                kept.into_iter().for_each(WrittenBlob::mark_referenced);
                committed?;
                if created {
                    store.changed.notify_one();
                }
                (result, garbage)
            };
            store.blobs.delete_unreferenced(garbage);
            Ok(result)
        })
        .await
    }
}

/// Runs `work` in a blocking task.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, S3ServerError> + Send + 'static,
) -> Result<T, S3ServerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(S3ServerError::Other(format!("a request was lost: {error}"))),
    }
}

fn open_connection(path: &Path) -> Result<Connection, S3ServerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(15))?;
    enable_wal(&connection)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The change to WAL does not wait for other processes that do the same, so it is retried.
#[expect(clippy::disallowed_methods, reason = "only while the store is being opened")]
fn enable_wal(connection: &Connection) -> Result<(), S3ServerError> {
    for _ in 0..500 {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())) {
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::DatabaseBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return Ok(result?),
        }
    }
    Err(S3ServerError::Other("another process keeps the index locked".to_owned()))
}
