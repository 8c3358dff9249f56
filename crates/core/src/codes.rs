//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

use crate::error_code::ErrorCode;

pub const CONFIG_INVALID: ErrorCode = ErrorCode::permanent("config_invalid", "The configuration is not valid");
pub const DATABASE_ERROR: ErrorCode = ErrorCode::permanent("database_error", "The database refused a statement");
pub const DATABASE_UNAVAILABLE: ErrorCode =
    ErrorCode::transient("database_unavailable", "The database does not answer");
pub const DEFINITION_INVALID: ErrorCode =
    ErrorCode::permanent("definition_invalid", "The definition cannot be run by this version").with_status(409);
pub const FILE_NOT_AUTHORIZED: ErrorCode =
    ErrorCode::permanent("file_not_authorized", "The run may not read the file").with_hint(
        "files come from params of type `file`, from uploads, or from earlier steps of the run; other data cannot name one",
    );
pub const INTERNAL_ERROR: ErrorCode = ErrorCode::permanent("internal_error", "Something is wrong with the service");
pub const IO_ERROR: ErrorCode = ErrorCode::transient("io_error", "A file cannot be read or written");
pub const LISTEN_FAILED: ErrorCode = ErrorCode::permanent("listen_failed", "The service cannot listen on its address");
pub const STEP_STOPPED: ErrorCode = ErrorCode::stopped("step_stopped", "The step was asked to stop");
pub const TABLE_NOT_FOUND: ErrorCode = ErrorCode::permanent("table_not_found", "There is no such table");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    CONFIG_INVALID,
    DATABASE_ERROR,
    DATABASE_UNAVAILABLE,
    DEFINITION_INVALID,
    FILE_NOT_AUTHORIZED,
    INTERNAL_ERROR,
    IO_ERROR,
    LISTEN_FAILED,
    STEP_STOPPED,
    TABLE_NOT_FOUND,
];
