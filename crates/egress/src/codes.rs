//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

use afterload_core::error::ErrorCode;

pub const EGRESS_BLOCKED: ErrorCode = ErrorCode::permanent("egress_blocked", "The address must not be called")
    .with_hint("`http.allow` in the configuration names what may be called all the same");
pub const HTTP_ANSWER_INVALID: ErrorCode = ErrorCode::permanent("http_answer_invalid", "The response cannot be read");
pub const HTTP_BODY_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("http_body_too_large", "The response is larger than allowed");
pub const HTTP_BROKEN: ErrorCode = ErrorCode::transient("http_broken", "The connection broke during the call");
pub const HTTP_CLIENT_FAILED: ErrorCode =
    ErrorCode::permanent("http_client_failed", "The HTTP client cannot be set up")
        .with_hint("install the certificates of the system (`ca-certificates`) and start the service again");
pub const HTTP_HEADER_INVALID: ErrorCode =
    ErrorCode::permanent("http_header_invalid", "A header of the request cannot be sent");
pub const HTTP_RATE_LIMITED: ErrorCode =
    ErrorCode::transient("http_rate_limited", "The server limits the rate of calls");
pub const HTTP_REDIRECT_REFUSED: ErrorCode =
    ErrorCode::permanent("http_redirect_refused", "The redirect was not followed");
pub const HTTP_REFUSED: ErrorCode = ErrorCode::permanent("http_refused", "The server refused the call");
pub const HTTP_SERVER_ERROR: ErrorCode = ErrorCode::transient("http_server_error", "The server failed");
pub const HTTP_TIMEOUT: ErrorCode = ErrorCode::transient("http_timeout", "The call took too long");
pub const HTTP_UNEXPECTED_STATUS: ErrorCode =
    ErrorCode::permanent("http_unexpected_status", "The server answered with an unexpected status");
pub const HTTP_UNREACHABLE: ErrorCode = ErrorCode::transient("http_unreachable", "The server cannot be reached");
pub const HTTP_URL_INVALID: ErrorCode = ErrorCode::permanent("http_url_invalid", "The address cannot be called");
pub const WEBHOOK_EXPIRED: ErrorCode =
    ErrorCode::permanent("webhook_expired", "The webhook is too old").with_status(401);
pub const WEBHOOK_INVALID: ErrorCode =
    ErrorCode::permanent("webhook_invalid", "The webhook is not signed by its sender").with_status(401);

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    EGRESS_BLOCKED,
    HTTP_ANSWER_INVALID,
    HTTP_BODY_TOO_LARGE,
    HTTP_BROKEN,
    HTTP_CLIENT_FAILED,
    HTTP_HEADER_INVALID,
    HTTP_RATE_LIMITED,
    HTTP_REDIRECT_REFUSED,
    HTTP_REFUSED,
    HTTP_SERVER_ERROR,
    HTTP_TIMEOUT,
    HTTP_UNEXPECTED_STATUS,
    HTTP_UNREACHABLE,
    HTTP_URL_INVALID,
    WEBHOOK_EXPIRED,
    WEBHOOK_INVALID,
];
