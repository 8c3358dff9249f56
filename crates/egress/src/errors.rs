//! The errors of outgoing calls: stable codes, and never a URL's path or query.

use std::error::Error as _;
use std::time::Duration;

use reqwest::StatusCode;

use super::policy::BlockedAddress;
use afterload_core::error::Error;
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
    if error.is_builder() {
        Error::permanent("http_url_invalid", format!("`{shown}` cannot be called"))
    } else if error.is_connect() && error.is_timeout() {
        Error::transient("http_unreachable", format!("`{shown}` took too long to connect"))
    } else if error.is_connect() {
        Error::transient("http_unreachable", format!("`{shown}` could not be reached{reason}"))
    } else if error.is_timeout() {
        Error::transient("http_timeout", format!("`{shown}` took too long"))
    } else {
        Error::transient("http_broken", format!("the connection broke while `{shown}` was under way{reason}"))
    }
}

pub(super) fn address_blocked(BlockedAddress(what): &BlockedAddress, shown: &str) -> Error {
    Error::permanent("egress_blocked", format!("`{shown}` leads to {what}, which must not be called"))
        .with_hint("`http.allow` in the configuration names what may be called all the same")
}

/// The error for a call that exceeded its timeout.
pub(super) fn call_timed_out(shown: &str, limit: Duration) -> Error {
    let limit = units::HumanDuration(limit);
    Error::transient("http_timeout", format!("`{shown}` was not over within {limit}"))
}

/// The error for a body above the limit.
pub(super) fn body_too_large(shown: &str, most: u64) -> Error {
    let most = ByteSize(most);
    Error::permanent("http_body_too_large", format!("the answer to `{shown}` is larger than {most}"))
}

pub(super) fn unexpected_status(status: StatusCode, shown: &str, wait: Option<Duration>) -> Error {
    let message = format!("`{shown}` was answered with {status}");
    let error = match status.as_u16() {
        429 => Error::transient("http_rate_limited", message),
        500..=599 => Error::transient("http_server_error", message),
        // 408 Request Timeout and 425 Too Early: the server asks for the same request again.
        408 | 425 => Error::transient("http_refused", message),
        400..=499 => Error::permanent("http_refused", message),
        _ => Error::permanent("http_unexpected_status", message),
    };
    let error = error.with_details(serde_json::json!({ "status": status.as_u16() }));
    match wait {
        Some(wait) if error.is_transient() => error.with_retry_after(wait),
        _ => error,
    }
}
