//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

#[cfg(test)]
pub(crate) use afterload_core::codes::DATABASE_UNAVAILABLE;
pub(crate) use afterload_core::codes::DEFINITION_INVALID;
pub(crate) use afterload_core::codes::{DATABASE_ERROR, FILE_NOT_AUTHORIZED, INTERNAL_ERROR, TEXT_INVALID};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_egress::codes::{WEBHOOK_EXPIRED, WEBHOOK_INVALID};
pub(crate) use afterload_engine::codes::{
    CONCURRENCY_KEY_INVALID, DEFINITION_MISMATCH, HOPS_EXCEEDED, PIPELINE_NOT_FOUND, QUEUE_NOT_FOUND, QUEUE_UNKNOWN,
    RUN_ENDED, RUN_FILES_EXPIRED, RUN_NEVER_BEGAN, RUN_NOT_ENDED, RUN_SUCCEEDED,
};
pub(crate) use afterload_mailer::codes::{BOUNCE_INVALID, BOUNCE_UNKNOWN};
pub(crate) use afterload_object_store::codes::{
    BUCKET_NOT_CONFIGURED, OBJECT_ACCESS_DENIED, OBJECT_CHANGED, OBJECT_NOT_FOUND,
};
pub(crate) use afterload_pipeline::codes::{PARAM_WRONG_TYPE, PARAMS_INVALID};
pub(crate) use afterload_state::codes::RUN_NOT_FOUND;

pub const ADMIN_KEY_INVALID: ErrorCode =
    ErrorCode::permanent("admin_key_invalid", "The admin key of the configuration cannot be used")
        .with_hint("make one with `openssl rand -hex 32`");
pub const ARTIFACT_GONE: ErrorCode =
    ErrorCode::permanent("artifact_gone", "The file is no longer there").with_status(410);
pub const ARTIFACT_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("artifact_not_found", "There is no such file").with_status(404);
pub const BODY_INCOMPLETE: ErrorCode = ErrorCode::permanent("body_incomplete", "The body ended early").with_status(400);
pub const BODY_TOO_LARGE: ErrorCode = ErrorCode::permanent("body_too_large", "The body is too large")
    .with_status(413)
    .with_hint("send files as parts of a form; `limits.body` in the configuration raises the limit");
pub const BUCKET_FORBIDDEN: ErrorCode =
    ErrorCode::permanent("bucket_forbidden", "The API key may not name this bucket").with_status(403);
pub const BUCKET_INVALID: ErrorCode = ErrorCode::permanent("bucket_invalid", "The name of a bucket is empty");
pub const EVENT_INVALID: ErrorCode = ErrorCode::permanent("event_invalid", "The event cannot be taken")
    .with_status(422)
    .with_hint("letters, digits, `.`, `_` and `-`, at most 100, such as `order.accepted`");
pub const FILE_EXPIRED: ErrorCode = ErrorCode::permanent("file_expired", "The file has expired")
    .with_status(410)
    .with_hint("`retention` of the pipeline or of the configuration says how long files are kept");
pub const HEADER_INVALID: ErrorCode =
    ErrorCode::permanent("header_invalid", "A header cannot be read").with_status(400);
pub const HOOK_UNAVAILABLE: ErrorCode =
    ErrorCode::transient("hook_unavailable", "The notification cannot be processed at the moment");
pub const IDEMPOTENCY_KEY_REUSED: ErrorCode =
    ErrorCode::permanent("idempotency_key_reused", "The key came with another request before")
        .with_status(422)
        .with_hint("use a new key for each thing that you want done");
pub const JSON_INVALID: ErrorCode =
    ErrorCode::permanent("json_invalid", "The body is not the JSON that was expected").with_status(400);
pub const KEY_INVALID: ErrorCode = ErrorCode::permanent("key_invalid", "The API key is not valid").with_status(401);
pub const KEY_MISSING: ErrorCode = ErrorCode::permanent("key_missing", "An API key is needed").with_status(401);
pub const LINK_EXPIRED: ErrorCode = ErrorCode::permanent("link_expired", "The link has expired")
    .with_status(410)
    .with_hint("ask whoever sent the mail for a new one");
pub const LINK_NOT_FOUND: ErrorCode = ErrorCode::permanent("link_not_found", "There is no such link").with_status(404);
pub const LINK_REVOKED: ErrorCode = ErrorCode::permanent("link_revoked", "The link has been taken back")
    .with_status(410)
    .with_hint("ask whoever sent the mail");
pub const LISTEN_WITHOUT_KEY: ErrorCode =
    ErrorCode::permanent("listen_without_key", "The service would be open to others without an API key")
        .with_hint("set `AFTERLOAD_ADMIN_KEY`, or make a key with `afterload key new --name admin --scope admin`");
