//! Reads the rows of a `SELECT` of any size in little memory, from one snapshot.
//!
//! A [`SelectQuery`] is SQL that may only read. A connection passes its rows, cell by cell, to a [`RowVisitor`] in a
//! thread that may block. Every cell is text with its [`CellType`]. PostgreSQL's `COPY` writes such text, and the
//! SQLite back end renders values to match.

use crate::codes;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bind::{BindValues, ParameterizedSql};
use crate::read_only::{FunctionCall, Refusal, find_refused_call, inspect_text};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::quote_identifier;

/// A query whose text shows nothing that is certainly no read. The database decides before it runs.
#[derive(Clone, Debug)]
pub struct SelectQuery {
    pub(crate) sql: ParameterizedSql,
    side_effects: Vec<FunctionCall>,
    group_column: Option<String>,
}

/// The parameter values, timeout and stop signal of a query.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// The values of the parameters.
    pub values: BindValues,
    /// The time limit of the query, until the last row is read.
    pub timeout: Duration,
    /// Stops the query when it is cancelled.
    pub stop: CancellationToken,
}

/// One of the queries that are read from the same snapshot.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    /// The query.
    pub select: SelectQuery,
    /// The values of its parameters.
    pub values: BindValues,
}

/// How long queries may take together, and what stops them.
#[derive(Clone, Debug)]
pub struct QueryLimits {
    /// The time limit, until the last row is read.
    pub timeout: Duration,
    /// Stops the queries when it is cancelled.
    pub stop: CancellationToken,
}

/// The type of a cell.
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
    /// A date such as `2024-02-29`, or the text of the database for a value such as `infinity`.
    Date,
    /// A time such as `2024-02-29 12:00:00.5+00`, without an offset if the column has none.
    Timestamp,
    /// JSON text.
    Json,
}

/// Receives the rows of a query as they arrive.
pub trait RowVisitor: Send + 'static {
    /// Starts the rows of a query. Receives the names of its own columns, and the number of rows if the database estimates it.
    ///
    /// # Errors
    /// An error about the columns stops the query.
    fn visit_columns(&mut self, columns: &[String], expected: Option<u64>) -> Result<()>;
    /// Receives the next cell of the row: UTF-8 text, or `None` for null.
    fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>);
    /// Ends the current row.
    ///
    /// # Errors
    /// An error stops the query.
    fn end_row(&mut self) -> Result<()>;
}

impl SelectQuery {
    /// Parses a query and refuses what certainly does more than read.
    ///
    /// # Errors
    /// `sql_invalid` for text that cannot be parsed, `report_sql_refused` for anything that is certainly not one `SELECT`.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self> {
        let sql = ParameterizedSql::parse(text, dialect)?;
        let side_effects = inspect_text(&sql).map_err(report_refused_error)?;
        Ok(Self { sql, side_effects, group_column: None })
    }

    /// Sorts the rows by the text of a column, null first. Rows with the same text keep the order of the query. Each row has
    /// that text as an additional cell in front.
    #[must_use]
    pub fn grouped_by(self, column: &str) -> Self {
        Self { group_column: Some(column.to_owned()), ..self }
    }

    /// The column by which the rows are grouped.
    pub(crate) fn group_column(&self) -> Option<&str> {
        self.group_column.as_deref()
    }

    /// Refuses calls that certainly have side effects, unless the connection allows these functions.
    ///
    /// # Errors
    /// `report_sql_refused`
    pub fn check_calls(&self, allowed: &[String]) -> Result<()> {
        find_refused_call(&self.side_effects, allowed).map_or(Ok(()), |refusal| Err(report_refused_error(refusal)))
    }

    /// Parses a query whose dialect is not known yet.
    ///
    /// # Errors
    /// Those of [`Self::parse`], if no dialect accepts the text.
    pub fn parse_any(text: &str) -> Result<Self> {
        let [first, second] = Dialect::ALL.map(|dialect| Self::parse(text, dialect));
        first.or(second)
    }

    /// The names of the parameters.
    pub fn parameter_names(&self) -> &[String] {
        self.sql.parameter_names()
    }
}

/// A quoted name that none of the columns has, whatever its case.
pub(crate) fn unused_identifier(columns: &[String]) -> String {
    let mut name = String::from("afterload_row");
    while columns.iter().any(|column| column.eq_ignore_ascii_case(&name)) {
        name.push('_');
    }
    quote_identifier(&name)
}

pub(crate) fn query_timeout_error(timeout: Duration) -> Error {
    let timeout = afterload_core::units::HumanDuration(timeout);
    Error::new(codes::REPORT_TIMEOUT, format!("the query took longer than its `timeout` of {timeout}"))
}

pub(crate) fn report_refused_error(refusal: Refusal) -> Error {
    refusal.into_error(codes::REPORT_SQL_REFUSED, "the SQL cannot be a report")
}

pub(crate) fn write_refused_error(why: &str) -> Error {
    Error::new(codes::REPORT_SQL_REFUSED, format!("the database refuses the query because it may only read: {why}"))
}
