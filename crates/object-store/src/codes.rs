//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{CONFIG_INVALID, DISK_FULL, OUT_OF_MEMORY, TOO_MANY_OPEN_FILES};
use afterload_core::error::ErrorCode;

pub const BUCKET_NOT_CONFIGURED: ErrorCode =
    ErrorCode::permanent("bucket_not_configured", "The bucket is not configured")
        .with_status(422)
        .with_hint("name its store under `objects.buckets`");
pub const OBJECT_ACCESS_DENIED: ErrorCode =
    ErrorCode::permanent("object_access_denied", "The store does not let us read the file").with_status(422);
pub const OBJECT_CHANGED: ErrorCode =
    ErrorCode::permanent("object_changed", "The file in the store is another one").with_status(422);
pub const OBJECT_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("object_not_found", "The file is not in the store").with_status(422);
pub const OBJECT_STORE_ERROR: ErrorCode =
    ErrorCode::permanent("object_store_error", "The object store refused the request");
pub const OBJECT_STORE_UNAVAILABLE: ErrorCode =
    ErrorCode::transient("object_store_unavailable", "The object store does not answer");
pub const PREFIX_EMPTY: ErrorCode =
    ErrorCode::permanent("prefix_empty", "An empty prefix would delete the whole bucket");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    BUCKET_NOT_CONFIGURED,
    OBJECT_ACCESS_DENIED,
    OBJECT_CHANGED,
    OBJECT_NOT_FOUND,
    OBJECT_STORE_ERROR,
    OBJECT_STORE_UNAVAILABLE,
    PREFIX_EMPTY,
];
