//! People whom a query of a user's finds: paged by a key, counted, read, and written into a table without being read.

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
};
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{TableName, quote_identifier, quote_identifiers};

/// The bounds of a part and the values of a row; no parameter of a user's has such a name.
const RESERVED_PARAM_PREFIX: &str = "afterload_";
/// The column of a page with the key.
const RECIPIENT_KEY_COLUMN: &str = "afterload_key";

/// A query whose rows are people, told apart by one of its columns.
#[derive(Clone, Debug)]
pub struct RecipientQuery {
    sql: String,
    key: String,
    values: BindValues,
}

/// A part of the people, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyRange {
    /// The key behind which it begins.
    pub after: Option<Value>,
    /// The key with which it ends.
    pub until: Option<Value>,
}

/// One of the people.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient {
    /// The key.
    pub key: Value,
    /// The columns that the query gives.
    pub columns: Map<String, Value>,
}

/// People who follow one another.
#[derive(Debug)]
pub struct RecipientPage {
    /// Their rows: the keys as they can be bound again, then the columns that the query gives.
    pub rows: ResultRows,
}

impl RecipientPage {
    /// The key of the last one.
    pub fn last_key(&self) -> Option<&Value> {
        Some(self.rows.value_at(self.rows.len().checked_sub(1)?, 0))
    }

    /// The people one by one.
    pub fn iter_recipients(&self) -> impl Iterator<Item = Recipient> {
        (0..self.rows.len()).map(|place| {
            let mut row = self.rows.row_to_json(place);
            row.shift_remove(RECIPIENT_KEY_COLUMN);
            Recipient { key: self.rows.value_at(place, 0).clone(), columns: row }
        })
    }
}

/// What a row says of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryRowSpec<'a> {
    /// The table.
    pub table: &'a str,
    /// The column for the key of the person.
    pub recipient_column: &'a str,
    /// The column for the reason, if there is one.
    pub reason_column: Option<&'a str>,
    /// Columns that hold the same value for everybody.
    pub constant_columns: &'a Map<String, Value>,
    /// Columns that hold what a column of the query gives.
    pub copied_columns: &'a [(String, String)],
    /// The columns of a unique constraint: nobody gets two rows.
    pub unique_columns: &'a [String],
}

/// What is done about people who have their row already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExisting {
    /// They keep it.
    Skip,
    /// Nobody is expected to have one. On PostgreSQL one who does fails the whole part, which is then to be put again with
    /// [`OnExisting::Skip`]: to look for rows that are there takes it as long as to write new ones.
    AssumeNone,
}

/// The people of one statement.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryChunk<'a> {
    /// Which part of the people.
    pub range: &'a KeyRange,
    /// Why they get the row.
    pub reason: &'a str,
    /// What is done about people who have their row already.
    pub on_existing: OnExisting,
}

/// A table made ready for deliveries.
#[derive(Clone, Debug)]
pub struct DeliveryTable {
    table: TableName,
    columns: String,
    sources: Vec<String>,
    values: BindValues,
    keys: Vec<String>,
}

impl RecipientQuery {
    /// The people whom `command` finds with these values.
    pub fn new(command: &ParsedStatement, key: &str, values: BindValues) -> Self {
        let key = format!("person.{}", quote_identifier(key));
        Self { sql: command.sql.to_named_sql(), key, values }
    }

    /// The same people with one more value.
    #[must_use]
    pub fn with_value(mut self, name: &str, value: Value) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    /// How many there are in a part.
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

    /// The key of the person at `place`, from 1, of a part; none where there are fewer.
    ///
    /// # Errors
    /// `audience_key_invalid` where the keys have no order; those of [`Connection::read_statement`].
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
        // Brought to text behind the place: of those before it nobody asks.
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

    /// The first people of a part, at most `limit`.
    ///
    /// # Errors
    /// `audience_key_invalid` where the keys have no order; `sql_result_too_large` where they have more than 16 MiB; those of
    /// [`Connection::read_statement`].
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

    /// Gives everybody of a part a row, in one statement of the database and in the order of their keys, which indices
    /// like. `note` is committed with them, as [`Connection::write_statement`] says.
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
        written.map_err(|error| match error.message().contains("ON CONFLICT") {
            true => keys_not_unique_error(&target.table, &target.keys),
            false => error,
        })
    }

    /// Nobody has no key, which no bound lets through either. A query whose end is a comment keeps its line.
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
        let command = ParsedStatement::parse(sql, connection.dialect())?;
        let call = StatementArgs { values: self.range_values(span, own), result_mode: keep, stop: stop.clone() };
        connection.read_statement(&command, call).await.map(|effect| effect.rows)
    }
}

fn unsortable_key_error() -> Error {
    Error::new(codes::AUDIENCE_KEY_INVALID, "the keys of the people cannot be put in order")
}

impl Connection {
    /// Makes a table ready for deliveries.
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
