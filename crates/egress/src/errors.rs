//! What went wrong with a call, in our words: stable codes, and never an address with its path and query.

use std::error::Error as _;
use std::time::Duration;

use reqwest::StatusCode;

use super::policy::BlockedAddress;
use crate::codes;
use afterload_core::error::{Error, Retryability};
use afterload_core::units::{self, ByteSize};

/// The error for what reqwest met on the way to `shown`.
pub(super) fn from_reqwest(error: &reqwest::Error, shown: &str) -> Error {
    let mut reason = None;
    let mut inner = error.source();
    while let Some(error) = inner {
        if let Some(found) = error.downcast_ref::<BlockedAddress>() {
            return address_blocked(found, shown);
        }
        reason = Some(error.to_string());
        inner = error.source();
    }
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    if error.is_builder() {
        Error::new(codes::HTTP_URL_INVALID, format!("`{shown}` cannot be called"))
    } else if error.is_connect() && error.is_timeout() {
        Error::new(codes::HTTP_UNREACHABLE, format!("`{shown}` took too long to connect"))
    } else if error.is_connect() {
        Error::new(codes::HTTP_UNREACHABLE, format!("`{shown}` could not be reached{reason}"))
    } else if error.is_timeout() {
        Error::new(codes::HTTP_TIMEOUT, format!("`{shown}` took too long"))
    } else {
        Error::new(codes::HTTP_BROKEN, format!("the connection broke while `{shown}` was under way{reason}"))
    }
}

/// The error for an address that must not be called.
pub(super) fn address_blocked(BlockedAddress(what): &BlockedAddress, shown: &str) -> Error {
    Error::new(codes::EGRESS_BLOCKED, format!("`{shown}` leads to {what}, which must not be called"))
        .with_hint("`http.allow` in the configuration names what may be called all the same")
}

/// The error for a call that was not over in time.
pub(super) fn call_timed_out(shown: &str, limit: Duration) -> Error {
    let limit = units::HumanDuration(limit);
    Error::new(codes::HTTP_TIMEOUT, format!("`{shown}` was not over within {limit}"))
}

/// The error for a body with more bytes than are allowed.
pub(super) fn body_too_large(shown: &str, most: u64) -> Error {
    let most = ByteSize(most);
    Error::new(codes::HTTP_BODY_TOO_LARGE, format!("the answer to `{shown}` is larger than {most}"))
}

/// The error for a status that was not wanted.
pub(super) fn unexpected_status(status: StatusCode, shown: &str, wait: Option<Duration>) -> Error {
    let message = format!("`{shown}` was answered with {status}");
    let error = match status.as_u16() {
        429 => Error::new(codes::HTTP_RATE_LIMITED, message),
        500..=599 => Error::new(codes::HTTP_SERVER_ERROR, message),
        // Too slow, and too early.
        408 | 425 => Error::new(codes::HTTP_REFUSED, message).with_retryability(Retryability::Transient),
        400..=499 => Error::new(codes::HTTP_REFUSED, message),
        _ => Error::new(codes::HTTP_UNEXPECTED_STATUS, message),
    };
    let error = error.with_details(serde_json::json!({ "status": status.as_u16() }));
    match wait {
        Some(wait) if error.is_transient() => error.with_retry_after(wait),
        _ => error,
    }
}
