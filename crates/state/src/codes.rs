//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{DATABASE_ERROR, DATABASE_UNAVAILABLE, IO_ERROR};
use afterload_core::error::ErrorCode;

pub const DATABASE_INCOMPATIBLE: ErrorCode =
    ErrorCode::permanent("database_incompatible", "Another build of afterload created the tables of this database")
        .with_hint("use a new database or an empty data folder, or run the build that created this one");
pub const DATABASE_EXTENSION_MISSING: ErrorCode =
    ErrorCode::permanent("database_extension_missing", "PostgreSQL lacks an extension");
pub const DATABASE_URL_INVALID: ErrorCode =
    ErrorCode::permanent("database_url_invalid", "The address of the database is not valid");
pub const MIGRATION_FAILED: ErrorCode = ErrorCode::permanent("migration_failed", "The tables cannot be migrated");
pub const QUEUE_ERROR: ErrorCode = ErrorCode::permanent("queue_error", "The job queue failed");
pub const QUEUE_UNSUPPORTED: ErrorCode =
    ErrorCode::permanent("queue_unsupported", "The tables of the job queue do not fit this version");
pub const RUN_NOT_FOUND: ErrorCode = ErrorCode::permanent("run_not_found", "There is no such run").with_status(404);

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    DATABASE_INCOMPATIBLE,
    DATABASE_EXTENSION_MISSING,
    DATABASE_URL_INVALID,
    MIGRATION_FAILED,
    QUEUE_ERROR,
    QUEUE_UNSUPPORTED,
    RUN_NOT_FOUND,
];
