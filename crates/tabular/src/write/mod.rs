//! Table writers: CSV, JSON Lines and XLSX, with optional compression.

pub mod byte_pipe;
pub mod compression;
pub mod csv;
pub mod csv_style;
mod datetime;
pub mod format;
pub mod jsonl;
pub mod local_times;
mod sheet;
mod sheet_names;
mod styles;
mod totals;
pub mod xlsx;
mod xml_text;

pub use sheet_names::is_valid_sheet_name;

use format::CellFormat;

/// How a column is shown in the output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnDisplay {
    /// The title in the header.
    pub title: String,
    /// The display format of its values.
    pub format: Option<CellFormat>,
    /// The width of the column in a workbook, in characters.
    pub width: Option<u16>,
    /// What stands below the column in a workbook.
    pub total: Option<ColumnTotal>,
}

/// What stands below a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnTotal {
    /// The sum of the numbers.
    Sum,
    /// The average of the numbers.
    Average,
    /// The least number or date.
    Min,
    /// The greatest number or date.
    Max,
    /// How many cells have a value.
    Count,
}
