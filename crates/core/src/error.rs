//! The error type of all crates: a stable code, a message, a hint, and whether a retry can help.

use std::fmt;
use std::time::Duration;

use crate::codes;
pub use crate::error_code::{ErrorCode, Retryability};
use crate::shortage;

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error for people (message and hint) and for programs (code).
///
/// The message is lower case without a full stop, with names in backticks.
#[derive(Clone)]
pub struct Error(Box<ErrorParts>);

#[derive(Clone)]
struct ErrorParts {
    code: ErrorCode,
    message: String,
    hint: Option<String>,
    retryability: Retryability,
    retry_after: Option<Duration>,
    details: Option<serde_json::Value>,
}

impl Error {
    /// An error with the hint and the retryability of its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorParts {
            code,
            message: message.into(),
            hint: code.hint().map(str::to_owned),
            retryability: code.retryability(),
            retry_after: None,
            details: None,
        }))
    }

    /// Says whether another try can help, where this error differs from others of its code.
    #[must_use]
    pub fn with_retryability(mut self, retryability: Retryability) -> Self {
        self.0.retryability = retryability;
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds how long the other side asks us to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Adds details for programs, such as the diagnostics of a definition.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Prefixes the message with the action that failed: `reading x: file not found`.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// Replaces every text with the result of `word`: message, hint and details.
    #[must_use]
    pub fn map_text(mut self, word: impl Fn(&str) -> String) -> Self {
        fn map_strings(value: &mut serde_json::Value, word: &impl Fn(&str) -> String) {
            match value {
                serde_json::Value::String(text) => *text = word(text),
                serde_json::Value::Array(items) => items.iter_mut().for_each(|item| map_strings(item, word)),
                serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| map_strings(field, word)),
                _ => {}
            }
        }
        self.0.message = word(&self.0.message);
        self.0.hint = self.0.hint.as_deref().map(&word);
        if let Some(details) = &mut self.0.details {
            map_strings(details, &word);
        }
        self
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The message, without the hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether a retry can help.
    pub fn retryability(&self) -> Retryability {
        self.0.retryability
    }

    /// True if a retry can help.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.retryability, Retryability::Transient | Retryability::Shortage)
    }

    /// True if the machine lacks a resource: the work itself may go on later.
    pub fn is_shortage(&self) -> bool {
        self.0.retryability == Retryability::Shortage
    }

    /// How long the other side asks us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The details for programs.
    pub fn details(&self) -> Option<&serde_json::Value> {
        self.0.details.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}, {:?}]", self.0.message, self.0.code, self.0.retryability)
    }
}

impl std::error::Error for Error {}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let reported = error.as_database_error().and_then(|db| shortage_db_code(db.code().as_deref()));
        if let Some(code) = reported.or_else(|| shortage::find_code(&error)) {
            return Self::new(code, database_error_message(&error));
        }
        match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::new(codes::DATABASE_UNAVAILABLE, error.to_string())
            }
            sqlx::Error::Database(db) if is_transient_db_code(db.code().as_deref()) => {
                Self::new(codes::DATABASE_UNAVAILABLE, database_error_message(&error))
            }
            _ => Self::new(codes::DATABASE_ERROR, database_error_message(&error)),
        }
    }
}

/// The message of a database error, without the location in the database's own source code.
pub fn database_error_message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

/// The resource that a database lacks: SQLSTATE 53100 and 53200, or SQLite's NOMEM (7), CANTOPEN (14) and FULL (13).
fn shortage_db_code(code: Option<&str>) -> Option<ErrorCode> {
    let code = code?;
    match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => shortage::sqlite_code(number),
        Ok(53100) => Some(codes::DISK_FULL),
        Ok(53200) => Some(codes::OUT_OF_MEMORY),
        _ => None,
    }
}

/// Matches SQLSTATE classes 08, 40, 53, 57 and 58 (connection, rollback, resources, shutdown, system), 55P03 (lock not
/// available), 25006 (read-only: an old primary after a failover) and 0A000 (a cached plan that no longer fits).
/// Matches SQLite's BUSY (5), LOCKED (6), IOERR (10), FULL (13) and their extended codes.
fn is_transient_db_code(code: Option<&str>) -> bool {
    let Some(code) = code else { return false };
    match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => matches!(number & 0xff, 5 | 6 | 10 | 13),
        _ => ["08", "40", "53", "57", "58", "55P03", "25006", "0A000"].iter().any(|class| code.starts_with(class)),
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        if let Some(code) = shortage::find_code(&error) {
            return Self::new(code, error.to_string());
        }
        match error.kind() {
            NotFound | PermissionDenied => {
                Self::new(codes::IO_ERROR, error.to_string()).with_retryability(Retryability::Permanent)
            }
            _ => Self::new(codes::IO_ERROR, error.to_string()),
        }
    }
}
