//! One handle for both databases, so that every statement is written once.
//!
//! The common subset: `$1` placeholders, `TEXT` and `BIGINT` columns (times in milliseconds, booleans as 0 and 1,
//! JSON as text), `ON CONFLICT`, `RETURNING`. What differs is named where it occurs.

use afterload_core::failpoint;
use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, PgPool, Postgres, Row as _, Sqlite, SqlitePool, Transaction};

use super::group::{Group, Verdict};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// How long a writer waits for its turn on SQLite's one connection.
const TURN: Duration = Duration::from_secs(60);

/// The service's database. Cheap to clone.
#[derive(Clone)]
pub struct Db(Inner);

#[derive(Clone)]
enum Inner {
    /// One connection writes, ours and the queue's: writers wait their turn in the pool rather than at SQLite's lock,
    /// which polls and starves.
    Sqlite { write: SqlitePool, read: SqlitePool, path: PathBuf, group: Group },
    Postgres {
        pool: PgPool,
        /// Takes jobs out of the queue.
        takers: PgPool,
    },
}

/// A transaction. Nothing outside of the database may be awaited while it is open.
pub enum Tx {
    /// Begun `IMMEDIATE`: it holds the only write lock.
    Sqlite(Transaction<'static, Sqlite>),
    /// Read committed.
    Postgres(Transaction<'static, Postgres>),
}

/// A value for a placeholder.
#[derive(Clone, Debug)]
pub enum Arg {
    /// `TEXT`
    Text(Option<String>),
    /// `BIGINT`
    Int(Option<i64>),
}

macro_rules! arg_from {
    ($($type:ty => |$value:ident| $arg:expr),* $(,)?) => {$(
        impl From<$type> for Arg {
            fn from($value: $type) -> Self {
                $arg
            }
        }
    )*};
}
arg_from! {
    &str => |value| Arg::Text(Some(value.to_owned())),
    &String => |value| Arg::Text(Some(value.clone())),
    String => |value| Arg::Text(Some(value)),
    Option<String> => |value| Arg::Text(value),
    Option<&str> => |value| Arg::Text(value.map(str::to_owned)),
    &serde_json::Value => |value| Arg::Text(Some(value.to_string())),
    i64 => |value| Arg::Int(Some(value)),
    u32 => |value| Arg::Int(Some(value.into())),
    bool => |value| Arg::Int(Some(value.into())),
    Option<i64> => |value| Arg::Int(value),
}

/// The values of a statement's placeholders, in their order.
macro_rules! args {
    ($($value:expr),* $(,)?) => { [$($crate::Arg::from($value)),*] };
}
pub(crate) use args;

/// A row of either database.
pub struct Row {
    cells: Cells,
    /// What stands before the names of the columns.
    prefix: &'static str,
}

enum Cells {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($row:expr, $name:expr) => {{
        let name = match $row.prefix {
            "" => Cow::Borrowed($name),
            prefix => Cow::Owned(format!("{prefix}{}", $name)),
        };
        match &$row.cells {
            Cells::Sqlite(row) => row.try_get(&*name),
            Cells::Postgres(row) => row.try_get(&*name),
        }
        .map_err(Error::from)
    }};
}

impl From<SqliteRow> for Row {
    fn from(row: SqliteRow) -> Self {
        Self { cells: Cells::Sqlite(row), prefix: "" }
    }
}

impl From<PgRow> for Row {
    fn from(row: PgRow) -> Self {
        Self { cells: Cells::Postgres(row), prefix: "" }
    }
}

impl Row {
    /// The part of a joined row whose columns have this before their names.
    pub(super) fn part(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// A `TEXT` that is not null.
    ///
    /// # Errors
    /// `database_error` for a null or another type.
    pub fn text(&self, name: &str) -> Result<String> {
        column!(self, name)
    }

    /// A `TEXT`.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn opt_text(&self, name: &str) -> Result<Option<String>> {
        column!(self, name)
    }

    /// A `BIGINT` that is not null.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn int(&self, name: &str) -> Result<i64> {
        column!(self, name)
    }

    /// A `BIGINT`.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn opt_int(&self, name: &str) -> Result<Option<i64>> {
        column!(self, name)
    }

    /// A small number that is not null.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn count(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.int(name)?).unwrap_or(u32::MAX))
    }

    /// JSON in a `TEXT`.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.opt_text(name)? else { return Ok(None) };
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|error| {
            Error::permanent("database_error", format!("column `{name}` holds no valid JSON: {error}"))
        })
    }
}

macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql));
        for arg in $args {
            query = match arg {
                Arg::Text(value) => query.bind(value.clone()),
                Arg::Int(value) => query.bind(*value),
            };
        }
        query
    }};
}

