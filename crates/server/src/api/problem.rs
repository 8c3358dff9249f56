//! Error responses in the one format of RFC 9457, `application/problem+json`. Only this file maps codes to statuses.

use std::any::Any;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use afterload_core::error::{Error, Retryability};

/// Codes, their status and their title. Codes that are not here are ours to mend (500) or the outside world's (503).
const PROBLEM_CODES: &[(&str, StatusCode, &str)] = &[
    ("header_invalid", StatusCode::BAD_REQUEST, "A header cannot be read"),
    ("json_invalid", StatusCode::BAD_REQUEST, "The body is not the JSON that was expected"),
    ("multipart_invalid", StatusCode::BAD_REQUEST, "The form cannot be read"),
    ("body_incomplete", StatusCode::BAD_REQUEST, "The body ended early"),
    ("notification_invalid", StatusCode::BAD_REQUEST, "The notification cannot be read"),
    ("step_not_found", StatusCode::NOT_FOUND, "There is no such step"),
    ("query_invalid", StatusCode::BAD_REQUEST, "The query cannot be read"),
    ("key_missing", StatusCode::UNAUTHORIZED, "An API key is needed"),
    ("key_invalid", StatusCode::UNAUTHORIZED, "The API key is not valid"),
    ("token_invalid", StatusCode::UNAUTHORIZED, "The token is not valid"),
    ("webhook_invalid", StatusCode::UNAUTHORIZED, "The webhook is not signed by its sender"),
    ("webhook_expired", StatusCode::UNAUTHORIZED, "The webhook is too old"),
    ("scope_missing", StatusCode::FORBIDDEN, "The API key may not do this"),
    ("bucket_forbidden", StatusCode::FORBIDDEN, "The API key may not name this bucket"),
    ("not_found", StatusCode::NOT_FOUND, "There is nothing here"),
    ("pipeline_not_found", StatusCode::NOT_FOUND, "There is no such pipeline"),
    ("queue_not_found", StatusCode::NOT_FOUND, "There is no such queue"),
    ("run_not_found", StatusCode::NOT_FOUND, "There is no such run"),
    ("upload_not_found", StatusCode::NOT_FOUND, "There is no such upload"),
    ("upload_incomplete", StatusCode::CONFLICT, "The file has not arrived"),
    ("upload_size_differs", StatusCode::CONFLICT, "The file has another size than was announced"),
    ("upload_expired", StatusCode::GONE, "The upload has expired"),
    ("artifact_not_found", StatusCode::NOT_FOUND, "There is no such file"),
    ("link_not_found", StatusCode::NOT_FOUND, "There is no such link"),
    ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, "The method does not fit"),
    ("run_ended", StatusCode::CONFLICT, "The run has ended"),
    ("run_files_expired", StatusCode::CONFLICT, "The files of the run are no longer kept"),
    ("run_succeeded", StatusCode::CONFLICT, "The run has succeeded"),
    ("run_never_began", StatusCode::CONFLICT, "The run has no step to go on from"),
    ("run_not_ended", StatusCode::CONFLICT, "The run has not ended"),
    ("definition_invalid", StatusCode::CONFLICT, "The definition cannot be run by this version"),
    ("request_timeout", StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time"),
    ("artifact_gone", StatusCode::GONE, "The file is no longer there"),
    ("file_expired", StatusCode::GONE, "The file has expired"),
    ("link_expired", StatusCode::GONE, "The link has expired"),
    ("link_revoked", StatusCode::GONE, "The link has been taken back"),
    ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
    ("upload_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The file is too large"),
    ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The content type is not understood"),
    ("range_not_satisfiable", StatusCode::RANGE_NOT_SATISFIABLE, "The range lies outside of the file"),
    ("params_invalid", StatusCode::UNPROCESSABLE_ENTITY, "The parameters do not fit the pipeline"),
    ("run_options_invalid", StatusCode::UNPROCESSABLE_ENTITY, "The run cannot be started in this way"),
    ("concurrency_key_invalid", StatusCode::UNPROCESSABLE_ENTITY, "The `concurrency.key` of the run has no value"),
    ("event_invalid", StatusCode::UNPROCESSABLE_ENTITY, "The event cannot be taken"),
    ("idempotency_key_reused", StatusCode::UNPROCESSABLE_ENTITY, "The key came with another request before"),
    ("object_not_found", StatusCode::UNPROCESSABLE_ENTITY, "The file is not in the store"),
    ("object_changed", StatusCode::UNPROCESSABLE_ENTITY, "The file in the store is another one"),
    ("object_access_denied", StatusCode::UNPROCESSABLE_ENTITY, "The store does not let us read the file"),
    ("bucket_not_configured", StatusCode::UNPROCESSABLE_ENTITY, "The bucket is not configured"),
    ("not_supported_yet", StatusCode::UNPROCESSABLE_ENTITY, "This is not supported yet"),
    ("not_ready", StatusCode::SERVICE_UNAVAILABLE, "The service is not ready"),
    ("too_many_uploads", StatusCode::SERVICE_UNAVAILABLE, "Too many uploads are under way"),
    ("database_unavailable", StatusCode::SERVICE_UNAVAILABLE, "The database does not answer"),
    ("object_store_unavailable", StatusCode::SERVICE_UNAVAILABLE, "The object store does not answer"),
];

