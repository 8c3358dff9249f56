//! What goes wrong inside the store, and what S3 clients are told of it.

use std::fmt;
use std::io;

use rusqlite::ErrorCode;
use s3s::{S3Error, S3ErrorCode};

/// A failure of the store: an answer that S3 has a code for, or trouble with the disk.
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
    /// Trouble is logged here and told without paths. A full disk and a locked index pass, so clients may try again.
    fn from(fault: S3ServerError) -> Self {
        let passing = match &fault {
            S3ServerError::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => {
                matches!(error.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)
            }
            S3ServerError::Io(error) => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            S3ServerError::S3(_) | S3ServerError::Sqlite(_) | S3ServerError::Other(_) => false,
        };
        match fault {
            S3ServerError::S3(error) => error,
            trouble if passing => {
                tracing::warn!("the embedded object store cannot work right now: {trouble}");
                Self::with_message(S3ErrorCode::ServiceUnavailable, "The store is busy or its disk is full.")
            }
            trouble => {
                tracing::error!("the embedded object store failed: {trouble}");
                Self::new(S3ErrorCode::InternalError)
            }
        }
    }
}

/// An answer with S3's code and a sentence of ours.
pub(super) fn s3_error(code: S3ErrorCode, message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::with_message(code, message)
}
