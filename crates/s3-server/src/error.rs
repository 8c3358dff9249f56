//! Errors of the store, and the S3 errors that clients see.

use std::fmt;
use std::io;

use rusqlite::ErrorCode;
use s3s::{S3Error, S3ErrorCode};

use afterload_core::shortage;
/// The message of a fault that is logged here.
pub(super) const INTERNAL_ERROR_TEXT: &str = "The store failed; its log says why.";

/// An error of the store: an S3 error for the client, or an internal failure.
#[derive(Debug)]
pub(super) enum S3ServerError {
    S3(S3Error),
    Sqlite(rusqlite::Error),
    Io(io::Error),
    Other(String),
}

impl fmt::Display for S3ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(error) => write!(f, "{}", error.code().as_str()),
            Self::Sqlite(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<S3Error> for S3ServerError {
    fn from(error: S3Error) -> Self {
        Self::S3(error)
    }
}

impl From<S3ErrorCode> for S3ServerError {
    fn from(code: S3ErrorCode) -> Self {
        Self::S3(code.into())
    }
}

impl From<rusqlite::Error> for S3ServerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<io::Error> for S3ServerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<S3ServerError> for S3Error {
    /// Internal failures are logged here, and clients see no paths. A lack of resources and a locked index are transient, so
    /// clients may retry.
    fn from(fault: S3ServerError) -> Self {
        if let Some(code) = fault.find_shortage() {
            tracing::warn!(error.code = code.name(), "the embedded object store is temporarily unavailable: {fault}");
            return shortage_error(code);
        }
        let passing = match &fault {
            S3ServerError::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => {
                matches!(error.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            }
            S3ServerError::S3(_) | S3ServerError::Io(_) | S3ServerError::Sqlite(_) | S3ServerError::Other(_) => false,
        };
        match fault {
            S3ServerError::S3(error) => error,
            trouble if passing => {
                tracing::warn!("the embedded object store is temporarily unavailable: {trouble}");
                Self::with_message(S3ErrorCode::ServiceUnavailable, "The store is busy.")
            }
            trouble => {
                tracing::error!("the embedded object store failed: {trouble}");
                Self::with_message(S3ErrorCode::InternalError, INTERNAL_ERROR_TEXT)
            }
        }
    }
}

impl S3ServerError {
    fn find_shortage(&self) -> Option<afterload_core::error::ErrorCode> {
        match self {
            Self::Io(error) => shortage::find_code(error),
            Self::Sqlite(error) => {
                let code = error.sqlite_error().and_then(|error| u32::try_from(error.extended_code).ok());
                code.and_then(shortage::sqlite_code).or_else(|| shortage::find_code(error))
            }
            Self::S3(_) | Self::Other(_) => None,
        }
    }
}

/// A response with status 503, after which clients retry. Its code tells ours which resource is missing.
fn shortage_error(code: afterload_core::error::ErrorCode) -> S3Error {
    let name = afterload_object_store::shortage_response_code(code);
    let mut error = S3Error::with_message(S3ErrorCode::Custom(name.into()), code.summary().to_owned() + ".");
    error.set_status_code(hyper::StatusCode::SERVICE_UNAVAILABLE);
    error
}

/// An S3 error with its code and our message.
pub(super) fn s3_error(code: S3ErrorCode, message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::with_message(code, message)
}
