//! All routes of the dashboard.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};

use crate::dashboard::Dashboard;
use crate::origin::check_write;
use crate::response::{error_page, see_other};
use crate::{actions, assets, codes, pages, sign_in};
use afterload_core::error::Error;
use afterload_server::api::ApiState;

/// The pages that show data, for whom the session permits them.
pub const PAGE_ROUTES: &[&str] = &["/ui/", "/ui/runs", "/ui/runs/{id}", "/ui/pipelines", "/ui/pipelines/{name}"];

/// The routes that change something, each with the scopes of the call of the API that it makes.
pub const WRITE_ROUTES: &[&str] = &[
    "/ui/queues/{name}/pause",
    "/ui/queues/{name}/resume",
    "/ui/pipelines/{name}/pause",
    "/ui/pipelines/{name}/resume",
    "/ui/pipelines/{name}/runs",
    "/ui/runs",
    "/ui/runs/{id}/cancel",
    "/ui/runs/{id}/retry",
    "/ui/runs/{id}/again",
];

/// Nothing is loaded from elsewhere, nothing stands inline, and no other page may show ours.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The routes of the dashboard, beside those of the API.
pub fn dashboard_router(api: ApiState) -> Router {
    let dashboard = Dashboard::new(api);
    let mut writes = Router::new();
    for path in WRITE_ROUTES {
        writes = writes.route(path, write_handler(path));
    }
    let writes = writes
        .route("/ui/enter", post(sign_in::sign_in))
        .route("/ui/sign-out", post(sign_in::sign_out))
        .route_layer(from_fn_with_state(dashboard.clone(), require_own_origin));
    let mut reads = Router::new();
    for path in PAGE_ROUTES {
        reads = reads.route(path, page_handler(path));
    }
    reads
        .route("/", get(show_start))
        .route("/ui", get(show_start))
        .route("/ui/enter", get(sign_in::show_sign_in))
        .route("/ui/files/{id}", get(actions::show_file))
        .route("/ui/assets/{name}", get(assets::show_asset))
        .route("/ui/{*path}", get(show_not_found))
        .merge(writes)
        .layer(from_fn(add_page_headers))
        .with_state(dashboard)
}

fn page_handler(path: &str) -> MethodRouter<Dashboard> {
    match path {
        "/ui/" => get(pages::now::show_now),
        "/ui/runs" => get(pages::runs::show_runs),
        "/ui/runs/{id}" => get(pages::run::show_run),
        "/ui/pipelines" => get(pages::pipelines::show_pipelines),
        "/ui/pipelines/{name}" => get(pages::pipeline::show_pipeline),
        _ => get(show_not_found),
    }
}

fn write_handler(path: &str) -> MethodRouter<Dashboard> {
    match path {
        "/ui/queues/{name}/pause" => post(actions::pause_queue),
        "/ui/queues/{name}/resume" => post(actions::resume_queue),
        "/ui/pipelines/{name}/pause" => post(actions::pause_pipeline),
        "/ui/pipelines/{name}/resume" => post(actions::resume_pipeline),
        "/ui/pipelines/{name}/runs" => post(actions::start_run),
        "/ui/runs" => post(actions::change_runs),
        "/ui/runs/{id}/cancel" => post(actions::cancel_run),
        "/ui/runs/{id}/retry" => post(actions::retry_run),
        "/ui/runs/{id}/again" => post(actions::run_again),
        _ => post(show_not_found),
    }
}

async fn show_start() -> Response {
    see_other("/ui/")
}

async fn show_not_found(uri: Uri) -> Response {
    let error = Error::new(codes::NOT_FOUND, format!("there is no page at `{}`", uri.path()));
    error_page(None, error.with_hint("`Now` shows what runs, and leads to everything else"))
}

/// Refuses writes that no page of this dashboard has sent.
async fn require_own_origin(State(dashboard): State<Dashboard>, request: Request, next: Next) -> Response {
    match check_write(request.headers(), dashboard.base_url()) {
        Ok(()) => next.run(request).await,
        Err(error) => error_page(None, error),
    }
}

async fn add_page_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // A file of a run has a stricter policy of its own.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(PAGE_POLICY));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // With `no-referrer`, browsers would send `Origin: null` with our own forms.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    response
}
