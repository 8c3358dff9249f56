//! What is to be written into columns of many rows, each found by its keys.

use crate::bind::BindValues;
use crate::row_source::RowSource;
use crate::statement::ParsedStatement;
use crate::table::{DbColumnType, TableColumn};
use afterload_core::identifier::{TableName, quote_identifier};

/// The table and the columns, keys first.
pub(crate) struct UpdatePlan<'a> {
    pub(crate) table: &'a TableName,
    pub(crate) columns: Vec<&'a TableColumn>,
    pub(crate) key_count: usize,
}

impl UpdatePlan<'_> {
    /// `UPDATE … SET … WHERE …`, where `value` says how the value of a column is named, and `from` where all of them are.
    pub(crate) fn update_sql(&self, from: &str, value: impl Fn(usize) -> String) -> String {
        let pairs: Vec<_> =
            self.columns.iter().enumerate().map(|(place, it)| (quote_identifier(&it.name), value(place))).collect();
        let (found, set) = pairs.split_at(self.key_count);
        let set: Vec<_> = set.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let found: Vec<_> = found.iter().map(|(name, value)| format!("target.{name} = {value}")).collect();
        let (table, set, found) = (self.table.to_quoted_sql(), set.join(", "), found.join(" AND "));
        format!("UPDATE {table} AS target SET {set} {from}WHERE {found}")
    }

    /// The update with these statements.
    pub(crate) fn to_bulk_update(&self, statement: ParsedStatement, key_range: Option<KeyRangeUpdate>) -> BulkUpdate {
        let is_json = |column: &&TableColumn| matches!(column.column_type, DbColumnType::Json | DbColumnType::Jsonb);
        let json_columns = self.columns.iter().map(is_json).collect();
        BulkUpdate { statement, key_count: self.key_count, json_columns, key_range }
    }
}

/// A table of which columns are to be filled.
#[derive(Clone, Debug)]
pub struct BulkUpdate {
    pub(crate) statement: ParsedStatement,
    pub(crate) key_count: usize,
    /// Of each column, keys first, whether it holds JSON.
    pub(crate) json_columns: Vec<bool>,
    /// The statement where the values of a key have a known range.
    pub(crate) key_range: Option<KeyRangeUpdate>,
}

/// A key whose order we know, and the statement that also says between which values it lies. Without that, PostgreSQL may
/// read the whole table for each chunk, which the planner takes for cheaper than to look for every row.
#[derive(Clone, Debug)]
pub(crate) struct KeyRangeUpdate {
    pub(crate) column: usize,
    pub(crate) column_type: DbColumnType,
    pub(crate) statement: ParsedStatement,
}

/// An update with the values of some rows.
pub(crate) struct BoundUpdate {
    pub(crate) statement: ParsedStatement,
    pub(crate) values: BindValues,
    /// Where the statement runs once for each row: their values, in the order of its parameters.
    pub(crate) row_source: Option<Box<dyn RowSource>>,
}
