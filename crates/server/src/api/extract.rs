//! Extractors for requests. Every failure is a problem with a code.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;

use super::problem::{Problem, not_found};
use crate::codes;
use afterload_core::decimal::parse_exact_json;
use afterload_core::error::{Error, Result};
use afterload_core::text::{nul_error, refuse_nul_in_json};
use afterload_core::units::ByteSize;
use afterload_egress::HOPS_HEADER;
use afterload_http_listener::SlowBodyError;

/// How long a small body may take to arrive.
const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The single name or id in the path.
pub(super) struct PathId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            // A path that is not UTF-8 names nothing.
            Err(_) => Err(not_found(parts.uri.clone()).await),
        }
    }
}

/// The names and ids in the path, in order.
pub(super) struct PathIds<const N: usize>(pub [String; N]);

impl<S: Send + Sync, const N: usize> FromRequestParts<S> for PathIds<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let ids = Path::<Vec<String>>::from_request_parts(parts, state).await.ok();
        match ids.and_then(|Path(ids)| ids.try_into().ok()) {
            Some(ids) => Ok(Self(ids)),
            None => Err(not_found(parts.uri.clone()).await),
        }
    }
}

/// The query. Unknown fields are rejected.
pub(super) struct StrictQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        read.map(|query| Self(query.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let reason = text.rsplit_once("query string: ").map_or(text.as_str(), |(_, reason)| reason);
            Problem::new(codes::QUERY_INVALID, reason)
        })
    }
}

/// Refuses URLs whose path or query holds the character NUL. No name and no id holds it, and PostgreSQL would refuse it.
pub(super) async fn refuse_nul_in_url(request: Request, next: Next) -> Response {
    let uri = request.uri();
    let holds_nul = uri.path().contains("%00") || uri.query().is_some_and(|query| query.contains("%00"));
    match holds_nul {
        true => Problem::from(nul_error("the URL")).into_response(),
        false => next.run(request).await,
    }
}

/// How many runs came before a run that the request starts, as steps and notifications of runs name it.
///
/// # Errors
/// `header_invalid`
pub(super) fn chain_hops(headers: &HeaderMap) -> Result<u32> {
    let Some(value) = headers.get(HOPS_HEADER) else { return Ok(0) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::new(codes::HEADER_INVALID, format!("`{HOPS_HEADER}` is not a number"))
            .with_hint("leave it out, or send on the one that came with the request of a run")
    })
}

/// The media type without parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
}

/// Reads a JSON object of at most `limit`; `None` for an empty body. `example` is for error messages.
///
/// # Errors
/// `json_invalid`, `text_invalid`, `body_too_large`, `body_incomplete`, `request_timeout`
pub(super) async fn read_json_body<T: DeserializeOwned>(
    body: Body,
    limit: ByteSize,
    example: &str,
) -> Result<Option<T>> {
    let bytes = read_body(body, limit).await?;
    refuse_nul_in_json("the body", &bytes)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // serde would accept an array for a struct, and its error would name Rust types.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    if !is_object && serde_json::from_slice::<IgnoredAny>(&bytes).is_ok() {
        let message = format!("the body is not the JSON that was expected: expected an object such as `{example}`");
        return Err(Error::new(codes::JSON_INVALID, message).with_details(json!({ "line": 1, "column": 1 })));
    }
    let parsed = match str::from_utf8(&bytes) {
        Ok(text) => parse_exact_json(text),
        Err(_) => serde_json::from_slice(&bytes),
    };
    parsed.map(Some).map_err(|error| json_invalid("the body", &error))
}

/// Reads a body of at most `limit`.
///
/// # Errors
/// `body_too_large`, `body_incomplete`, `request_timeout`
pub(super) async fn read_body(body: Body, limit: ByteSize) -> Result<Bytes> {
    let most = usize::try_from(limit.0).unwrap_or(usize::MAX);
    let read = tokio::time::timeout(REQUEST_BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    let read = read.map_err(|_| request_timeout())?;
    let read = read.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => body_too_large(limit),
        Err(error) => body_error("the body", error.as_ref()),
    })?;
    Ok(read.to_bytes())
}

/// The error of a body that cannot be read to its end: the client disconnected, or sends too slowly.
pub(super) fn body_error(what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    match SlowBodyError::is_cause_of(error) {
        true => request_timeout(),
        false => Error::new(codes::BODY_INCOMPLETE, format!("{what} could not be read to its end: {error}")),
    }
}

/// The error for invalid JSON in `what`, with its position.
pub(super) fn json_invalid(what: &str, error: &serde_json::Error) -> Error {
    Error::new(codes::JSON_INVALID, format!("{what} is not the JSON that was expected: {error}"))
        .with_details(json!({ "line": error.line(), "column": error.column() }))
}

/// The error for a body above the limit.
pub(super) fn body_too_large(limit: ByteSize) -> Error {
    Error::new(codes::BODY_TOO_LARGE, format!("the body is larger than {limit}"))
}

/// The error for a body that does not arrive in time.
pub(super) fn request_timeout() -> Error {
    Error::new(codes::REQUEST_TIMEOUT, "the body did not arrive in time")
}
