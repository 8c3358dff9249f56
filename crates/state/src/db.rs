//! One handle for both databases, so that every statement is written once.
//!
//! The common subset: `$1` placeholders, `TEXT` and `BIGINT` columns (times in milliseconds, booleans as 0 and 1,
//! JSON as text), `ON CONFLICT`, `RETURNING`. What differs is named where it occurs.

use crate::codes;
use afterload_core::failpoint;
use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, PgPool, Postgres, Row as _, Sqlite, SqlitePool, Transaction};

use super::group_commit::{GroupCommit, TxOutcome};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// How long a writer waits for its turn on SQLite's one connection.
const SQLITE_WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The service's database. Cheap to clone.
#[derive(Clone)]
pub struct Db(DbBackend);

#[derive(Clone)]
enum DbBackend {
    /// One connection writes, ours and the queue's: writers wait their turn in the pool rather than at SQLite's lock,
    /// which polls and starves.
    Sqlite { write: SqlitePool, read: SqlitePool, path: PathBuf, group: GroupCommit },
    Postgres {
        pool: PgPool,
        /// Takes jobs out of the queue.
        fetch_pool: PgPool,
    },
}

/// A transaction. Nothing outside of the database may be awaited while it is open.
pub enum DbTx {
    /// Begun `IMMEDIATE`: it holds the only write lock.
    Sqlite(Transaction<'static, Sqlite>),
    /// Read committed.
    Postgres(Transaction<'static, Postgres>),
}

/// A value for a placeholder.
#[derive(Clone, Debug)]
pub enum SqlArg {
    /// `TEXT`
    Text(Option<String>),
    /// `BIGINT`
    Int(Option<i64>),
}

macro_rules! impl_sql_arg_from {
    ($($type:ty => |$value:ident| $arg:expr),* $(,)?) => {$(
        impl From<$type> for SqlArg {
            fn from($value: $type) -> Self {
                $arg
            }
        }
    )*};
}
impl_sql_arg_from! {
    &str => |value| SqlArg::Text(Some(value.to_owned())),
    &String => |value| SqlArg::Text(Some(value.clone())),
    String => |value| SqlArg::Text(Some(value)),
    Option<String> => |value| SqlArg::Text(value),
    Option<&str> => |value| SqlArg::Text(value.map(str::to_owned)),
    &serde_json::Value => |value| SqlArg::Text(Some(value.to_string())),
    i64 => |value| SqlArg::Int(Some(value)),
    u32 => |value| SqlArg::Int(Some(value.into())),
    bool => |value| SqlArg::Int(Some(value.into())),
    Option<i64> => |value| SqlArg::Int(value),
}

/// The values of a statement's placeholders, in their order.
macro_rules! args {
    ($($value:expr),* $(,)?) => { [$($crate::SqlArg::from($value)),*] };
}
pub(crate) use args;

/// A row of either database.
pub struct DbRow {
    cells: BackendRow,
    /// What stands before the names of the columns.
    prefix: &'static str,
}

enum BackendRow {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! read_column {
    ($row:expr, $name:expr) => {{
        let name = match $row.prefix {
            "" => Cow::Borrowed($name),
            prefix => Cow::Owned(format!("{prefix}{}", $name)),
        };
        match &$row.cells {
            BackendRow::Sqlite(row) => row.try_get(&*name),
            BackendRow::Postgres(row) => row.try_get(&*name),
        }
        .map_err(Error::from)
    }};
}

impl From<SqliteRow> for DbRow {
    fn from(row: SqliteRow) -> Self {
        Self { cells: BackendRow::Sqlite(row), prefix: "" }
    }
}

impl From<PgRow> for DbRow {
    fn from(row: PgRow) -> Self {
        Self { cells: BackendRow::Postgres(row), prefix: "" }
    }
}

impl DbRow {
    /// The part of a joined row whose columns have this before their names.
    pub(super) fn with_prefix(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// A `TEXT` that is not null.
    ///
    /// # Errors
    /// `database_error` for a null or another type.
    pub fn get_text(&self, name: &str) -> Result<String> {
        read_column!(self, name)
    }

    /// A `TEXT`.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_opt_text(&self, name: &str) -> Result<Option<String>> {
        read_column!(self, name)
    }

    /// A `BIGINT` that is not null.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_int(&self, name: &str) -> Result<i64> {
        read_column!(self, name)
    }

    /// A `BIGINT`.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_opt_int(&self, name: &str) -> Result<Option<i64>> {
        read_column!(self, name)
    }

    /// A small number that is not null.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_u32(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.get_int(name)?).unwrap_or(u32::MAX))
    }

    /// JSON in a `TEXT`.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.get_opt_text(name)? else { return Ok(None) };
        let value = serde_json::from_str(&text);
        value
            .map(Some)
            .map_err(|error| Error::new(codes::DATABASE_ERROR, format!("column `{name}` holds no valid JSON: {error}")))
    }
}

macro_rules! bind_query {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql));
        for arg in $args {
            query = match arg {
                SqlArg::Text(value) => query.bind(value.clone()),
                SqlArg::Int(value) => query.bind(*value),
            };
        }
        query
    }};
}

