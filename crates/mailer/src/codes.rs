//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

use afterload_core::error::ErrorCode;

pub const BOUNCE_INVALID: ErrorCode =
    ErrorCode::permanent("bounce_invalid", "The report of a bounce cannot be read").with_status(422).with_hint(
        "send the message whole as `message/rfc822`, or the JSON of the provider's webhook as `application/json`",
    );
pub const BOUNCE_UNKNOWN: ErrorCode =
    ErrorCode::permanent("bounce_unknown", "The report of a bounce is of no known provider")
        .with_status(422)
        .with_hint("Amazon SES (also through SNS), Postmark, SendGrid and Mailgun are known");
pub const MAIL_AUTH_FAILED: ErrorCode = ErrorCode::permanent("mail_auth_failed", "The mail server refused the login")
    .with_hint("check `mail.smtp.user` and `mail.smtp.password`");
pub const MAIL_DEFERRED: ErrorCode = ErrorCode::transient("mail_deferred", "The mail server deferred the mail");
pub const MAIL_DKIM_INVALID: ErrorCode =
    ErrorCode::permanent("mail_dkim_invalid", "Mails cannot be signed with DKIM")
        .with_hint("`mail.dkim` needs a `selector`, a `domain` and a `key_file`; `openssl genpkey -algorithm ed25519` or `openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048` makes a key");
pub const MAIL_HEADER_INVALID: ErrorCode =
    ErrorCode::permanent("mail_header_invalid", "A header of the mail is not valid")
        .with_hint("use `In-Reply-To`, `References`, `List-…`, `X-…`, `Comments`, `Keywords`, `Organization`, `Precedence`, `Importance`, `Priority` or `Feedback-ID`");
pub const MAIL_INVALID: ErrorCode = ErrorCode::permanent("mail_invalid", "The mail cannot be built");
pub const MAIL_INVALID_RECIPIENT: ErrorCode =
    ErrorCode::permanent("mail_invalid_recipient", "The address of a recipient is not valid");
pub const MAIL_INVALID_SENDER: ErrorCode =
    ErrorCode::permanent("mail_invalid_sender", "The address of the sender is not valid");
pub const MAIL_OUTBOX_FAILED: ErrorCode =
    ErrorCode::transient("mail_outbox_failed", "The mail cannot be written to the outbox");
pub const MAIL_OUTCOME_UNKNOWN: ErrorCode =
    ErrorCode::transient("mail_outcome_unknown", "The connection broke before the mail server confirmed the mail");
pub const MAIL_RATE_LIMITED: ErrorCode =
    ErrorCode::transient("mail_rate_limited", "The mail waits for its turn under `mail.per_minute`");
pub const MAIL_RECIPIENT_REFUSED: ErrorCode =
    ErrorCode::permanent("mail_recipient_refused", "The mail server refused the recipient");
pub const MAIL_REFUSED: ErrorCode = ErrorCode::permanent("mail_refused", "The mail server refused the mail");
pub const MAIL_SERVER_UNAVAILABLE: ErrorCode =
    ErrorCode::transient("mail_server_unavailable", "The mail server cannot be reached");
pub const MAIL_SMTPUTF8_UNSUPPORTED: ErrorCode =
    ErrorCode::permanent("mail_smtputf8_unsupported", "The mail server takes no addresses outside ASCII")
        .with_hint("use an address in ASCII, or a mail server that offers SMTPUTF8");
pub const MAIL_TEMPLATE_INVALID: ErrorCode =
    ErrorCode::permanent("mail_template_invalid", "The mail template cannot be rendered");
pub const MAIL_TEMPLATE_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("mail_template_not_found", "There is no such mail template");
pub const MAIL_TLS_FAILED: ErrorCode =
    ErrorCode::permanent("mail_tls_failed", "No TLS connection to the mail server is possible");
pub const MAIL_UNCERTAIN: ErrorCode =
    ErrorCode::permanent("mail_uncertain", "It is not known whether the mail was sent")
        .with_hint("look for it at the recipient; `on_uncertain: resend` would send it again");
pub const MAIL_UNSUBSCRIBE_UNAVAILABLE: ErrorCode =
    ErrorCode::permanent("mail_unsubscribe_unavailable", "The mail cannot carry a link to unsubscribe")
        .with_hint("set `public_url` in the configuration of every process that sends mails");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    BOUNCE_INVALID,
    BOUNCE_UNKNOWN,
    MAIL_AUTH_FAILED,
    MAIL_DEFERRED,
    MAIL_DKIM_INVALID,
    MAIL_HEADER_INVALID,
    MAIL_INVALID,
    MAIL_INVALID_RECIPIENT,
    MAIL_INVALID_SENDER,
    MAIL_OUTBOX_FAILED,
    MAIL_OUTCOME_UNKNOWN,
    MAIL_RATE_LIMITED,
    MAIL_RECIPIENT_REFUSED,
    MAIL_REFUSED,
    MAIL_SERVER_UNAVAILABLE,
    MAIL_SMTPUTF8_UNSUPPORTED,
    MAIL_TEMPLATE_INVALID,
    MAIL_TEMPLATE_NOT_FOUND,
    MAIL_TLS_FAILED,
    MAIL_UNCERTAIN,
    MAIL_UNSUBSCRIBE_UNAVAILABLE,
];
