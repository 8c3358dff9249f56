//! Recipients that a user's query finds: counted, read in pages by key, or copied into a table by one statement.

use crate::codes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::bind::BindValues;
use crate::bulk_load::keys_not_unique_error;
use crate::checkpoint::refuse_reserved_table;
use crate::connection::Connection;
use crate::statement::{
    Checkpoint, CheckpointCommit, ParsedStatement, ResultMode, ResultRows, StatementArgs, StatementResult,
    missing_column_error,
};
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{TableName, quote_identifier, quote_identifiers};

/// The prefix of our own parameters: range bounds and row values. Parameters of users must not start with it.
const RESERVED_PARAM_PREFIX: &str = "afterload_";
/// The column of a page that holds the key.
const RECIPIENT_KEY_COLUMN: &str = "afterload_key";

/// A query whose rows are recipients. One column is the key.
#[derive(Clone, Debug)]
pub struct RecipientQuery {
    statement: ParsedStatement,
    sql: String,
    key_column: String,
    /// The key column, quoted, with its table.
    key: String,
    values: BindValues,
}

/// A range of recipients in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyRange {
    /// The key after which the range starts, exclusive.
    pub after: Option<Value>,
    /// The last key of the range, inclusive.
    pub until: Option<Value>,
}

/// One recipient.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient {
    /// The value of the key column.
    pub key: Value,
    /// The columns that the query returns.
    pub columns: Map<String, Value>,
}

/// A page of recipients in the order of their keys.
#[derive(Debug)]
pub struct RecipientPage {
    /// The rows: first the key in a form that can be bound again, then the columns of the query.
    pub rows: ResultRows,
}

impl RecipientPage {
    /// The key of the last recipient.
    pub fn last_key(&self) -> Option<&Value> {
        Some(self.rows.value_at(self.rows.len().checked_sub(1)?, 0))
    }

    /// Iterates over the recipients.
    pub fn iter_recipients(&self) -> impl Iterator<Item = Recipient> {
        (0..self.rows.len()).map(|place| {
            let mut row = self.rows.row_to_json(place);
            row.shift_remove(RECIPIENT_KEY_COLUMN);
            Recipient { key: self.rows.value_at(place, 0).clone(), columns: row }
        })
    }
}

/// The table and columns of a delivery row.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryRowSpec<'a> {
    /// The name of the table.
    pub table: &'a str,
    /// The column for the key of the recipient.
    pub recipient_column: &'a str,
    /// The column for the reason, if there is one.
    pub reason_column: Option<&'a str>,
    /// Columns that hold the same value for all recipients.
    pub constant_columns: &'a Map<String, Value>,
    /// Columns that hold the value of a query column.
    pub copied_columns: &'a [(String, String)],
    /// The columns of a unique constraint, so that no recipient gets two rows.
    pub unique_columns: &'a [String],
}

/// The action for recipients that already have a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExisting {
    /// Keeps the existing row.
    Skip,
    /// Assumes that no row exists yet.
    ///
    /// On PostgreSQL, an existing row fails the whole chunk. The caller then retries with [`OnExisting::Skip`].
    /// PostgreSQL needs as long to check for existing rows as to write new ones.
    AssumeNone,
}

/// The recipients of one statement.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryChunk<'a> {
    /// The range of recipients.
    pub range: &'a KeyRange,
    /// The reason that is written into the row.
    pub reason: &'a str,
    /// The action for recipients that already have a row.
    pub on_existing: OnExisting,
}

/// A table that is prepared for delivery rows.
#[derive(Clone, Debug)]
pub struct DeliveryTable {
    table: TableName,
    columns: String,
    sources: Vec<String>,
    values: BindValues,
    keys: Vec<String>,
}

impl RecipientQuery {
    /// Creates the query from `command`, its key column and its values.
    pub fn new(command: &ParsedStatement, key: &str, values: BindValues) -> Self {
        let (key_column, key) = (key.to_owned(), format!("person.{}", quote_identifier(key)));
        Self { statement: command.clone(), sql: command.sql.to_named_sql(), key_column, key, values }
    }

    /// Adds a value for one more parameter.
    #[must_use]
    pub fn with_value(mut self, name: &str, value: Value) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    /// Counts the recipients of a range.
    ///
    /// # Errors
    /// Those of [`Connection::read_statement`].
    pub async fn count_in_range(
        &self,
        connection: &Connection,
        span: &KeyRange,
        stop: &CancellationToken,
    ) -> Result<u64> {
        let sql = format!("SELECT COUNT(*) AS people {}", self.source_clause(span));
        let rows =
            self.read_rows(connection, &sql, span, &[], ResultMode::All { rows: 1, bytes: 1 << 10 }, stop).await?;
        Ok(rows.first_value().and_then(Value::as_u64).unwrap_or_default())
    }

