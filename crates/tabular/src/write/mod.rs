//! Writing tables: CSV, JSON Lines and XLSX, packed or not.

pub mod byte_pipe;
pub mod compression;
pub mod csv;
mod datetime;
pub mod format;
pub mod jsonl;
mod sheet;
pub mod xlsx;

use format::CellFormat;

/// A column as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDisplay {
    /// What stands in the header.
    pub title: String,
    /// How its values are shown.
    pub format: Option<CellFormat>,
}