pub const METHOD_NOT_ALLOWED: ErrorCode = ErrorCode::permanent("method_not_allowed", "The method does not fit")
    .with_status(405)
    .with_hint("the header `Allow` lists the methods that it takes");
pub const MULTIPART_INVALID: ErrorCode =
    ErrorCode::permanent("multipart_invalid", "The form cannot be read").with_status(400);
pub const NOT_FOUND: ErrorCode = ErrorCode::permanent("not_found", "There is nothing here").with_status(404);
pub const NOT_READY: ErrorCode = ErrorCode::transient("not_ready", "The service is not ready");
pub const NOTIFICATION_INVALID: ErrorCode =
    ErrorCode::permanent("notification_invalid", "The notification cannot be read")
        .with_status(400)
        .with_hint("send event notifications in the format of S3, or messages of SNS that hold them");
pub const NOTIFICATION_UNKNOWN: ErrorCode =
    ErrorCode::permanent("notification_unknown", "The notification is no event of S3")
        .with_status(422)
        .with_hint("send event notifications of S3: plain, or in messages of SNS, SQS or EventBridge");
pub const PARAM_BUCKET_INVALID: ErrorCode =
    ErrorCode::permanent("param_bucket_invalid", "The bucket of a file param is not a valid name").with_status(422);
pub const PARAM_FILE_AMBIGUOUS: ErrorCode =
    ErrorCode::permanent("param_file_ambiguous", "A file param names its file in more than one way").with_status(422);
pub const PARAM_KEY_INVALID: ErrorCode =
    ErrorCode::permanent("param_key_invalid", "The object key of a file param is not valid").with_status(422);
pub const PARAM_REPEATED: ErrorCode = ErrorCode::permanent("param_repeated", "A param is given twice").with_status(422);
pub const PARAM_TAKES_NO_FILE: ErrorCode =
    ErrorCode::permanent("param_takes_no_file", "A file came for a param that takes none").with_status(422);
pub const QUERY_INVALID: ErrorCode = ErrorCode::permanent("query_invalid", "The query cannot be read").with_status(400);
pub const RANGE_NOT_SATISFIABLE: ErrorCode =
    ErrorCode::permanent("range_not_satisfiable", "The range lies outside of the file").with_status(416);
pub const REQUEST_TIMEOUT: ErrorCode =
    ErrorCode::permanent("request_timeout", "The body did not arrive in time").with_status(408);
pub const RUN_OPTIONS_INVALID: ErrorCode =
    ErrorCode::permanent("run_options_invalid", "The run cannot be started in this way").with_status(422);
pub const SCOPE_INVALID: ErrorCode = ErrorCode::permanent("scope_invalid", "The scope of an API key is not valid");
pub const SCOPE_MISSING: ErrorCode =
    ErrorCode::permanent("scope_missing", "The API key may not do this").with_status(403);
pub const SECRET_KEY_MISSING: ErrorCode =
    ErrorCode::permanent("secret_key_missing", "The configuration has no secret key");
pub const SHUTTING_DOWN: ErrorCode = ErrorCode::stopped("shutting_down", "The service is shutting down");
pub const SIGN_IN_INVALID: ErrorCode = ErrorCode::permanent("sign_in_invalid", "The code to sign in does not work")
    .with_status(401)
    .with_hint("`afterload ui` makes a new one, which works once and for five minutes");
pub const STEP_NOT_FOUND: ErrorCode = ErrorCode::permanent("step_not_found", "There is no such step")
    .with_status(404)
    .with_hint("`GET /v1/runs/ID` lists its steps");
pub const SUPPRESSION_INVALID: ErrorCode =
    ErrorCode::permanent("suppression_invalid", "The address cannot be suppressed in this way").with_status(422);
pub const SUPPRESSION_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("suppression_not_found", "There is no such suppressed address")
        .with_status(404)
        .with_hint("`GET /v1/mail/suppressions` lists them");
pub const TOKEN_INVALID: ErrorCode = ErrorCode::permanent("token_invalid", "The token is not valid").with_status(401);
pub const TOO_MANY_CONNECTIONS: ErrorCode =
    ErrorCode::transient("too_many_connections", "Too many connections handle requests");
pub const TOO_MANY_RUN_WATCHERS: ErrorCode =
    ErrorCode::transient("too_many_run_watchers", "Too many clients watch this run")
        .with_status(429)
        .with_hint("read the run without its events; `limits.watchers.per_run` in the configuration sets the limit");
