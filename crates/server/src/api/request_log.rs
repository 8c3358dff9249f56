//! The outermost layer: request id, tracing span, log entry, and the bodies of problems.

use std::borrow::Cow;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, HeaderName, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, field};
use ulid::Ulid;

use super::ApiState;
use super::client_address::ClientAddress;
use super::problem::Problem;

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_CHARS: usize = 128;
/// Behind these is a token: of a download, or of a link to unsubscribe.
const TOKEN_PATHS: [&str; 2] = ["/d/", "/u/"];
/// Behind this is the id of an upload, and behind a dot its token.
const UPLOAD_PATH: &str = "/v1/uploads/";
/// Browsers that have seen it use HTTPS for a year.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds an id and a span to every request, and the common headers to every response.
pub(super) async fn log_request(State(app): State<ApiState>, mut request: Request, next: Next) -> Response {
    let client = ClientAddress::resolve(request.extensions(), request.headers(), &app.config().trusted_proxies);
    request.extensions_mut().insert(client);
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), loggable_path(request.uri().path()).into_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = tracing::info_span!(
        "request",
        request.id = id,
        client.address = %client.0,
        method = %method,
        path,
        status = field::Empty
    );
    let started = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.record("status", status);
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    app.engine().metrics().record_request(method_label(&method), route, status, started.elapsed());
    span.in_scope(|| {
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            if response.status().is_server_error() {
                let error = problem.source_error();
                tracing::error!(error.code = error.code().name(), "a request failed: {}", error.message());
            }
            write_problem(&mut response, &problem, &id);
        }
        let duration_ms = started.elapsed().as_millis() as u64;
        match path.as_str() {
            "/healthz" | "/readyz" | "/metrics" => tracing::debug!(duration_ms, "probe served"),
            _ => tracing::info!(duration_ms, "request served"),
        }
    });
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if app.base_url().starts_with("https://") {
        headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// Clients may send any method; unknown ones share one label, so that labels stay bounded.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The path for logs. The query is left out because it may hold a token. Links in mails and addresses of uploads end with one.
fn loggable_path(path: &str) -> Cow<'_, str> {
    if let Some(prefix) = TOKEN_PATHS.into_iter().find(|prefix| path.starts_with(prefix)) {
        return format!("{prefix}…").into();
    }
    match path.strip_prefix(UPLOAD_PATH).and_then(|rest| rest.split_once('.')) {
        Some((id, _)) => format!("{UPLOAD_PATH}{id}.…").into(),
        None => path.into(),
    }
}

fn write_problem(response: &mut Response, problem: &Problem, id: &str) {
    let body = problem.to_json(id).to_string();
    response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
    *response.body_mut() = Body::from(body);
}

/// The caller's request id if it is safe for logs, else a new one. The layer of `tower-http` accepts any id.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    let plain = |id: &&str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !id.is_empty() && id.len() <= MAX_REQUEST_ID_CHARS && id.bytes().all(allowed)
    };
    given.filter(plain).map_or_else(|| Ulid::generate().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::loggable_path;

    #[test]
    fn tokens_in_paths_are_not_logged() {
        for (path, logged) in [
            ("/d/AbC_1", "/d/…"),
            ("/u/AbC_1", "/u/…"),
            ("/u/AbC/1", "/u/…"),
            ("/v1/uploads/01J9Z3NDEKTSV4RRFFQ69G5FAV.token", "/v1/uploads/01J9Z3NDEKTSV4RRFFQ69G5FAV.…"),
            ("/v1/uploads/01J9Z3NDEKTSV4RRFFQ69G5FAV/complete", "/v1/uploads/01J9Z3NDEKTSV4RRFFQ69G5FAV/complete"),
            ("/v1/events/user.signed_in", "/v1/events/user.signed_in"),
        ] {
            assert_eq!(loggable_path(path), logged);
        }
    }
}
