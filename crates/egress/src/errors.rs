//! The errors of outgoing calls: stable codes, and never a URL's query; its path only if the caller asks for it.

use std::error::Error as _;
use std::time::Duration;

use reqwest::StatusCode;

use super::policy::BlockedAddress;
use crate::codes;
use afterload_core::error::{Error, Retryability};
use afterload_core::shortage;
use afterload_core::units::{self, ByteSize};

/// Converts an error of reqwest. `shown` names the request.
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
    if let Some(code) = shortage::find_code(error) {
        Error::new(code, format!("`{shown}` could not be called{reason}"))
    } else if error.is_builder() {
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

pub(super) fn address_blocked(BlockedAddress(what): &BlockedAddress, shown: &str) -> Error {
    Error::new(codes::EGRESS_BLOCKED, format!("`{shown}` leads to {what}, which must not be called"))
}

/// The error for a call that exceeded its timeout.
pub(super) fn call_timed_out(shown: &str, limit: Duration) -> Error {
    let limit = units::HumanDuration(limit);
    Error::new(codes::HTTP_TIMEOUT, format!("`{shown}` was not over within {limit}"))
}

/// The error for a body above the limit.
pub(super) fn body_too_large(shown: &str, most: u64) -> Error {
    let most = ByteSize(most);
    Error::new(codes::HTTP_BODY_TOO_LARGE, format!("the answer to `{shown}` is larger than {most}"))
}

/// The error for a status. `answer` is what else is shown of the answer; it may be empty.
pub(super) fn unexpected_status(status: StatusCode, shown: &str, answer: &str, wait: Option<Duration>) -> Error {
    let message = format!("`{shown}` was answered with {status}{answer}");
    let error = match status.as_u16() {
        429 => Error::new(codes::HTTP_RATE_LIMITED, message),
        500..=599 => Error::new(codes::HTTP_SERVER_ERROR, message),
        // 408 Request Timeout and 425 Too Early: the server asks for the same request again.
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