    /// Reads the key of the recipient at `place` of a range, counted from 1. `None` if the range is shorter.
    ///
    /// # Errors
    /// `audience_key_invalid` if the keys are not sortable, `column_not_found` if there are none; those of
    /// [`Connection::read_statement`].
    pub async fn key_at(
        &self,
        connection: &Connection,
        span: &KeyRange,
        place: u64,
        stop: &CancellationToken,
    ) -> Result<Option<Value>> {
        let at = format!(
            "SELECT {key} AS key {} ORDER BY {key} LIMIT 1 OFFSET :{RESERVED_PARAM_PREFIX}skip",
            self.source_clause(span),
            key = self.key
        );
        // The outer query casts only one key to text, not the keys that `OFFSET` skips.
        let bound = connection.key_bound_as_text("person.key");
        let sql = format!("SELECT {bound} AS bound FROM ({at}) AS person");
        let own = [("skip", Value::from(place.saturating_sub(1)))];
        let rows =
            self.read_rows(connection, &sql, span, &own, ResultMode::All { rows: 1, bytes: 64 << 10 }, stop).await?;
        let found = rows.first_value().cloned();
        if found.as_ref().is_some_and(Value::is_null) || found.is_some() && found == span.after {
            return Err(unsortable_key_error());
        }
        Ok(found)
    }

    /// Reads the first recipients of a range, at most `limit`.
    ///
    /// # Errors
    /// `audience_key_invalid` if the keys are not sortable; `sql_result_too_large` if the page has more than 16 MiB;
    /// those of [`Connection::read_statement`].
    pub async fn fetch_page(
        &self,
        connection: &Connection,
        span: &KeyRange,
        limit: usize,
        stop: &CancellationToken,
    ) -> Result<RecipientPage> {
        let key = connection.key_as_text(&self.key);
        let sql = format!(
            "SELECT {key} AS {RECIPIENT_KEY_COLUMN}, person.* {} ORDER BY {} LIMIT :{RESERVED_PARAM_PREFIX}limit",
            self.source_clause(span),
            self.key
        );
        let keep = ResultMode::All { rows: limit, bytes: 16 << 20 };
        let rows = self.read_rows(connection, &sql, span, &[("limit", limit.into())], keep, stop).await?;
        let page = RecipientPage { rows };
        match page.last_key().is_some_and(|last| span.after.as_ref() == Some(last)) {
            true => Err(unsortable_key_error()),
            false => Ok(page),
        }
    }

    /// Inserts a row for each recipient of a range, in one statement and in key order, which suits the indexes.
    ///
    /// The transaction also commits the checkpoint of `commit`, as in [`Connection::write_statement`].
    ///
    /// # Errors
    /// `conflict_keys_not_unique`; those of [`Connection::write_statement`].
    pub async fn insert_rows(
        &self,
        connection: &Connection,
        target: &DeliveryTable,
        chunk: DeliveryChunk<'_>,
        stop: &CancellationToken,
        commit: CheckpointCommit<'_>,
    ) -> Result<(StatementResult, Checkpoint)> {
        // The query becomes a part of a statement that writes, where the database does not refuse writes.
        connection.verify_read_only(&self.statement, &self.values, stop).await?;
        let DeliveryChunk { range: span, reason, on_existing } = chunk;
        let sources = target.sources.iter().map(|source| if source.is_empty() { &self.key } else { source });
        let keys = quote_identifiers(target.keys.iter().map(String::as_str));
        let present = match on_existing {
            OnExisting::AssumeNone if connection.prefers_plain_insert() => String::new(),
            _ => format!(" ON CONFLICT ({keys}) DO NOTHING"),
        };
        let sql = format!(
            "INSERT INTO {} ({}) SELECT {} {} ORDER BY {}{present}",
            target.table.to_quoted_sql(),
            target.columns,
            sources.map(String::as_str).collect::<Vec<_>>().join(", "),
            self.source_clause(span),
            self.key,
        );
        let command = ParsedStatement::parse(&sql, connection.dialect())?;
        let mut values = self.range_values(span, &[("reason", reason.into())]);
        values.extend(target.values.clone());
        let call = StatementArgs { values, result_mode: ResultMode::Discard, stop: stop.clone() };
        let written = connection.write_statement(&command, call, commit.fence, commit.checkpoint_fn).await;
        let Err(error) = &written else { return written };
        // The database refuses the statement. The keys may be the reason.
        let refused = !present.is_empty() && is_statement_error(error);
        match refused && connection.lacks_unique_keys(&target.table, &target.keys).await {
            true => Err(keys_not_unique_error(&target.table, &target.keys)),
            false => written,
        }
    }

