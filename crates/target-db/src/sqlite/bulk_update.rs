//! Bulk updates on SQLite: one prepared statement runs once per row.

use crate::bind::BindValues;
use crate::bulk_update::{BoundUpdate, BulkUpdate, UpdatePlan};
use crate::row_source::{RowSource, Scalar};
use crate::statement::ParsedStatement;
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

pub(super) fn plan(plan: &UpdatePlan<'_>) -> Result<BulkUpdate> {
    let sql = plan.update_sql("", |place| format!(":c{place}"));
    Ok(plan.to_bulk_update(ParsedStatement::parse(&sql, Dialect::Sqlite)?, None))
}

pub(super) fn bind(update: &BulkUpdate, rows: impl RowSource) -> BoundUpdate {
    let (key_count, column_count) = (update.key_count, update.json_columns.len());
    BoundUpdate {
        statement: update.statement.clone(),
        values: BindValues::new(),
        row_source: Some(Box::new(ParameterOrderedRows { rows, key_count, column_count })),
    }
}

/// Rows with their values in the order of the statement's parameters: first the set columns, then the keys.
struct ParameterOrderedRows<G> {
    rows: G,
    key_count: usize,
    column_count: usize,
}

impl<G: RowSource> RowSource for ParameterOrderedRows<G> {
    fn row_count(&self) -> usize {
        self.rows.row_count()
    }

    fn value_at(&self, row: usize, column: usize) -> Scalar<'_> {
        self.rows.value_at(row, (column + self.key_count) % self.column_count)
    }
}
