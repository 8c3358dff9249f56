//! The types of a bulk update: columns of many rows, each row found by its keys.

use crate::bind::BindValues;
use crate::row_source::RowSource;
use crate::statement::ParsedStatement;
use crate::table::{DbColumnType, TableColumn};
use afterload_core::identifier::{TableName, quote_identifier};

/// The table and the columns of an update, key columns first.
pub(crate) struct UpdatePlan<'a> {
    pub(crate) table: &'a TableName,
    pub(crate) columns: Vec<&'a TableColumn>,
    pub(crate) key_count: usize,
}

impl UpdatePlan<'_> {
    /// Renders `UPDATE … SET … WHERE …`.
    ///
    /// `value` renders the value of a column as SQL. `from` is the `FROM` clause with the values, or an empty text.
    pub(crate) fn update_sql(&self, from: &str, value: impl Fn(usize) -> String) -> String {
        let pairs: Vec<_> =
            self.columns.iter().enumerate().map(|(place, it)| (quote_identifier(&it.name), value(place))).collect();
        let (found, set) = pairs.split_at(self.key_count);
        let set: Vec<_> = set.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let found: Vec<_> = found.iter().map(|(name, value)| format!("target.{name} = {value}")).collect();
        let (table, set, found) = (self.table.to_quoted_sql(), set.join(", "), found.join(" AND "));
        format!("UPDATE {table} AS target SET {set} {from}WHERE {found}")
    }

    /// Makes the update from its statements.
    pub(crate) fn to_bulk_update(&self, statement: ParsedStatement, key_range: Option<KeyRangeUpdate>) -> BulkUpdate {
        let is_json = |column: &&TableColumn| matches!(column.column_type, DbColumnType::Json | DbColumnType::Jsonb);
        let json_columns = self.columns.iter().map(is_json).collect();
        BulkUpdate { statement, key_count: self.key_count, json_columns, key_range }
    }
}

/// A prepared update that fills columns of many rows.
#[derive(Clone, Debug)]
pub struct BulkUpdate {
    pub(crate) statement: ParsedStatement,
    pub(crate) key_count: usize,
    /// For each column, key columns first: whether it holds JSON.
    pub(crate) json_columns: Vec<bool>,
    /// The variant for values whose key range is known.
    pub(crate) key_range: Option<KeyRangeUpdate>,
}

/// An update that also bounds one key column with `BETWEEN`.
///
/// Without the bounds, PostgreSQL may read the whole table for each chunk. The planner estimates that this costs less
/// than an index lookup for every row.
#[derive(Clone, Debug)]
pub(crate) struct KeyRangeUpdate {
    pub(crate) column: usize,
    pub(crate) column_type: DbColumnType,
    pub(crate) statement: ParsedStatement,
}

/// An update with the values of the rows of one chunk.
pub(crate) struct BoundUpdate {
    pub(crate) statement: ParsedStatement,
    pub(crate) values: BindValues,
    /// The rows, if the statement runs once per row. Their values have the order of its parameters.
    pub(crate) row_source: Option<Box<dyn RowSource>>,
}