impl DbTx {
    /// Runs a statement and says how many rows it touched.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn execute(&mut self, sql: &str, args: &[SqlArg]) -> Result<u64> {
        Ok(match self {
            DbTx::Sqlite(tx) => bind_query!(sql.to_owned(), args).execute(&mut **tx).await?.rows_affected(),
            DbTx::Postgres(tx) => bind_query!(sql.to_owned(), args).execute(&mut **tx).await?.rows_affected(),
        })
    }

    /// Runs a statement and gives its rows.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fetch(&mut self, sql: &str, args: &[SqlArg]) -> Result<Vec<DbRow>> {
        Ok(match self {
            DbTx::Sqlite(tx) => {
                bind_query!(sql.to_owned(), args).fetch_all(&mut **tx).await?.into_iter().map(DbRow::from).collect()
            }
            DbTx::Postgres(tx) => {
                bind_query!(sql.to_owned(), args).fetch_all(&mut **tx).await?.into_iter().map(DbRow::from).collect()
            }
        })
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match self {
            DbTx::Sqlite(..) => Dialect::Sqlite,
            DbTx::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Makes it durable: on disk, also on SQLite.
    ///
    /// # Errors
    /// Those of the database; the outcome may then be unknown.
    pub async fn commit(self) -> Result<()> {
        match self {
            DbTx::Sqlite(tx) => tx.commit().await?,
            DbTx::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

impl Db {
    /// Opens `sqlite://PATH` or `postgres://…` and brings its tables up to date.
    ///
    /// # Errors
    /// `database_url_invalid`, `database_extension_missing`, or those of the database.
    pub async fn open(url: &str) -> Result<Self> {
        let db = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let (pool, takers) = super::postgres::open_pools(url).await?;
            Self(DbBackend::Postgres { pool, fetch_pool: takers })
        } else {
            Self::open_sqlite(url).await?
        };
        super::migrate::run_migrations(&db).await?;
        Ok(db)
    }

    async fn open_sqlite(url: &str) -> Result<Self> {
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
        // When the disk is full SQLite ends a transaction by itself, and the driver still believes in it: such a connection
        // could never begin another one.
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(SQLITE_WRITE_TIMEOUT)
            .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
            .connect_with(options.clone())
            .await?;
        let read = SqlitePoolOptions::new().max_connections(4).connect_with(options.pragma("query_only", "ON")).await?;
        Ok(Self(DbBackend::Sqlite { write, read, path, group: GroupCommit::default() }))
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match &self.0 {
            DbBackend::Sqlite { .. } => Dialect::Sqlite,
            DbBackend::Postgres { .. } => Dialect::Postgres,
        }
    }

    /// The file, if it is SQLite.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.0 {
            DbBackend::Sqlite { path, .. } => Some(path),
            DbBackend::Postgres { .. } => None,
        }
    }

    /// The pool of SQLite that writes, which the queue shares.
    pub fn sqlite_pool(&self) -> Option<&SqlitePool> {
        match &self.0 {
            DbBackend::Sqlite { write, .. } => Some(write),
            DbBackend::Postgres { .. } => None,
        }
    }

    /// The pool of PostgreSQL.
    pub fn postgres_pool(&self) -> Option<&PgPool> {
        match &self.0 {
            DbBackend::Sqlite { .. } => None,
            DbBackend::Postgres { pool, .. } => Some(pool),
        }
    }

    /// The pool of PostgreSQL with which the queue takes jobs. Its commits do not wait for the disk: taking a job means
    /// nothing until the claim that follows is on it, and with that what came before.
    pub fn fetch_pool(&self) -> Option<&PgPool> {
        match &self.0 {
            DbBackend::Sqlite { .. } => None,
            DbBackend::Postgres { fetch_pool: takers, .. } => Some(takers),
        }
    }

    /// Begins a transaction that will write.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin(&self) -> Result<DbTx> {
        Ok(match &self.0 {
            DbBackend::Sqlite { write, .. } => DbTx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            DbBackend::Postgres { pool, .. } => DbTx::Postgres(pool.begin().await?),
        })
    }

    /// Does work in a transaction; what it keeps is on disk when this returns. On SQLite, those who wait for their turn
    /// share a commit, each undone without the others. After an error the same call may be made again.
    ///
    /// # Errors
    /// Those of the work, then nothing of it is kept, and those of the database.
    pub async fn with_tx<T>(&self, work: impl AsyncFnOnce(&mut DbTx) -> Result<TxOutcome<T>>) -> Result<T> {
        match &self.0 {
            DbBackend::Sqlite { write, group, .. } => group.with_tx(write, work).await,
            DbBackend::Postgres { pool, .. } => {
                let mut tx = DbTx::Postgres(pool.begin().await?);
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

    /// Runs one statement in a transaction and says how many rows it touched.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn execute(&self, sql: &str, args: &[SqlArg]) -> Result<u64> {
        self.with_tx(async |tx| Ok(TxOutcome::Commit(tx.execute(sql, args).await?))).await
    }

    /// Reads rows, beside all writers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fetch(&self, sql: &str, args: &[SqlArg]) -> Result<Vec<DbRow>> {
        Ok(match &self.0 {
            DbBackend::Sqlite { read, .. } => {
                bind_query!(sql.to_owned(), args).fetch_all(read).await?.into_iter().map(DbRow::from).collect()
            }
            DbBackend::Postgres { pool, .. } => {
                bind_query!(sql.to_owned(), args).fetch_all(pool).await?.into_iter().map(DbRow::from).collect()
            }
        })
    }

    /// Reads the first row, if there is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fetch_optional(&self, sql: &str, args: &[SqlArg]) -> Result<Option<DbRow>> {
        Ok(self.fetch(sql, args).await?.into_iter().next())
    }

    /// Ends all connections.
    pub async fn close(&self) {
        match &self.0 {
            DbBackend::Sqlite { write, read, group, .. } => {
                group.close().await;
                read.close().await;
                write.close().await;
            }
            DbBackend::Postgres { pool, fetch_pool: takers } => {
                takers.close().await;
                pool.close().await;
            }
        }
    }
}
