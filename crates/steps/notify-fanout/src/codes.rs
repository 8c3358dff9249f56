//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{DATABASE_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_egress::codes::{
    EGRESS_BLOCKED, HTTP_BROKEN, HTTP_CLIENT_FAILED, HTTP_RATE_LIMITED, HTTP_TIMEOUT, HTTP_UNREACHABLE,
};
pub(crate) use afterload_mailer::codes::{MAIL_INVALID_RECIPIENT, MAIL_RATE_LIMITED};
pub(crate) use afterload_pipeline::codes::WITH_INVALID;
pub(crate) use afterload_target_db::codes::{CHECKPOINT_INVALID, COLUMN_NOT_FOUND};

pub const AUDIENCE_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("audience_too_large", "The list of recipients is too large")
        .with_hint("let the query of `mentions` find who is meant; larger audiences are `followers`");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[AUDIENCE_TOO_LARGE];
