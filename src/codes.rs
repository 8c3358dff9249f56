//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{CONFIG_INVALID, DEFINITION_INVALID, INTERNAL_ERROR, LISTEN_FAILED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_engine::codes::QUEUES_INVALID;
pub(crate) use afterload_mailer::codes::MAIL_UNSUBSCRIBE_UNAVAILABLE;
#[cfg(test)]
pub(crate) use afterload_mailer::codes::{MAIL_TEMPLATE_INVALID, MAIL_TEMPLATE_NOT_FOUND};
pub(crate) use afterload_server::codes::KEY_MISSING;
#[cfg(test)]
pub(crate) use afterload_server::codes::SCOPE_INVALID;
pub(crate) use afterload_target_db::codes::SQL_REFUSED;

pub const CONFIG_NOT_FOUND: ErrorCode = ErrorCode::permanent("config_not_found", "There is no such configuration file");
pub const DEMO_FAILED: ErrorCode =
    ErrorCode::transient("demo_failed", "The demo failed").with_hint("`afterload runs` shows what did start");
pub const DEMO_FOLDER_IN_USE: ErrorCode = ErrorCode::permanent("demo_folder_in_use", "The folder of the demo exists")
    .with_hint("name a folder that does not exist yet with `--dir`; the demo writes over what it finds");
pub const DEMO_INVALID: ErrorCode = ErrorCode::permanent("demo_invalid", "The scenario of the demo cannot be read");
pub const DEMO_STOPPED: ErrorCode = ErrorCode::stopped("demo_stopped", "The demo was interrupted");
pub const KEY_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("key_not_found", "There is no such API key").with_hint("`afterload key list` shows them");
pub const KEY_TAKEN: ErrorCode =
    ErrorCode::transient("key_taken", "Another API key has the same id").with_hint("try again");
pub const LOG_FORMAT_INVALID: ErrorCode = ErrorCode::permanent("log_format_invalid", "The log format is not valid");
pub const OBJECT_STORE_MISSING: ErrorCode =
    ErrorCode::permanent("object_store_missing", "The worker does not find the embedded object store");
pub const PIPELINES_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("pipelines_not_found", "There is no such pipeline file or folder");
pub const REQUEST_REFUSED: ErrorCode = ErrorCode::permanent("request_refused", "The service refused the request");
pub const SERVICE_UNREACHABLE: ErrorCode = ErrorCode::transient("service_unreachable", "The service cannot be reached")
    .with_hint("is `afterload serve` running? `--url` says where it is");
pub const STORE_NOT_EMBEDDED: ErrorCode =
    ErrorCode::permanent("store_not_embedded", "The object store is not the embedded one")
        .with_hint("use the keys of that store");
pub const URL_INVALID: ErrorCode = ErrorCode::permanent("url_invalid", "The address of the service is not valid");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    CONFIG_NOT_FOUND,
    DEMO_FAILED,
    DEMO_FOLDER_IN_USE,
    DEMO_INVALID,
    DEMO_STOPPED,
    KEY_NOT_FOUND,
    KEY_TAKEN,
    LOG_FORMAT_INVALID,
    OBJECT_STORE_MISSING,
    PIPELINES_NOT_FOUND,
    REQUEST_REFUSED,
    SERVICE_UNREACHABLE,
    STORE_NOT_EMBEDDED,
    URL_INVALID,
];