const INTERNAL_PROBLEM: (StatusCode, &str) = (StatusCode::INTERNAL_SERVER_ERROR, "Something is wrong with the service");
const UNAVAILABLE_PROBLEM: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "The service is not ready");
/// The `Retry-After` of an error that names no time.
const DEFAULT_RETRY_AFTER_SECS: u64 = 2;

/// An error that becomes a response.
#[derive(Clone, Debug)]
pub struct Problem {
    error: Error,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self { error, headers: Vec::new() }
    }
}

impl Problem {
    /// Creates a permanent error.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Error::permanent(code, message).into()
    }

    /// Adds what the client can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.error = self.error.with_hint(hint);
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The original error, for the log.
    pub fn source_error(&self) -> &Error {
        &self.error
    }

    fn code_status_title(&self) -> (&'static str, StatusCode, &'static str) {
        let code = self.error.code();
        match (PROBLEM_CODES.iter().find(|(known, ..)| *known == code), self.error.retryability()) {
            (Some((_, status, title)), _) => (code, *status, title),
            (None, Retryability::Permanent) => ("internal_error", INTERNAL_PROBLEM.0, INTERNAL_PROBLEM.1),
            (None, Retryability::Transient | Retryability::Stopped) => {
                (code, UNAVAILABLE_PROBLEM.0, UNAVAILABLE_PROBLEM.1)
            }
        }
    }

    /// The body of the response. Internal details stay in the log.
    pub(super) fn to_json(&self, request_id: &str) -> Value {
        let (code, status, title) = self.code_status_title();
        let (detail, hint, details) = match status {
            StatusCode::INTERNAL_SERVER_ERROR => {
                ("something went wrong inside of the service; its log says what".into(), None, None)
            }
            status if status.is_server_error() => {
                ("the service cannot answer at the moment".into(), Some("try again in a moment".into()), None)
            }
            _ => {
                let hint = self.error.hint_text().map(str::to_owned);
                (self.error.message().to_owned(), hint, self.error.details().cloned())
            }
        };
        let kind = format!("urn:afterload:{code}");
        let (status, request_id) = (status.as_u16(), request_id.to_owned());
        let body =
            ProblemBody { kind, title: title.into(), status, code: code.into(), detail, hint, details, request_id };
        serde_json::to_value(body).unwrap_or_default()
    }
}

/// The body of every error response.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemBody {
    /// `urn:afterload:CODE`
    #[serde(rename = "type")]
    kind: String,
    /// The meaning of the code.
    title: String,
    /// The status of the response.
    status: u16,
    /// A stable code, for programs.
    code: String,
    /// The error message, for people.
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Details for programs; for `params_invalid`, every invalid param.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    /// The id of the request, as in the log and in the header `X-Request-Id`.
    request_id: String,
}

/// The status and the title of a code.
pub(super) fn status_and_title(code: &str) -> (StatusCode, &'static str) {
    let entry = PROBLEM_CODES.iter().find(|(known, ..)| *known == code);
    entry.map_or(INTERNAL_PROBLEM, |(_, status, title)| (*status, *title))
}

/// A response without a body. The outermost layer has the request id; it writes the body and the log entry.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (code, status, _) = self.code_status_title();
        let mut response = status.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = self.error.retry_after().map_or(DEFAULT_RETRY_AFTER_SECS, |wait| wait.as_secs().max(1));
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = match code {
                "key_missing" => HeaderValue::from_static("Bearer"),
                _ => HeaderValue::from_static(r#"Bearer error="invalid_token""#),
            };
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Responds to paths without a route.
pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::new("not_found", format!("nothing is served at `{}`", uri.path()))
}

/// Responds to methods that a path does not support; the router adds `Allow`.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new("method_not_allowed", format!("`{}` does not take `{method}`", uri.path()))
        .with_hint("the header `Allow` lists the methods that it takes")
}

/// Responds after a panic in a handler.
pub(super) fn panic_response(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no message");
    Problem::from(Error::permanent("internal_error", format!("a handler panicked: {text}"))).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_code_table_is_consistent() {
        let codes: BTreeSet<_> = PROBLEM_CODES.iter().map(|(code, ..)| *code).collect();
        assert_eq!(codes.len(), PROBLEM_CODES.len(), "every code stands once");
        for (code, status, title) in PROBLEM_CODES {
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "`{code}`");
            assert!(status.is_client_error() || *status == StatusCode::SERVICE_UNAVAILABLE, "`{code}`: {status}");
            assert!(title.starts_with(|first: char| first.is_ascii_uppercase()), "`{code}`: {title}");
        }
    }

    #[test]
    fn internal_details_are_not_sent_to_clients() {
        let secret = "no such table: step_runs at /srv/data";
        for error in [Error::permanent("database_error", secret), Error::transient("database_unavailable", secret)] {
            let problem = Problem::from(error.with_hint(secret).with_details(json!(secret)));
            assert!(!problem.to_json("1").to_string().contains("step_runs"), "{}", problem.to_json("1"));
        }
    }
}
