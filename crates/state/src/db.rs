//! One handle for both databases, so that each statement is written once.
//!
//! The statements use the SQL that both databases share: `$1` placeholders, `TEXT` and `BIGINT` columns, `ON CONFLICT`
//! and `RETURNING`. Times are milliseconds, booleans are 0 and 1, and JSON is text. Each difference is named where it
//! occurs.

use crate::codes;
use afterload_core::failpoint;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, PgPool, SqlitePool};

use super::clock_offset::ClockOffset;
use super::group_commit::{GroupCommit, TxOutcome};
use super::sql_args::SqlArg;
use super::tx::{BackendTx, DbRow, DbTx, bind_query};
use afterload_core::clock::{Clock, UnixMillis};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// How long a writer waits for the one write connection of SQLite.
const SQLITE_WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The state database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    backend: DbBackend,
    clock: Clock,
    /// The measurement by which the clock is corrected.
    pub(super) clock_offset: Arc<Mutex<Option<ClockOffset>>>,
}

#[derive(Clone)]
enum DbBackend {
    /// One connection does all writes, also those of the queue. Writers wait in the pool, because SQLite's own lock
    /// polls and can starve a writer.
    Sqlite { write: SqlitePool, read: SqlitePool, path: PathBuf, group: GroupCommit },
    Postgres {
        pool: PgPool,
        /// Fetches jobs from the queue.
        fetch_pool: PgPool,
    },
}

