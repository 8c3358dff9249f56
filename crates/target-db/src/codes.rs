//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{
    DATABASE_ERROR, DATABASE_UNAVAILABLE, INTERNAL_ERROR, STEP_STOPPED, TABLE_NOT_FOUND,
};
use afterload_core::error::ErrorCode;

pub const AUDIENCE_KEY_INVALID: ErrorCode =
    ErrorCode::permanent("audience_key_invalid", "The recipient key column is not sortable").with_hint("`key` must name a column of whole numbers, texts or UUIDs, in SQLite no bytes: `hex(id) AS id` makes a text of them");
pub const BATCH_CURSOR_INVALID: ErrorCode =
    ErrorCode::permanent("batch_cursor_invalid", "The statement gives no usable cursor");
pub const CHECKPOINT_INVALID: ErrorCode =
    ErrorCode::permanent("checkpoint_invalid", "The stored checkpoint cannot be read");
pub const COLUMN_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("column_not_found", "The query or the table has no such column");
pub const COLUMN_REQUIRED: ErrorCode =
    ErrorCode::permanent("column_required", "A column of the table needs a value and is not filled")
        .with_hint("add it to `columns` (with a `default` if the file lacks it), or give it a default in the table");
pub const CONFLICT: ErrorCode =
    ErrorCode::permanent("conflict", "A row with the same key is in the table").with_status(422);
pub const CONFLICT_KEYS_NOT_UNIQUE: ErrorCode =
    ErrorCode::permanent("conflict_keys_not_unique", "No unique constraint covers the keys")
        .with_hint("`keys` must name the columns of a primary key or of a unique index");
pub const CONNECTION_INVALID: ErrorCode =
    ErrorCode::permanent("connection_invalid", "The address of a connection is not valid")
        .with_hint("expected `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`");
pub const CONNECTION_READ_ONLY: ErrorCode = ErrorCode::permanent("connection_read_only", "The connection is read-only")
    .with_hint("use a connection that may be written, or remove `read_only` from its configuration");
pub const CONNECTION_UNAVAILABLE: ErrorCode =
    ErrorCode::transient("connection_unavailable", "The target database does not answer");
pub const CONNECTION_UNKNOWN: ErrorCode =
    ErrorCode::permanent("connection_unknown", "The configuration has no such connection");
pub const DATABASE_REFUSED: ErrorCode =
    ErrorCode::permanent("database_refused", "The database refused the row").with_status(422);
pub const LEASE_LOST: ErrorCode = ErrorCode::stopped("lease_lost", "A later attempt of the step has taken over");
pub const RECORD_AMBIGUOUS: ErrorCode = ErrorCode::permanent("record_ambiguous", "Several records have the same key")
    .with_hint("name a unique column as the `key` of the param");
pub const REFERENCE_MISSING: ErrorCode =
    ErrorCode::permanent("reference_missing", "The row refers to a row that is not there").with_status(422);
pub const REPORT_SQL_REFUSED: ErrorCode =
    ErrorCode::permanent("report_sql_refused", "The SQL of a report may only read")
        .with_hint("write one `SELECT`; a function that only reads is listed in `functions` of the connection");
pub const REPORT_TIMEOUT: ErrorCode =
    ErrorCode::permanent("report_timeout", "The query took longer than its `timeout`")
        .with_hint("raise `timeout` in the step's `with`, or let the query do less");
pub const SQL_INVALID: ErrorCode = ErrorCode::permanent("sql_invalid", "The SQL cannot be parsed");
pub const SQL_PARAMETER_INVALID: ErrorCode =
    ErrorCode::permanent("sql_parameter_invalid", "A value cannot be bound to its SQL parameter")
        .with_hint("PostgreSQL has no text with NUL");
pub const SQL_PARAMETER_MISSING: ErrorCode =
    ErrorCode::permanent("sql_parameter_missing", "A parameter of the SQL has no value");
pub const SQL_PARAMETER_UNKNOWN: ErrorCode =
    ErrorCode::permanent("sql_parameter_unknown", "The SQL does not use a bound parameter")
        .with_hint("remove it from `bind`, or use it in the SQL");
pub const SQL_REFUSED: ErrorCode = ErrorCode::permanent("sql_refused", "The statement is not allowed here");
pub const SQL_RESULT_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("sql_result_too_large", "The statement returns too much")
        .with_hint("let it give less, as with `LIMIT`; `report.query` writes files");
pub const SQL_TYPE_UNSUPPORTED: ErrorCode =
    ErrorCode::permanent("sql_type_unsupported", "A column has a type that cannot be read")
        .with_hint("cast it, as in `CAST(x AS text)`, or use `to_jsonb(x)`");
pub const SQL_VALUE_INVALID: ErrorCode =
    ErrorCode::permanent("sql_value_invalid", "The database cannot convert a value to the type of its column");
pub const TABLE_RESERVED: ErrorCode = ErrorCode::permanent("table_reserved", "The table belongs to afterload")
    .with_hint("write into a table of your own");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    AUDIENCE_KEY_INVALID,
    BATCH_CURSOR_INVALID,
    CHECKPOINT_INVALID,
    COLUMN_NOT_FOUND,
    COLUMN_REQUIRED,
    CONFLICT,
    CONFLICT_KEYS_NOT_UNIQUE,
    CONNECTION_INVALID,
    CONNECTION_READ_ONLY,
    CONNECTION_UNAVAILABLE,
    CONNECTION_UNKNOWN,
    DATABASE_REFUSED,
    LEASE_LOST,
    RECORD_AMBIGUOUS,
    REFERENCE_MISSING,
    REPORT_SQL_REFUSED,
    REPORT_TIMEOUT,
    SQL_INVALID,
    SQL_PARAMETER_INVALID,
    SQL_PARAMETER_MISSING,
    SQL_PARAMETER_UNKNOWN,
    SQL_REFUSED,
    SQL_RESULT_TOO_LARGE,
    SQL_TYPE_UNSUPPORTED,
    SQL_VALUE_INVALID,
    TABLE_RESERVED,
];
