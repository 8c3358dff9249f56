//! Every refusal in one shape, RFC 9457 `application/problem+json`.

use std::any::Any;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::codes;
use afterload_core::error::{Error, ErrorCode, Retryability};
use afterload_core::text::shorten_text;

/// The `Retry-After` of an error that names no time.
const DEFAULT_RETRY_AFTER_SECS: u64 = 2;

/// How much of a message is sent. Messages repeat what the caller sent, which may be long.
const MAX_DETAIL_CHARS: usize = 32_000;

/// The codes of a key, a token or a signature that is not the right one.
const WRONG_CREDENTIAL_CODES: [ErrorCode; 3] = [codes::KEY_INVALID, codes::TOKEN_INVALID, codes::WEBHOOK_INVALID];

/// Marks a response that rejects a key, a token or a signature, because such responses are counted.
#[derive(Clone, Copy)]
pub(super) struct WrongCredential;

/// Marks a page that rejects a credential, so that it is counted as a [`Problem`] would be.
pub fn mark_wrong_credential(response: &mut Response) {
    response.extensions_mut().insert(WrongCredential);
}

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
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Error::new(code, message).into()
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

    /// The code and the status that the client sees. An error of ours shows as `internal_error`, and as 503 where another
    /// try may help.
    pub(super) fn code_and_status(&self) -> (ErrorCode, StatusCode) {
        let code = self.error.code();
        match (code.status(), self.error.retryability()) {
            (500.., Retryability::Permanent) => (codes::INTERNAL_ERROR, StatusCode::INTERNAL_SERVER_ERROR),
            (500.., Retryability::Transient | Retryability::Stopped | Retryability::Shortage) => {
                (code, StatusCode::SERVICE_UNAVAILABLE)
            }
            (status, _) => (code, StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
        }
    }

    /// The value of `Retry-After`.
    pub(super) fn retry_after_secs(&self) -> u64 {
        self.error.retry_after().map_or(DEFAULT_RETRY_AFTER_SECS, |wait| wait.as_secs().max(1))
    }

    /// The body of the response. Internal details stay in the log.
    pub fn to_json(&self, request_id: &str) -> Value {
        let (code, status) = self.code_and_status();
        let (detail, hint, details) = match status {
            StatusCode::INTERNAL_SERVER_ERROR => {
                ("something went wrong inside of the service; its log says what".into(), None, None)
            }
            status if status.is_server_error() => {
                ("the service cannot answer at the moment".into(), Some("try again in a moment".into()), None)
            }
            _ => {
                let hint = self.error.hint_text().map(|hint| shorten_text(hint, MAX_DETAIL_CHARS).into_owned());
                let detail = shorten_text(self.error.message(), MAX_DETAIL_CHARS).into_owned();
                (detail, hint, self.error.details().cloned())
            }
        };
        let kind = format!("urn:afterload:{code}");
        let (status, request_id) = (status.as_u16(), request_id.to_owned());
        let body = ProblemBody {
            kind,
            title: code.summary().into(),
            status,
            code: code.name().into(),
            detail,
            hint,
            details,
            request_id,
        };
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

/// A response without a body. The outermost layer has the request id; it writes the body and the log entry.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (code, status) = self.code_and_status();
        let mut response = status.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let is_busy = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        if is_busy || self.error.retry_after().is_some() {
            headers.insert(RETRY_AFTER, self.retry_after_secs().into());
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = match code {
                codes::KEY_MISSING => HeaderValue::from_static("Bearer"),
                _ => HeaderValue::from_static(r#"Bearer error="invalid_token""#),
            };
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        if WRONG_CREDENTIAL_CODES.contains(&code) {
            response.extensions_mut().insert(WrongCredential);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Responds to paths without a route.
pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::new(codes::NOT_FOUND, format!("nothing is served at `{}`", uri.path()))
}

/// Responds to methods that a path does not support; the router adds `Allow`.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(codes::METHOD_NOT_ALLOWED, format!("`{}` does not take `{method}`", uri.path()))
}

/// Responds after a panic in a handler.
pub(super) fn panic_response(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no message");
    Problem::from(Error::new(codes::INTERNAL_ERROR, format!("a handler panicked: {text}"))).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn internal_details_are_not_sent_to_clients() {
        let secret = "no such table: step_runs at /srv/data";
        for error in [Error::new(codes::DATABASE_ERROR, secret), Error::new(codes::DATABASE_UNAVAILABLE, secret)] {
            let problem = Problem::from(error.with_hint(secret).with_details(json!(secret)));
            assert!(!problem.to_json("1").to_string().contains("step_runs"), "{}", problem.to_json("1"));
        }
    }
}
