//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{IO_ERROR, LISTEN_FAILED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_object_store::codes::OBJECT_STORE_ERROR;

pub const CREDENTIALS_INVALID: ErrorCode =
    ErrorCode::permanent("credentials_invalid", "The file with the S3 credentials cannot be used")
        .with_hint("remove the file and new credentials are made");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[CREDENTIALS_INVALID];