impl Db {
    /// Opens `sqlite://PATH` or `postgres://…` and migrates its tables. All times that it stores are those of `clock`.
    ///
    /// # Errors
    /// `database_url_invalid`, `database_incompatible`, `migration_failed`, or an error of the database.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let backend = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let (pool, fetch_pool) = super::postgres::open_pools(url).await?;
            DbBackend::Postgres { pool, fetch_pool }
        } else {
            Self::open_sqlite(url).await?
        };
        let db = Self { backend, clock, clock_offset: Arc::default() };
        match &db.backend {
            DbBackend::Sqlite { write, path, .. } => super::migrate::migrate_sqlite(write, path).await?,
            DbBackend::Postgres { pool, .. } => super::migrate::migrate_postgres(pool).await?,
        }
        Ok(db)
    }

    async fn open_sqlite(url: &str) -> Result<DbBackend> {
        let Some(path) = url.strip_prefix("sqlite://").filter(|path| !path.is_empty() && !path.contains(":memory:"))
        else {
            return Err(Error::new(
                codes::DATABASE_URL_INVALID,
                "the database is neither `sqlite://PATH` nor `postgres://…`",
            ));
        };
        let path = PathBuf::from(path);
        if let Some(folder) = path.parent() {
            afterload_core::secrets::create_private_dir(folder)?;
        }
        let options = SqliteConnectOptions::from_str("sqlite://")?
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        // When the disk is full, SQLite ends a transaction by itself, but the driver still counts it as open. Such a
        // connection can never begin another transaction, so the pool drops it.
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(SQLITE_WRITE_TIMEOUT)
            .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
            .connect_with(options.clone())
            .await?;
        let read = SqlitePoolOptions::new().max_connections(4).connect_with(options.pragma("query_only", "ON")).await?;
        Ok(DbBackend::Sqlite { write, read, path, group: GroupCommit::default() })
    }

    /// The clock of everything that works on this database.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The current time.
    pub fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// The SQL dialect of the database.
    pub fn dialect(&self) -> Dialect {
        match &self.backend {
            DbBackend::Sqlite { .. } => Dialect::Sqlite,
            DbBackend::Postgres { .. } => Dialect::Postgres,
        }
    }

    /// The path of the database file, if it is SQLite.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.backend {
            DbBackend::Sqlite { path, .. } => Some(path),
            DbBackend::Postgres { .. } => None,
        }
    }

    /// The write pool of SQLite, which the queue shares.
    pub fn sqlite_pool(&self) -> Option<&SqlitePool> {
        match &self.backend {
            DbBackend::Sqlite { write, .. } => Some(write),
            DbBackend::Postgres { .. } => None,
        }
    }

    /// The pool of PostgreSQL, for everything but fetches.
    pub fn postgres_pool(&self) -> Option<&PgPool> {
        match &self.backend {
            DbBackend::Sqlite { .. } => None,
            DbBackend::Postgres { pool, .. } => Some(pool),
        }
    }

    /// The pool of PostgreSQL with which the queue fetches jobs.
    ///
    /// Its commits do not wait for the disk. A fetched job has no effect until the claim that follows is synced, and
    /// that sync includes the fetch.
    pub fn fetch_pool(&self) -> Option<&PgPool> {
        match &self.backend {
            DbBackend::Sqlite { .. } => None,
            DbBackend::Postgres { fetch_pool, .. } => Some(fetch_pool),
        }
    }

    /// Begins a transaction that will write.
    pub async fn begin(&self) -> Result<DbTx> {
        let backend = match &self.backend {
            DbBackend::Sqlite { write, .. } => BackendTx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            DbBackend::Postgres { pool, .. } => BackendTx::Postgres(pool.begin().await?),
        };
        Ok(DbTx::new(backend, &self.clock))
    }

    /// Runs `work` in a transaction. A committed result is on disk when this returns.
    ///
    /// On SQLite, waiting writers share one commit, each in a savepoint of its own. After an error the caller may make
    /// the same call again.
    ///
    /// # Errors
    /// The error of `work`, after a rollback, or an error of the database.
    pub async fn with_tx<T>(&self, work: impl AsyncFnOnce(&mut DbTx) -> Result<TxOutcome<T>>) -> Result<T> {
        match &self.backend {
            DbBackend::Sqlite { write, group, .. } => group.with_tx(write, &self.clock, work).await,
            DbBackend::Postgres { pool, .. } => {
                let mut tx = DbTx::new(BackendTx::Postgres(pool.begin().await?), &self.clock);
                match work(&mut tx).await? {
                    TxOutcome::Commit(value) => {
                        failpoint!("write.before_commit");
                        tx.commit().await?;
                        failpoint!("write.after_commit");
                        Ok(value)
                    }
                    TxOutcome::Rollback(value) => Ok(value),
                }
            }
        }
    }

    /// Runs one statement in a transaction and returns how many rows it changed.
    pub async fn execute(&self, sql: &str, args: &[SqlArg]) -> Result<u64> {
        self.with_tx(async |tx| Ok(TxOutcome::Commit(tx.execute(sql, args).await?))).await
    }

    /// Runs a statement that changes rows, and reads what it returns. On PostgreSQL its commit does not wait for the disk;
    /// see [`Self::fetch_pool`]. On SQLite it shares a commit.
    pub(super) async fn change_unsynced<T>(
        &self,
        sql: &str,
        args: &[SqlArg],
        read: impl Fn(&DbRow) -> Result<T>,
    ) -> Result<Vec<T>> {
        match &self.backend {
            DbBackend::Sqlite { write, group, .. } => {
                group
                    .with_tx(write, &self.clock, async |tx| {
                        let rows: Vec<T> = tx.fetch(sql, args).await?.iter().map(&read).collect::<Result<_>>()?;
                        // Nothing has changed, so there is nothing to wait for.
                        Ok(if rows.is_empty() { TxOutcome::Rollback(rows) } else { TxOutcome::Commit(rows) })
                    })
                    .await
            }
            DbBackend::Postgres { fetch_pool, .. } => {
                let rows = bind_query!(sql.to_owned(), args).fetch_all(fetch_pool).await?;
                rows.into_iter().map(|row| read(&DbRow::from(row))).collect()
            }
        }
    }

    /// Reads rows without waiting for writers.
    pub async fn fetch(&self, sql: &str, args: &[SqlArg]) -> Result<Vec<DbRow>> {
        Ok(match &self.backend {
            DbBackend::Sqlite { read, .. } => {
                bind_query!(sql.to_owned(), args).fetch_all(read).await?.into_iter().map(DbRow::from).collect()
            }
            DbBackend::Postgres { pool, .. } => {
                bind_query!(sql.to_owned(), args).fetch_all(pool).await?.into_iter().map(DbRow::from).collect()
            }
        })
    }

    /// Reads the first row, if there is one.
    pub async fn fetch_optional(&self, sql: &str, args: &[SqlArg]) -> Result<Option<DbRow>> {
        Ok(self.fetch(sql, args).await?.into_iter().next())
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<()> {
        self.fetch("SELECT 1", &[]).await.map(drop)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        match &self.backend {
            DbBackend::Sqlite { write, read, group, .. } => {
                group.close().await;
                read.close().await;
                write.close().await;
            }
            DbBackend::Postgres { pool, fetch_pool } => {
                fetch_pool.close().await;
                pool.close().await;
            }
        }
    }
}
