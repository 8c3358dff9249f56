//! Transactions and rows of either database.

use crate::codes;
use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Postgres, Row as _, Sqlite, Transaction};

use super::sql_args::SqlArg;
use afterload_core::clock::{Clock, UnixMillis};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::file_seals::FileSeals;

/// A transaction. While it is open, no code may wait for anything outside of the database.
pub struct DbTx {
    pub(super) backend: BackendTx,
    clock: Clock,
}

pub(super) enum BackendTx {
    /// Begun with `IMMEDIATE`, so it holds the only write lock.
    Sqlite(Transaction<'static, Sqlite>),
    /// With the isolation level `READ COMMITTED`.
    Postgres(Transaction<'static, Postgres>),
}

/// A row of either database.
pub struct DbRow {
    cells: BackendRow,
    /// A prefix of the column names.
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
    /// The part of a joined row whose column names have this prefix.
    pub(super) fn with_prefix(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// Reads a `TEXT` that is not null.
    ///
    /// # Errors
    /// `database_error` for a null or another type.
    pub fn get_text(&self, name: &str) -> Result<String> {
        read_column!(self, name)
    }

    /// Reads a `TEXT` that may be null.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_opt_text(&self, name: &str) -> Result<Option<String>> {
        read_column!(self, name)
    }

    /// Reads a `BIGINT` that is not null.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_int(&self, name: &str) -> Result<i64> {
        read_column!(self, name)
    }

    /// Reads a `BIGINT` that may be null.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_opt_int(&self, name: &str) -> Result<Option<i64>> {
        read_column!(self, name)
    }

    /// Reads a `BIGINT` that is not null as a `u32`. A value out of range becomes [`u32::MAX`].
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_u32(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.get_int(name)?).unwrap_or(u32::MAX))
    }

    /// Reads JSON from a `TEXT` that may be null.
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

    /// Reads JSON that may hold sealed files. The seals go to `seals`, and the value has none.
    ///
    /// # Errors
    /// `database_error` for another type.
    pub fn get_sealed_json(&self, name: &str, seals: &mut FileSeals) -> Result<Option<Value>> {
        let mut value: Option<Value> = self.get_json(name)?;
        if let Some(value) = &mut value {
            seals.take_from(value, &|_, _| true);
        }
        Ok(value)
    }
}

macro_rules! bind_query {
    ($sql:expr, $args:expr) => {{
        crate::sql_args::check_args($args)?;
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
    pub(super) fn new(backend: BackendTx, clock: &Clock) -> Self {
        Self { backend, clock: clock.clone() }
    }

    /// The current time, which every statement gets as an argument.
    pub fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// Runs a statement and returns how many rows it changed.
    pub async fn execute(&mut self, sql: &str, args: &[SqlArg]) -> Result<u64> {
        Ok(match &mut self.backend {
            BackendTx::Sqlite(tx) => bind_query!(sql.to_owned(), args).execute(&mut **tx).await?.rows_affected(),
            BackendTx::Postgres(tx) => bind_query!(sql.to_owned(), args).execute(&mut **tx).await?.rows_affected(),
        })
    }

    /// Runs a statement and returns its rows.
    pub async fn fetch(&mut self, sql: &str, args: &[SqlArg]) -> Result<Vec<DbRow>> {
        Ok(match &mut self.backend {
            BackendTx::Sqlite(tx) => {
                bind_query!(sql.to_owned(), args).fetch_all(&mut **tx).await?.into_iter().map(DbRow::from).collect()
            }
            BackendTx::Postgres(tx) => {
                bind_query!(sql.to_owned(), args).fetch_all(&mut **tx).await?.into_iter().map(DbRow::from).collect()
            }
        })
    }

    /// The SQL dialect of the database.
    pub fn dialect(&self) -> Dialect {
        match &self.backend {
            BackendTx::Sqlite(_) => Dialect::Sqlite,
            BackendTx::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Commits the transaction. On both databases it is on disk when this returns.
    ///
    /// # Errors
    /// An error of the database. The outcome may then be unknown.
    pub async fn commit(self) -> Result<()> {
        match self.backend {
            BackendTx::Sqlite(tx) => tx.commit().await?,
            BackendTx::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

pub(super) use bind_query;
