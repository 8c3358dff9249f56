//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{INTERNAL_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_pipeline::codes::WITH_INVALID;
pub(crate) use afterload_tabular::codes::{
    ARCHIVE_TOO_LARGE, CELL_ERROR, CSV_FIELD_TOO_LARGE, CSV_RECORD_TOO_LARGE, CSV_STRAY_QUOTE, CSV_TOO_MANY_COLUMNS,
    CSV_UNCLOSED_QUOTE, JSON_LINE_INVALID,
};
pub(crate) use afterload_target_db::codes::CHECKPOINT_INVALID;

pub const CONNECTION_NEEDS_CHECKPOINTS: ErrorCode =
    ErrorCode::permanent("connection_needs_checkpoints", "The import needs checkpoints that the connection forbids")
        .with_hint(
            "use `on_conflict` with `action: update` or `skip`, or allow `checkpoints: table` on the connection",
        );
pub const CSV_EMPTY: ErrorCode = ErrorCode::permanent("csv_empty", "The file is empty");
pub const CSV_ERRORS_OMITTED: ErrorCode =
    ErrorCode::permanent("csv_errors_omitted", "The error file lacks rejected rows").with_status(422);
pub const CSV_HEADER_DUPLICATE: ErrorCode =
    ErrorCode::permanent("csv_header_duplicate", "Two columns of the header fit the same column of the import")
        .with_hint("rename or remove all but one, or make `match` name just one");
pub const CSV_HEADER_MISSING: ErrorCode =
    ErrorCode::permanent("csv_header_missing", "The header lacks a column of the import");
pub const CSV_INVALID_TEXT: ErrorCode =
    ErrorCode::permanent("csv_invalid_text", "The row is not valid text").with_status(422);
pub const CSV_NOT_TEXT: ErrorCode =
    ErrorCode::permanent("csv_not_text", "The file is not a CSV").with_hint("save or unpack it as CSV and upload that");
pub const CSV_NUL: ErrorCode = ErrorCode::permanent("csv_nul", "The row holds a NUL character").with_status(422);
pub const CSV_RAGGED: ErrorCode =
    ErrorCode::permanent("csv_ragged", "The row has more or fewer fields than the header").with_status(422);
pub const CSV_ROWS_CUT: ErrorCode =
    ErrorCode::permanent("csv_rows_cut", "The import ended before the end of the file").with_status(422);
pub const CSV_TOO_MANY_REJECTS: ErrorCode =
    ErrorCode::permanent("csv_too_many_rejects", "More rows were rejected than the import tolerates")
        .with_hint("rows that were already imported stay; correct the file or the rules of the columns");
pub const SOURCE_TRUNCATED: ErrorCode = ErrorCode::transient("source_truncated", "The source file ended early");
pub const VALUE_INVALID: ErrorCode =
    ErrorCode::permanent("value_invalid", "The value does not have the type of its column").with_status(422);
pub const VALUE_NOT_ALLOWED: ErrorCode =
    ErrorCode::permanent("value_not_allowed", "The value is not one of the allowed values").with_status(422);
pub const VALUE_OUT_OF_RANGE: ErrorCode =
    ErrorCode::permanent("value_out_of_range", "The value is too small or too large").with_status(422);
pub const VALUE_PATTERN: ErrorCode =
    ErrorCode::permanent("value_pattern", "The value does not match the pattern of its column").with_status(422);
pub const VALUE_REQUIRED: ErrorCode =
    ErrorCode::permanent("value_required", "The column requires a value").with_status(422);
pub const VALUE_TOO_LONG: ErrorCode = ErrorCode::permanent("value_too_long", "The value is too long").with_status(422);
pub const VALUE_TOO_PRECISE: ErrorCode =
    ErrorCode::permanent("value_too_precise", "The number has more digits than the column keeps").with_status(422);
pub const VALUE_TOO_SHORT: ErrorCode =
    ErrorCode::permanent("value_too_short", "The value is too short").with_status(422);

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    CONNECTION_NEEDS_CHECKPOINTS,
    CSV_EMPTY,
    CSV_ERRORS_OMITTED,
    CSV_HEADER_DUPLICATE,
    CSV_HEADER_MISSING,
    CSV_INVALID_TEXT,
    CSV_NOT_TEXT,
    CSV_NUL,
    CSV_RAGGED,
    CSV_ROWS_CUT,
    CSV_TOO_MANY_REJECTS,
    SOURCE_TRUNCATED,
    VALUE_INVALID,
    VALUE_NOT_ALLOWED,
    VALUE_OUT_OF_RANGE,
    VALUE_PATTERN,
    VALUE_REQUIRED,
    VALUE_TOO_LONG,
    VALUE_TOO_PRECISE,
    VALUE_TOO_SHORT,
];