    /// Renders `FROM … WHERE` with the bounds of the range.
    ///
    /// Rows without a key are left out: a bound never matches null. The query may end with a comment, so the bracket
    /// is on a new line.
    fn source_clause(&self, span: &KeyRange) -> String {
        let Self { sql, key, .. } = self;
        let bounds = [(&span.after, "> :afterload_after"), (&span.until, "<= :afterload_until")];
        let bounds = bounds.into_iter().filter(|(bound, _)| bound.is_some()).map(|(_, name)| format!("{key} {name}"));
        let bounds = bounds.collect::<Vec<_>>().join(" AND ");
        let bounds = if bounds.is_empty() { format!("{key} IS NOT NULL") } else { bounds };
        format!("FROM ({sql}\n) AS person WHERE {bounds}")
    }

    fn range_values(&self, span: &KeyRange, own: &[(&str, Value)]) -> BindValues {
        let mut values = self.values.clone();
        let bounds = [("after", &span.after), ("until", &span.until)];
        let bounds = bounds.into_iter().filter_map(|(name, bound)| Some((name, bound.clone()?)));
        values.extend(
            bounds.chain(own.iter().cloned()).map(|(name, value)| (format!("{RESERVED_PARAM_PREFIX}{name}"), value)),
        );
        values
    }

    async fn read_rows(
        &self,
        connection: &Connection,
        sql: &str,
        span: &KeyRange,
        own: &[(&str, Value)],
        keep: ResultMode,
        stop: &CancellationToken,
    ) -> Result<ResultRows> {
        // Alone it must be whole: brackets of the query must not close ours.
        connection.verify_read_only(&self.statement, &self.values, stop).await?;
        let command = ParsedStatement::parse(sql, connection.dialect())?;
        let call = StatementArgs { values: self.range_values(span, own), result_mode: keep, stop: stop.clone() };
        let error = match connection.read_statement(&command, call).await {
            Ok(effect) => return Ok(effect.rows),
            Err(error) => error,
        };
        let lacks_key = is_statement_error(&error) && self.lacks_key_column(connection, stop).await;
        Err(if lacks_key { missing_column_error(&self.key_column) } else { error })
    }

    /// True if the database accepts the query, but not its key column.
    async fn lacks_key_column(&self, connection: &Connection, stop: &CancellationToken) -> bool {
        let sql = select_column_sql(&self.sql, &self.key_column);
        let Ok(selected) = ParsedStatement::parse(&sql, connection.dialect()) else { return false };
        let accepted = connection.verify_read_only(&selected, &self.values, stop).await;
        accepted.is_err_and(|error| is_statement_error(&error))
    }
}

/// Selects one column of a query. The query may end with a comment, so the bracket is on a new line.
pub(crate) fn select_column_sql(sql: &str, column: &str) -> String {
    format!("SELECT person.{} FROM ({sql}\n) AS person", quote_identifier(column))
}

/// True if the database refuses a statement for what it says.
pub(crate) fn is_statement_error(error: &Error) -> bool {
    [codes::DATABASE_ERROR, codes::SQL_INVALID].contains(&error.code())
}

fn unsortable_key_error() -> Error {
    Error::new(codes::AUDIENCE_KEY_INVALID, "the keys of the people cannot be put in order")
}

impl Connection {
    /// Prepares a table for delivery rows.
    ///
    /// # Errors
    /// `table_not_found`, `column_not_found`, `table_reserved`, `connection_read_only`, or those of the database.
    pub async fn prepare_delivery_table(&self, row: &DeliveryRowSpec<'_>) -> Result<DeliveryTable> {
        self.ensure_writable()?;
        let table = self.describe_table(row.table).await?;
        refuse_reserved_table(&table.name)?;
        let (mut columns, mut sources, mut values) = (Vec::new(), Vec::new(), BindValues::new());
        let parameter =
            |name: &str, type_name: &str| self.typed_parameter(&format!("{RESERVED_PARAM_PREFIX}{name}"), type_name);
        columns.push(table.find_column(row.recipient_column)?.name.clone());
        sources.push(String::new());
        if let Some(reason) = row.reason_column {
            let column = table.find_column(reason)?;
            columns.push(column.name.clone());
            sources.push(parameter("reason", &column.type_name));
        }
        for (place, (name, value)) in row.constant_columns.iter().enumerate() {
            let column = table.find_column(name)?;
            columns.push(column.name.clone());
            sources.push(parameter(&format!("value_{place}"), &column.type_name));
            values.insert(format!("{RESERVED_PARAM_PREFIX}value_{place}"), value.clone());
        }
        for (name, source) in row.copied_columns {
            columns.push(table.find_column(name)?.name.clone());
            sources.push(format!("person.{}", quote_identifier(source)));
        }
        let keys = row
            .unique_columns
            .iter()
            .map(|key| Ok(table.find_column(key)?.name.clone()))
            .collect::<Result<Vec<_>>>()?;
        let columns = quote_identifiers(columns.iter().map(String::as_str));
        Ok(DeliveryTable { table: table.name, columns, sources, values, keys })
    }
}
