//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{INTERNAL_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;

pub const REPORT_CELL_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("report_cell_too_large", "A value does not fit into a cell of the workbook")
        .with_hint("shorten it in the query, or use `csv` or `jsonl`");
pub const REPORT_COLUMN_UNKNOWN: ErrorCode =
    ErrorCode::permanent("report_column_unknown", "The query gives no such column");
pub const REPORT_COLUMNS_MISSING: ErrorCode =
    ErrorCode::permanent("report_columns_missing", "The query gives no columns");
pub const REPORT_COLUMNS_REPEATED: ErrorCode =
    ErrorCode::permanent("report_columns_repeated", "Two columns of the query have the same name")
        .with_hint("give one of them another name with `AS`");
pub const REPORT_FAILED: ErrorCode = ErrorCode::permanent("report_failed", "The file of the report cannot be written");
pub const REPORT_SQL_MISSING: ErrorCode = ErrorCode::permanent("report_sql_missing", "The report has no SQL");
pub const REPORT_TOO_MANY_ROWS: ErrorCode =
    ErrorCode::permanent("report_too_many_rows", "The query gives more rows than `max_rows`")
        .with_hint("raise `max_rows`, or let the query give less");

/// All codes of this crate.
pub const CODES: &[ErrorCode] =
    &[REPORT_COLUMN_UNKNOWN, REPORT_COLUMNS_MISSING, REPORT_SQL_MISSING, REPORT_TOO_MANY_ROWS];
