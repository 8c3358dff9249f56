//! Cross-origin requests of direct uploads: pages of any origin may send files and complete uploads.

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    AUTHORIZATION,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

pub(super) async fn cors_preflight() -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("PUT, POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type, prefer"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    (StatusCode::NO_CONTENT, headers)
}

/// Allows pages of any origin to read responses to tokens. Cookies are not used, and responses to API keys stay closed.
pub(super) async fn allow_any_origin(request: Request, next: Next) -> Response {
    let by_token = !request.headers().contains_key(AUTHORIZATION);
    let mut response = next.run(request).await;
    if by_token {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}
