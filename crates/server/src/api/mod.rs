//! The API: axum routes, keys and scopes, uploads that stream, errors as problem+json.

mod app;
mod artifacts;
mod auth;
mod config;
mod cors;
mod create;
mod direct;
mod disposition;
mod events;
mod extract;
mod files;
mod form;
mod hooks;
mod idempotency;
mod items;
mod links;
mod metrics;
mod names;
mod observe;
mod openapi;
mod pauses;
mod pipelines;
mod probes;
mod problem;
mod range;
mod routes;
mod runs;
mod serve;
mod tell;
mod uploads;
mod wait;

#[cfg(test)]
mod tests;

pub use app::{ApiState, StartRun};
pub use auth::{ApiKeyScope, Caller, create_api_key, ensure_admin_key};
pub use config::ServerConfig;
pub use hooks::S3_WEBHOOK as S3_HOOK;
pub use pipelines::{DiagnosticView, PipelineList, PipelineRegistry, PipelineSummary, RefusedFile, StepSummary};
pub use problem::Problem;
pub use serve::serve;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tower_http::catch_panic::CatchPanicLayer;

use afterload_metrics::Metrics;

/// The API.
pub fn api_router(app: ApiState) -> Router {
    let routes = api_routes().layer(from_fn_with_state(app.clone(), cors::restrict_cors));
    with_common_layers(routes, app.engine().metrics()).with_state(app)
}

fn api_routes() -> Router<ApiState> {
    routes::all_routes().into_router()
}

/// What holds for every route, and for all that is none.
fn with_common_layers(routes: Router<ApiState>, metrics: &Metrics) -> Router<ApiState> {
    routes
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(CatchPanicLayer::custom(problem::panic_response))
        .layer(from_fn_with_state(metrics.clone(), observe::log_request))
}
