//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{INTERNAL_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_pipeline::codes::WITH_INVALID;
pub(crate) use afterload_tabular::codes::REPORT_COLUMNS_REPEATED;

pub const REPORT_COLUMN_UNKNOWN: ErrorCode =
    ErrorCode::permanent("report_column_unknown", "The query gives no such column");
pub const REPORT_COLUMNS_MISSING: ErrorCode =
    ErrorCode::permanent("report_columns_missing", "The query gives no columns");
pub const REPORT_GROUP_KEY_TOO_LONG: ErrorCode =
    ErrorCode::permanent("report_group_key_too_long", "A value of the column that `group_by` names is too long")
        .with_hint("group by a short column, such as a code or an id; at most 1,000 bytes");
pub const REPORT_GROUPS_UNORDERED: ErrorCode =
    ErrorCode::permanent("report_groups_unordered", "The rows of a group are not together")
        .with_hint("group by a column of one type, such as `CAST(region AS TEXT) AS region`");
pub const REPORT_SQL_MISSING: ErrorCode = ErrorCode::permanent("report_sql_missing", "The report has no SQL");
pub const REPORT_TOO_MANY_GROUPS: ErrorCode =
    ErrorCode::permanent("report_too_many_groups", "The query gives more groups than `max_groups`")
        .with_hint("raise `max_groups`, or group by a column with fewer values");
pub const REPORT_TOO_MANY_ROWS: ErrorCode =
    ErrorCode::permanent("report_too_many_rows", "The query gives more rows than `max_rows`")
        .with_hint("raise `max_rows`, or let the query give less");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    REPORT_COLUMN_UNKNOWN,
    REPORT_COLUMNS_MISSING,
    REPORT_GROUP_KEY_TOO_LONG,
    REPORT_GROUPS_UNORDERED,
    REPORT_SQL_MISSING,
    REPORT_TOO_MANY_GROUPS,
    REPORT_TOO_MANY_ROWS,
];