pub const TOO_MANY_FILES: ErrorCode = ErrorCode::permanent("too_many_files", "The request has too many files")
    .with_status(422)
    .with_hint("start several runs with fewer files; `limits.files` in the configuration raises the limit");
pub const TOO_MANY_PARTS: ErrorCode = ErrorCode::permanent("too_many_parts", "The form has too many parts")
    .with_status(422)
    .with_hint("send many values as one list or map; `limits.form_parts` in the configuration raises the limit");
pub const TOO_MANY_ATTEMPTS: ErrorCode =
    ErrorCode::transient("too_many_attempts", "Too many wrong keys or tokens came from this address")
        .with_status(429)
        .with_hint("wait as long as `Retry-After` says; `limits.wrong_keys` in the configuration is the limit");
pub const TOO_MANY_UPLOADS: ErrorCode = ErrorCode::transient("too_many_uploads", "Too many uploads are under way");
pub const TOO_MANY_WATCHERS: ErrorCode = ErrorCode::transient("too_many_watchers", "Too many clients watch runs");
pub const UNSUPPORTED_MEDIA_TYPE: ErrorCode =
    ErrorCode::permanent("unsupported_media_type", "The content type is not understood")
        .with_status(415)
        .with_hint("send `application/json` or `multipart/form-data`");
pub const UPLOAD_EXPIRED: ErrorCode =
    ErrorCode::permanent("upload_expired", "The upload has expired").with_status(410).with_hint("announce it again");
pub const UPLOAD_IN_PROGRESS: ErrorCode =
    ErrorCode::transient("upload_in_progress", "Another request is sending the file")
        .with_status(409)
        .with_hint("wait for the other request, or end it");
pub const UPLOAD_INCOMPLETE: ErrorCode = ErrorCode::permanent("upload_incomplete", "The file has not arrived")
    .with_status(409)
    .with_hint("send the bytes to the `url` of the upload first");
pub const UPLOAD_NOT_FOUND: ErrorCode = ErrorCode::permanent("upload_not_found", "There is no such upload")
    .with_status(404)
    .with_hint("announce it with `POST /v1/uploads`");
pub const UPLOAD_SIZE_DIFFERS: ErrorCode =
    ErrorCode::permanent("upload_size_differs", "The file has another size than was announced")
        .with_status(409)
        .with_hint("send the file that was announced, or announce another one");
pub const UPLOAD_TOO_LARGE: ErrorCode =
    ErrorCode::permanent("upload_too_large", "The file is too large").with_status(413);

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    ADMIN_KEY_INVALID,
    ARTIFACT_GONE,
    ARTIFACT_NOT_FOUND,
    BODY_INCOMPLETE,
    BODY_TOO_LARGE,
    BUCKET_FORBIDDEN,
    BUCKET_INVALID,
    EVENT_INVALID,
    FILE_EXPIRED,
    HEADER_INVALID,
    HOOK_UNAVAILABLE,
    IDEMPOTENCY_KEY_REUSED,
    JSON_INVALID,
    KEY_INVALID,
    KEY_MISSING,
    LINK_EXPIRED,
    LINK_NOT_FOUND,
    LINK_REVOKED,
    LISTEN_WITHOUT_KEY,
    METHOD_NOT_ALLOWED,
    MULTIPART_INVALID,
    NOT_FOUND,
    NOT_READY,
    NOTIFICATION_INVALID,
    NOTIFICATION_UNKNOWN,
    PARAM_BUCKET_INVALID,
    PARAM_FILE_AMBIGUOUS,
    PARAM_KEY_INVALID,
    PARAM_REPEATED,
    PARAM_TAKES_NO_FILE,
    QUERY_INVALID,
    RANGE_NOT_SATISFIABLE,
    REQUEST_TIMEOUT,
    RUN_OPTIONS_INVALID,
    SCOPE_INVALID,
    SCOPE_MISSING,
    SECRET_KEY_MISSING,
    SHUTTING_DOWN,
    SIGN_IN_INVALID,
    STEP_NOT_FOUND,
    SUPPRESSION_INVALID,
    SUPPRESSION_NOT_FOUND,
    TOKEN_INVALID,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_RUN_WATCHERS,
    TOO_MANY_FILES,
    TOO_MANY_PARTS,
    TOO_MANY_ATTEMPTS,
    TOO_MANY_UPLOADS,
    TOO_MANY_WATCHERS,
    UNSUPPORTED_MEDIA_TYPE,
    UPLOAD_EXPIRED,
    UPLOAD_IN_PROGRESS,
    UPLOAD_INCOMPLETE,
    UPLOAD_NOT_FOUND,
    UPLOAD_SIZE_DIFFERS,
    UPLOAD_TOO_LARGE,
];
