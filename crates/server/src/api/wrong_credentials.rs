//! Answers 429 to addresses that send too many wrong keys or tokens.

use axum::extract::{Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, VARY};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::ApiState;
use super::attempt_limiter::too_many_attempts;
use super::client_address::ClientAddress;
use super::links;
use super::problem::{Problem, WrongCredential};

/// Counts responses that reject a key or a token, and answers 429 in place of those above the limit.
pub(super) async fn limit_attempts(State(app): State<ApiState>, request: Request, next: Next) -> Response {
    let client = ClientAddress::of(request.extensions());
    let rejection = next.run(request).await;
    if rejection.extensions().get::<WrongCredential>().is_none() {
        return rejection;
    }
    let Some(wait) = app.attempts().record_wrong(client, Instant::now()) else { return rejection };
    let problem = Problem::from(too_many_attempts(wait));
    let is_page = rejection.headers().get(CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(b"text/html"));
    let mut response =
        if is_page { links::error_page(&problem, links::UNAVAILABLE_TITLE) } else { problem.into_response() };
    // Pages of other origins may read this answer where they may read the rejection.
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, VARY] {
        if let Some(value) = rejection.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
