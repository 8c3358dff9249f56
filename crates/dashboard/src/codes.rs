//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::INTERNAL_ERROR;
use afterload_core::error::ErrorCode;
pub(crate) use afterload_engine::codes::PIPELINE_NOT_FOUND;
pub(crate) use afterload_server::codes::{BODY_TOO_LARGE, KEY_INVALID, NOT_FOUND, SCOPE_MISSING, SIGN_IN_INVALID};
pub(crate) use afterload_state::codes::RUN_NOT_FOUND;

pub const DASHBOARD_NEEDS_HTTPS: ErrorCode =
    ErrorCode::permanent("dashboard_needs_https", "The dashboard signs in over HTTPS, or on the same machine")
        .with_status(403)
        .with_hint("put a proxy with TLS in front and set `public_url`, or use `ssh -L 8080:localhost:8080 HOST`");
pub const ORIGIN_REFUSED: ErrorCode =
    ErrorCode::permanent("origin_refused", "The request comes from a page of another site")
        .with_status(403)
        .with_hint("open the dashboard at the address in `public_url`; a proxy has to pass on `Host`");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[DASHBOARD_NEEDS_HTTPS, ORIGIN_REFUSED];
