//! Cells of a batch as parameters of a statement.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

use crate::batch::{BatchCell, RowBatch};
use crate::bulk_load::LoadPlan;
use crate::table::DbColumnType;

/// A cell that is bound to a statement. Decimals are bound as text, and the column's affinity converts them.
pub(super) struct BoundCell<'a> {
    rows: &'a RowBatch,
    cell: BatchCell,
    as_text: bool,
}

impl<'a> BoundCell<'a> {
    /// Takes the cell of a row for the column at `index`.
    pub(super) fn new(plan: &LoadPlan, rows: &'a RowBatch, row: usize, index: usize) -> Self {
        let as_text = plan.columns[index].0.column_type == DbColumnType::Text;
        Self { rows, cell: rows.row_cells(row)[index], as_text }
    }

    pub(super) fn is_null(&self) -> bool {
        self.cell == BatchCell::Null
    }
}

impl ToSql for BoundCell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.cell {
            BatchCell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            BatchCell::Int(value) => ToSqlOutput::Owned(Value::Integer(value)),
            BatchCell::Bool(value) if !self.as_text => ToSqlOutput::Owned(Value::Integer(value.into())),
            BatchCell::Text { start, len } => {
                ToSqlOutput::Borrowed(ValueRef::Text(&self.rows.text_buffer[start as usize..(start + len) as usize]))
            }
            cell => {
                let mut text = String::with_capacity(32);
                self.rows.render_cell(cell, &mut text);
                ToSqlOutput::Owned(Value::Text(text))
            }
        })
    }
}
