//! Restricts open CORS responses to the origins that `cors` names.
//!
//! Not the layer of `tower-http`: it decides before the route, but here each route opens its responses to tokens, and
//! only a few routes answer preflight requests.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, VARY};
use axum::middleware::Next;
use axum::response::Response;

use super::ApiState;

/// If a handler has allowed all origins, allows only the configured ones.
pub(super) async fn restrict_cors(State(app): State<ApiState>, request: Request, next: Next) -> Response {
    let Some(origins) = &app.config().cors else { return next.run(request).await };
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = next.run(request).await;
    if response.headers_mut().remove(ACCESS_CONTROL_ALLOW_ORIGIN).is_some() {
        response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|origin| origins.iter().any(|allowed| allowed == origin)) {
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
    }
    response
}