impl Tx {
    /// Runs a statement and says how many rows it touched.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn execute(&mut self, sql: &str, args: &[Arg]) -> Result<u64> {
        Ok(match self {
            Tx::Sqlite(tx) => bound!(sql.to_owned(), args).execute(&mut **tx).await?.rows_affected(),
            Tx::Postgres(tx) => bound!(sql.to_owned(), args).execute(&mut **tx).await?.rows_affected(),
        })
    }

    /// Runs a statement and gives its rows.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fetch(&mut self, sql: &str, args: &[Arg]) -> Result<Vec<Row>> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                bound!(sql.to_owned(), args).fetch_all(&mut **tx).await?.into_iter().map(Row::from).collect()
            }
            Tx::Postgres(tx) => {
                bound!(sql.to_owned(), args).fetch_all(&mut **tx).await?.into_iter().map(Row::from).collect()
            }
        })
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match self {
            Tx::Sqlite(..) => Dialect::Sqlite,
            Tx::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Makes it durable: on disk, also on SQLite.
    ///
    /// # Errors
    /// Those of the database; the outcome may then be unknown.
    pub async fn commit(self) -> Result<()> {
        match self {
            Tx::Sqlite(tx) => tx.commit().await?,
            Tx::Postgres(tx) => tx.commit().await?,
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
            let (pool, takers) = super::postgres::open(url).await?;
            Self(Inner::Postgres { pool, takers })
        } else {
            Self::open_sqlite(url).await?
        };
        super::migrate::run(&db).await?;
        Ok(db)
    }

    async fn open_sqlite(url: &str) -> Result<Self> {
        let Some(path) = url.strip_prefix("sqlite://").filter(|path| !path.is_empty() && !path.contains(":memory:"))
        else {
            return Err(Error::permanent(
                "database_url_invalid",
                "the database is neither `sqlite://PATH` nor `postgres://…`",
            ));
        };
        let path = PathBuf::from(path);
        if let Some(folder) = path.parent() {
            afterload_core::secrets::make_folder(folder)?;
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
            .acquire_timeout(TURN)
            .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
            .connect_with(options.clone())
            .await?;
        let read = SqlitePoolOptions::new().max_connections(4).connect_with(options.pragma("query_only", "ON")).await?;
        Ok(Self(Inner::Sqlite { write, read, path, group: Group::default() }))
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match &self.0 {
            Inner::Sqlite { .. } => Dialect::Sqlite,
            Inner::Postgres { .. } => Dialect::Postgres,
        }
    }

    /// The file, if it is SQLite.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.0 {
            Inner::Sqlite { path, .. } => Some(path),
            Inner::Postgres { .. } => None,
        }
    }

    /// The pool of SQLite that writes, which the queue shares.
    pub fn sqlite(&self) -> Option<&SqlitePool> {
        match &self.0 {
            Inner::Sqlite { write, .. } => Some(write),
            Inner::Postgres { .. } => None,
        }
    }

    /// The pool of PostgreSQL.
    pub fn postgres(&self) -> Option<&PgPool> {
        match &self.0 {
            Inner::Sqlite { .. } => None,
            Inner::Postgres { pool, .. } => Some(pool),
        }
    }

    /// The pool of PostgreSQL with which the queue takes jobs. Its commits do not wait for the disk: taking a job means
    /// nothing until the claim that follows is on it, and with that what came before.
    pub fn takers(&self) -> Option<&PgPool> {
        match &self.0 {
            Inner::Sqlite { .. } => None,
            Inner::Postgres { takers, .. } => Some(takers),
        }
    }

    /// Begins a transaction that will write.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(match &self.0 {
            Inner::Sqlite { write, .. } => Tx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            Inner::Postgres { pool, .. } => Tx::Postgres(pool.begin().await?),
        })
    }

    /// Does work in a transaction; what it keeps is on disk when this returns. On SQLite, those who wait for their turn
    /// share a commit, each undone without the others. After an error the same call may be made again.
    ///
    /// # Errors
    /// Those of the work, then nothing of it is kept, and those of the database.
    pub async fn write<T>(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<Verdict<T>>) -> Result<T> {
        match &self.0 {
            Inner::Sqlite { write, group, .. } => group.write(write, work).await,
            Inner::Postgres { pool, .. } => {
                let mut tx = Tx::Postgres(pool.begin().await?);
                match work(&mut tx).await? {
                    Verdict::Keep(value) => {
                        failpoint!("write.before_commit");
                        tx.commit().await?;
                        failpoint!("write.after_commit");
                        Ok(value)
                    }
                    Verdict::Undo(value) => Ok(value),
                }
            }
        }
    }

    /// Runs one statement in a transaction and says how many rows it touched.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn execute(&self, sql: &str, args: &[Arg]) -> Result<u64> {
        self.write(async |tx| Ok(Verdict::Keep(tx.execute(sql, args).await?))).await
    }

    /// Reads rows, beside all writers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fetch(&self, sql: &str, args: &[Arg]) -> Result<Vec<Row>> {
        Ok(match &self.0 {
            Inner::Sqlite { read, .. } => {
                bound!(sql.to_owned(), args).fetch_all(read).await?.into_iter().map(Row::from).collect()
            }
            Inner::Postgres { pool, .. } => {
                bound!(sql.to_owned(), args).fetch_all(pool).await?.into_iter().map(Row::from).collect()
            }
        })
    }

    /// Reads the first row, if there is one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fetch_one(&self, sql: &str, args: &[Arg]) -> Result<Option<Row>> {
        Ok(self.fetch(sql, args).await?.into_iter().next())
    }

    /// Ends all connections.
    pub async fn close(&self) {
        match &self.0 {
            Inner::Sqlite { write, read, group, .. } => {
                group.close().await;
                read.close().await;
                write.close().await;
            }
            Inner::Postgres { pool, takers } => {
                takers.close().await;
                pool.close().await;
            }
        }
    }
}
