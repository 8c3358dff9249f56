//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

use crate::error_code::ErrorCode;

pub const CONFIG_INVALID: ErrorCode = ErrorCode::permanent("config_invalid", "The configuration is not valid");
pub const DATABASE_ERROR: ErrorCode = ErrorCode::permanent("database_error", "The database refused a statement");
pub const DATABASE_UNAVAILABLE: ErrorCode =
    ErrorCode::transient("database_unavailable", "The database does not answer");
pub const DEFINITION_INVALID: ErrorCode =
    ErrorCode::permanent("definition_invalid", "The definition cannot be run by this version").with_status(409);
pub const DISK_FULL: ErrorCode =
    ErrorCode::shortage("disk_full", "The disk is full").with_hint("make room; what waits for it goes on by itself");
pub const FILE_NOT_AUTHORIZED: ErrorCode =
    ErrorCode::permanent("file_not_authorized", "The run may not read the file").with_hint(
        "files come from params of type `file`, from uploads, or from earlier steps of the run; other data cannot name one",
    );
pub const INTERNAL_ERROR: ErrorCode = ErrorCode::permanent("internal_error", "Something is wrong with the service");
pub const IO_ERROR: ErrorCode = ErrorCode::transient("io_error", "A file cannot be read or written");
pub const LISTEN_FAILED: ErrorCode = ErrorCode::permanent("listen_failed", "The service cannot listen on its address");
pub const OUT_OF_MEMORY: ErrorCode = ErrorCode::shortage("out_of_memory", "The system has no more memory to give")
    .with_hint("what waits for it goes on by itself; a smaller `concurrency` under `queues` needs less at a time");
pub const STEP_STOPPED: ErrorCode = ErrorCode::stopped("step_stopped", "The step was asked to stop");
pub const TABLE_NOT_FOUND: ErrorCode = ErrorCode::permanent("table_not_found", "There is no such table");
pub const TOO_MANY_OPEN_FILES: ErrorCode =
    ErrorCode::shortage("too_many_open_files", "The process or the system has too many open files")
        .with_hint("raise the limit (`ulimit -n`, `LimitNOFILE`); what waits for it goes on by itself");
pub const TEXT_INVALID: ErrorCode = ErrorCode::permanent("text_invalid", "A text cannot be stored")
    .with_status(422)
    .with_hint("leave out the character NUL (`\\u0000`, `%00`)");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    CONFIG_INVALID,
    DATABASE_ERROR,
    DATABASE_UNAVAILABLE,
    DEFINITION_INVALID,
    DISK_FULL,
    FILE_NOT_AUTHORIZED,
    INTERNAL_ERROR,
    IO_ERROR,
    LISTEN_FAILED,
    OUT_OF_MEMORY,
    STEP_STOPPED,
    TABLE_NOT_FOUND,
    TOO_MANY_OPEN_FILES,
    TEXT_INVALID,
];
