//! The error codes of this crate.

#![expect(missing_docs, reason = "each code has its summary")]

use afterload_core::error::ErrorCode;

pub const CSV_FIELD_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("csv_field_too_large", "A field is too large").with_status(422);
pub const CSV_RECORD_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("csv_record_too_large", "A record is too large").with_status(422);
pub const CSV_STRAY_QUOTE: ErrorCode =
    ErrorCode::permanent("csv_stray_quote", "Text follows a closing quote").with_status(422);
pub const CSV_TOO_MANY_COLUMNS: ErrorCode =
    ErrorCode::permanent("csv_too_many_columns", "A record has too many columns").with_status(422);
pub const CSV_UNCLOSED_QUOTE: ErrorCode =
    ErrorCode::permanent("csv_unclosed_quote", "A quote is opened and never closed").with_status(422);
pub const REPORT_CELL_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("report_cell_too_large", "A value does not fit into a cell of the workbook")
        .with_hint("shorten it in the query, set `long_texts: cut`, or use `csv` or `jsonl`");
pub const REPORT_COLUMNS_REPEATED: ErrorCode =
    ErrorCode::permanent("report_columns_repeated", "Two columns of the query have the same name")
        .with_hint("give one of them another name with `AS`");
pub const REPORT_FAILED: ErrorCode = ErrorCode::permanent("report_failed", "The file of the report cannot be written");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    CSV_FIELD_TOO_LARGE,
    CSV_RECORD_TOO_LARGE,
    CSV_STRAY_QUOTE,
    CSV_TOO_MANY_COLUMNS,
    CSV_UNCLOSED_QUOTE,
    REPORT_CELL_TOO_LARGE,
    REPORT_COLUMNS_REPEATED,
    REPORT_FAILED,
];
