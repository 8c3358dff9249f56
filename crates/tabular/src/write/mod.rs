//! Table writers: CSV, JSON Lines and XLSX, with optional compression.

pub mod byte_pipe;
pub mod compression;
pub mod csv;
mod datetime;
pub mod format;
pub mod jsonl;
mod sheet;
pub mod xlsx;

use format::CellFormat;

/// The title and format of a column in the output.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDisplay {
    /// The title in the header.
    pub title: String,
    /// The display format of its values.
    pub format: Option<CellFormat>,
}
