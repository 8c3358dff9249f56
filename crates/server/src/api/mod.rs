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

pub use app::{App, Start};
pub use auth::{Caller, Scope, ensure_admin_key, make_key};
pub use config::ServerConfig;
pub use hooks::S3 as S3_HOOK;
pub use pipelines::{Catalogue, Fault, Live, LivePipeline, LiveStep, RefusedFile};
pub use problem::Problem;
pub use serve::serve;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tower_http::catch_panic::CatchPanicLayer;

use afterload_metrics::Metrics;

/// The API.
pub fn router(app: App) -> Router {
    let routes = routes().layer(from_fn_with_state(app.clone(), cors::narrow));
    observed(routes, app.engine().metrics()).with_state(app)
}

fn routes() -> Router<App> {
    routes::table().router()
}

/// What holds for every route, and for all that is none.
fn observed(routes: Router<App>, metrics: &Metrics) -> Router<App> {
    routes
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn_with_state(metrics.clone(), observe::observe))
}
