//! The HTTP API: routes, API keys and scopes, streamed uploads, errors as problem+json.

mod api_key;
mod artifacts;
mod attempt_limiter;
mod auth;
mod client_address;
mod config;
mod content_disposition;
mod cors;
mod create_run;
mod direct_upload;
mod extract;
mod file_params;
mod form;
mod form_body;
mod form_field;
mod form_file_name;
mod health;
mod idempotency;
mod items;
mod links;
mod mail_bounces;
mod mail_routes;
mod mail_suppressions;
mod metrics;
mod openapi;
mod pipelines;
mod plain_page;
mod problem;
mod publish_event;
mod queues;
mod range;
mod replay_run;
mod request_log;
mod routes;
mod run_feed;
mod run_reader;
mod run_routes;
mod run_sse;
mod runs;
mod s3_notifications;
mod schema_components;
mod scopes;
mod serve;
mod session;
mod state;
mod unsubscribe;
mod upload_cors;
mod upload_slots;
mod uploads;
mod visible_run;
mod wait;
mod wrong_credentials;

#[cfg(test)]
mod tests;

pub use api_key::{create_api_key, ensure_admin_key};
pub use auth::Caller;
pub use client_address::TrustedProxies;
pub use config::{ServerConfig, WatcherLimits};
pub use mail_bounces::MAIL_WEBHOOK;
pub use problem::{Problem, mark_wrong_credential};
pub use runs::first_id_at;
pub use s3_notifications::S3_WEBHOOK;
pub use scopes::ApiKeyScope;
pub use serve::{ApiListener, serve};
pub use session::{SESSION_LIFETIME, SIGN_IN_CODE_LIFETIME, create_sign_in_code, end_session, exchange_sign_in_code};
pub use state::{ApiState, StartRun};

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;

/// The router of the API.
pub fn api_router(app: ApiState) -> Router {
    router_with_pages(app, Router::new())
}

/// The router of the API and of pages on other paths. The outer layers are the same for both.
pub fn router_with_pages(app: ApiState, pages: Router) -> Router {
    let routes = api_routes().layer(from_fn_with_state(app.clone(), cors::restrict_cors));
    with_common_layers(routes.merge(pages.with_state::<ApiState>(())), &app).with_state(app)
}

fn api_routes() -> Router<ApiState> {
    routes::all_routes().into_router()
}

/// Adds the layers of every route, and of requests without a route.
fn with_common_layers(routes: Router<ApiState>, app: &ApiState) -> Router<ApiState> {
    routes
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn(extract::refuse_nul_in_url))
        .layer(from_fn_with_state(app.clone(), wrong_credentials::limit_attempts))
        .layer(CatchPanicLayer::custom(problem::panic_response))
        .layer(from_fn_with_state(app.clone(), request_log::log_request))
}
