//! Calls of the API inside the process, with the session as their key. So a page permits and does what the API does.

use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, FORWARDED, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::codes;
use crate::dashboard::Dashboard;
use crate::response::{Refusal, error_page, problem_page};
use crate::viewer::Viewer;
use afterload_core::error::Error;
use afterload_http_listener::PeerAddress;

/// The most bytes of an answer that is read.
const MAX_ANSWER_BYTES: usize = 16 << 20;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Calls the API for the holder of a session. `asked` is the request of the browser.
pub(crate) async fn call_api(
    dashboard: &Dashboard,
    viewer: &Viewer,
    asked: &Parts,
    mut call: Request<Body>,
) -> Response {
    let headers = call.headers_mut();
    if let Ok(mut key) = HeaderValue::from_str(&format!("Bearer {}", viewer.token)) {
        key.set_sensitive(true);
        headers.insert(AUTHORIZATION, key);
    }
    for name in [FORWARDED, X_FORWARDED_FOR] {
        for value in asked.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some(peer) = asked.extensions.get::<PeerAddress>() {
        call.extensions_mut().insert(*peer);
    }
    match dashboard.api_router().oneshot(call).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Posts JSON to the API and returns the body of its answer. Afterwards no page shows what was before.
///
/// # Errors
/// A page that shows the refusal.
pub(crate) async fn post_json(
    dashboard: &Dashboard,
    viewer: &Viewer,
    asked: &Parts,
    path: &str,
    body: &Value,
) -> Result<Value, Refusal> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let call = api_request(Method::POST, path, HeaderValue::from_static("application/json"), body.into());
    post_request(dashboard, viewer, asked, call).await
}

/// Sends the body of the browser to the API as it is.
///
/// # Errors
/// A page that shows the refusal.
pub(crate) async fn pass_on(
    dashboard: &Dashboard,
    viewer: &Viewer,
    asked: &Parts,
    path: &str,
    body: Body,
) -> Result<Value, Refusal> {
    let media = asked.headers.get(CONTENT_TYPE).cloned();
    let media = media.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    post_request(dashboard, viewer, asked, api_request(Method::POST, path, media, body)).await
}

async fn post_request(
    dashboard: &Dashboard,
    viewer: &Viewer,
    asked: &Parts,
    call: Request<Body>,
) -> Result<Value, Refusal> {
    let response = call_api(dashboard, viewer, asked, call).await;
    dashboard.pages().clear();
    let status = response.status();
    let body = to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.map_err(|error| {
        Refusal::from(error_page(
            Some(viewer),
            Error::new(codes::INTERNAL_ERROR, format!("an answer cannot be read: {error}")),
        ))
    })?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    match status.is_success() {
        true => Ok(answer),
        false => Err(problem_page(Some(viewer), &with_status(answer, status)).into()),
    }
}

/// The problem in an answer, or one without details if the answer holds none.
pub(crate) fn with_status(mut problem: Value, status: StatusCode) -> Value {
    if !problem.is_object() {
        problem = json!({ "title": "The service cannot do this at the moment" });
    }
    problem["status"] = status.as_u16().into();
    problem
}

/// A request to the API.
pub(crate) fn api_request(method: Method, path: &str, media: HeaderValue, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    request.headers_mut().insert(CONTENT_TYPE, media);
    request
}
