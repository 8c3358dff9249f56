//! What every error has: a stable code, its HTTP status, and whether another try can help.

use std::fmt;

/// Whether doing the same again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retryability {
    /// The same input will fail again.
    Permanent,
    /// The outside world failed; the same attempt may succeed later.
    Transient,
    /// The machine lacks a resource, such as disk space; nothing is wrong with the work, and it waits.
    Shortage,
    /// Somebody asked for the work to stop (cancellation, a timeout, a shutdown); nothing is wrong with it.
    Stopped,
}

/// The stable identity of an error. API clients, mails and logs match on its name.
///
/// Each crate declares its codes in its module `codes`; `docs/error-codes.md` lists them all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    name: &'static str,
    status: u16,
    retryability: Retryability,
    hint: Option<&'static str>,
    summary: &'static str,
}

impl ErrorCode {
    /// A code of errors that the same input will meet again.
    pub const fn permanent(name: &'static str, summary: &'static str) -> Self {
        Self { name, status: 500, retryability: Retryability::Permanent, hint: None, summary }
    }

    /// A code of errors that a later attempt may not meet.
    pub const fn transient(name: &'static str, summary: &'static str) -> Self {
        Self { name, status: 503, retryability: Retryability::Transient, hint: None, summary }
    }

    /// A code for a resource that the machine lacks.
    pub const fn shortage(name: &'static str, summary: &'static str) -> Self {
        Self { name, status: 503, retryability: Retryability::Shortage, hint: None, summary }
    }

    /// A code for work that was asked to stop.
    pub const fn stopped(name: &'static str, summary: &'static str) -> Self {
        Self { name, status: 503, retryability: Retryability::Stopped, hint: None, summary }
    }

    /// Sets the HTTP status; without it, permanent errors have 500 and all others 503.
    #[must_use]
    pub const fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets the hint of errors that bring none of their own.
    #[must_use]
    pub const fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The code as text, such as `run_not_found`.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The HTTP status of a response that this error ends.
    pub const fn status(self) -> u16 {
        self.status
    }

    /// Whether another try can help, unless the error says otherwise.
    pub const fn retryability(self) -> Retryability {
        self.retryability
    }

    /// What to do about it, unless the error says otherwise.
    pub const fn hint(self) -> Option<&'static str> {
        self.hint
    }

    /// What the code means: one sentence without a full stop.
    pub const fn summary(self) -> &'static str {
        self.summary
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}
