//! The error codes of this crate.

#![expect(missing_docs, reason = "each code has its summary")]

use afterload_core::error::ErrorCode;

pub const ARCHIVE_ENTRY_MISSING: ErrorCode =
    ErrorCode::permanent("archive_entry_missing", "The archive lacks the file to import, or has several");
pub const ARCHIVE_INVALID: ErrorCode = ErrorCode::permanent("archive_invalid", "The archive is damaged")
    .with_hint("pack the file again, without a password");
pub const ARCHIVE_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("archive_too_large", "The archive unpacks to more than its limits")
        .with_hint("if you trust the file, raise `unpack.max_size` or `unpack.max_ratio`");
pub const CELL_ERROR: ErrorCode =
    ErrorCode::permanent("cell_error", "A cell of the workbook holds an error such as `#N/A`").with_status(422);
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
pub const JSON_LINE_INVALID: ErrorCode =
    ErrorCode::permanent("json_line_invalid", "The line is not a JSON object").with_status(422);
pub const REPORT_CELL_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("report_cell_too_large", "A value does not fit into a cell of the workbook")
        .with_hint("shorten it in the query, set `long_texts: cut`, or use `csv` or `jsonl`");
pub const REPORT_COLUMNS_REPEATED: ErrorCode =
    ErrorCode::permanent("report_columns_repeated", "Two columns of the query have the same name")
        .with_hint("give one of them another name with `AS`");
pub const REPORT_FAILED: ErrorCode = ErrorCode::permanent("report_failed", "The file of the report cannot be written");
pub const SHEET_MISSING: ErrorCode = ErrorCode::permanent("sheet_missing", "The workbook lacks the sheet to import");
pub const WORKBOOK_INVALID: ErrorCode = ErrorCode::permanent("workbook_invalid", "The workbook is damaged")
    .with_hint("open it in a spreadsheet program and save it again as XLSX, or as CSV");
pub const WORKBOOK_TEXTS_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("workbook_texts_too_large", "The texts that cells share take more memory than allowed")
        .with_hint("save the sheet as CSV, or raise `unpack.max_shared_text`");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    ARCHIVE_ENTRY_MISSING,
    ARCHIVE_INVALID,
    ARCHIVE_TOO_LARGE,
    CELL_ERROR,
    CSV_FIELD_TOO_LARGE,
    CSV_RECORD_TOO_LARGE,
    CSV_STRAY_QUOTE,
    CSV_TOO_MANY_COLUMNS,
    CSV_UNCLOSED_QUOTE,
    JSON_LINE_INVALID,
    REPORT_CELL_TOO_LARGE,
    REPORT_COLUMNS_REPEATED,
    REPORT_FAILED,
    SHEET_MISSING,
    WORKBOOK_INVALID,
    WORKBOOK_TEXTS_TOO_LARGE,
];
