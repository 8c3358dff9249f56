//! Reading the rows of a `SELECT` of any size in little memory, as they were at one moment.
//!
//! A [`SelectQuery`] is text that can do nothing but read. A connection hands its rows, cell by cell, to a [`RowVisitor`]
//! in a thread where that may block. Every cell is text with its [`CellType`]: what PostgreSQL's `COPY` writes, and what
//! SQLite's values look like.

mod read_only;

use crate::codes;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bind::{BindValues, ParameterizedSql};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// A `SELECT` that can do nothing but read.
#[derive(Clone, Debug)]
pub struct SelectQuery {
    pub(crate) sql: ParameterizedSql,
}

/// What rows are read with.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// The values of the parameters.
    pub values: BindValues,
    /// How long the query may take, until its last row has been taken.
    pub timeout: Duration,
    /// Ends when it should stop.
    pub stop: CancellationToken,
}

/// What a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellType {
    /// Any text.
    Text,
    /// A whole or decimal number, exact to its last digit.
    Number,
    /// A floating point number.
    Float,
    /// `true` or `false`.
    Bool,
    /// A day such as `2024-02-29`, or what its database writes where there is none.
    Date,
    /// A moment such as `2024-02-29 12:00:00.5+00`, without an offset if the column has none.
    Timestamp,
    /// JSON.
    Json,
}

/// Takes rows as they come.
pub trait RowVisitor: Send + 'static {
    /// Learns the names of the columns, and how many rows the database expects, if it does.
    ///
    /// # Errors
    /// What is wrong with the columns; nothing more is read then.
    fn visit_columns(&mut self, columns: &[String], expected: Option<u64>) -> Result<()>;
    /// Takes the next cell of the row: UTF-8, or nothing for null.
    fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>);
    /// Ends the row.
    ///
    /// # Errors
    /// Why no more rows are taken.
    fn end_row(&mut self) -> Result<()>;
}

impl SelectQuery {
    /// Reads the text.
    ///
    /// # Errors
    /// `sql_invalid` for text that cannot be read, `report_sql_refused` for anything but one `SELECT` without side effects.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self> {
        let statement = ParameterizedSql::parse(text, dialect)?;
        read_only::check_read_only(&statement)?;
        Ok(Self { sql: statement })
    }

    /// Reads the text before it is known which database runs it.
    ///
    /// # Errors
    /// Those of [`Self::parse`], where no dialect has it.
    pub fn parse_any(text: &str) -> Result<Self> {
        let [first, second] = Dialect::ALL.map(|dialect| Self::parse(text, dialect));
        first.or(second)
    }

    /// The names of its parameters.
    pub fn parameter_names(&self) -> &[String] {
        self.sql.parameter_names()
    }
}

pub(crate) fn query_timeout_error(timeout: Duration) -> Error {
    let timeout = afterload_core::units::HumanDuration(timeout);
    Error::new(codes::REPORT_TIMEOUT, format!("the query took longer than its `timeout` of {timeout}"))
}

pub(crate) fn write_refused_error(why: &str) -> Error {
    Error::new(codes::REPORT_SQL_REFUSED, format!("the database refuses the query because it may only read: {why}"))
}
