//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

#[cfg(test)]
pub(crate) use afterload_core::codes::DATABASE_UNAVAILABLE;
pub(crate) use afterload_core::codes::STEP_STOPPED;
use afterload_core::error::ErrorCode;
pub(crate) use afterload_mailer::codes::{
    MAIL_RECIPIENT_REFUSED, MAIL_REFUSED, MAIL_SERVER_UNAVAILABLE, MAIL_SMTPUTF8_UNSUPPORTED, MAIL_UNCERTAIN,
    MAIL_UNSUBSCRIBE_UNAVAILABLE,
};
pub(crate) use afterload_pipeline::codes::WITH_INVALID;
pub(crate) use afterload_target_db::codes::{BATCH_CURSOR_INVALID, COLUMN_NOT_FOUND};

pub const BATCH_COUNT_INVALID: ErrorCode =
    ErrorCode::permanent("batch_count_invalid", "The `count` query does not return a whole number")
        .with_hint("write it as `SELECT COUNT(*) FROM …`");
pub const EFFECT_UNREADABLE: ErrorCode =
    ErrorCode::permanent("effect_unreadable", "The recorded outcome of a call cannot be read");
pub const FILE_DIGEST_MISMATCH: ErrorCode =
    ErrorCode::permanent("file_digest_mismatch", "The file does not have the expected digest")
        .with_hint("it was changed or damaged on the way");
pub const FILE_TOO_LARGE: ErrorCode = ErrorCode::permanent("file_too_large", "The file is larger than allowed")
    .with_hint("`max_size` of the step sets the limit");
pub const FILE_TYPE_REFUSED: ErrorCode =
    ErrorCode::permanent("file_type_refused", "The file has a type that is not allowed")
        .with_hint("its name and declared type play no part; send another file");
pub const GEO_IP_INVALID: ErrorCode = ErrorCode::permanent("geo_ip_invalid", "The text is not an IP address");
pub const GEO_TOO_MANY: ErrorCode =
    ErrorCode::permanent("geo_too_many", "Too many addresses are to be looked up at once")
        .with_hint("look up the `rows` of a table");
pub const MAIL_ATTACHMENT_COUNT: ErrorCode =
    ErrorCode::permanent("mail_attachment_count", "The mail has too many attachments")
        .with_hint("pack them, or link to them with `links`");
pub const MAIL_ATTACHMENTS_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("mail_attachments_too_large", "The attachments are too large")
        .with_hint("link to the files with `links`, or raise `limits.mail.attachments`");
pub const MAIL_LINK_IMPOSSIBLE: ErrorCode =
    ErrorCode::permanent("mail_link_impossible", "The file cannot be linked to")
        .with_hint("only files that a run received or made can be linked, as long as they are kept");
pub const MAIL_RECIPIENT_COUNT: ErrorCode =
    ErrorCode::permanent("mail_recipient_count", "The mail has no recipient, or too many");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    BATCH_COUNT_INVALID,
    EFFECT_UNREADABLE,
    FILE_DIGEST_MISMATCH,
    FILE_TOO_LARGE,
    FILE_TYPE_REFUSED,
    GEO_IP_INVALID,
    GEO_TOO_MANY,
    MAIL_ATTACHMENT_COUNT,
    MAIL_ATTACHMENTS_TOO_LARGE,
    MAIL_LINK_IMPOSSIBLE,
    MAIL_RECIPIENT_COUNT,
];
