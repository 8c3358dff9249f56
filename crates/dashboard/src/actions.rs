//! What the buttons and forms of the pages do.

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::api_call::{api_request, call_api, pass_on, post_json, with_status};
use crate::dashboard::Dashboard;
use crate::forms::{field, path_part, read_form};
use crate::param_form::changed_params;
use crate::response::{Refusal, error_page, problem_page, see_other};
use crate::signed_in::SignedIn;
use crate::viewer::Viewer;
use afterload_engine::RunView;

/// The most runs that one form changes: a page of them.
const MAX_SELECTED_RUNS: usize = 200;

/// The most bytes of a problem of the API.
const MAX_PROBLEM_BYTES: usize = 1 << 20;

/// Either the page to show next, or the page with the refusal.
type Outcome = Result<Response, Refusal>;

/// `POST /ui/queues/{name}/pause`
pub(crate) async fn pause_queue(app: State<Dashboard>, who: SignedIn, name: Path<String>, request: Request) -> Outcome {
    let path = format!("/v1/queues/{}/pause", path_part(&name));
    post_empty(&app, &who.0, request, &path, "/ui/?notice=paused").await
}

/// `POST /ui/queues/{name}/resume`
pub(crate) async fn resume_queue(
    app: State<Dashboard>,
    who: SignedIn,
    name: Path<String>,
    request: Request,
) -> Outcome {
    let path = format!("/v1/queues/{}/resume", path_part(&name));
    post_empty(&app, &who.0, request, &path, "/ui/?notice=resumed").await
}

/// `POST /ui/pipelines/{name}/pause`
pub(crate) async fn pause_pipeline(
    app: State<Dashboard>,
    who: SignedIn,
    name: Path<String>,
    request: Request,
) -> Outcome {
    let name = path_part(&name);
    let next = format!("/ui/pipelines/{name}?notice=paused");
    post_empty(&app, &who.0, request, &format!("/v1/pipelines/{name}/pause"), &next).await
}

/// `POST /ui/pipelines/{name}/resume`
pub(crate) async fn resume_pipeline(
    app: State<Dashboard>,
    who: SignedIn,
    name: Path<String>,
    request: Request,
) -> Outcome {
    let name = path_part(&name);
    let next = format!("/ui/pipelines/{name}?notice=resumed");
    post_empty(&app, &who.0, request, &format!("/v1/pipelines/{name}/resume"), &next).await
}

/// `POST /ui/pipelines/{name}/runs`: the form goes to the API as it is, so that files stream into the store.
pub(crate) async fn start_run(app: State<Dashboard>, who: SignedIn, name: Path<String>, request: Request) -> Outcome {
    let (parts, body) = request.into_parts();
    let path = format!("/v1/pipelines/{}/runs", path_part(&name));
    let run = pass_on(&app, &who.0, &parts, &path, body).await?;
    Ok(see_run(&who.0, &run, "started"))
}

/// `POST /ui/runs/{id}/cancel`
pub(crate) async fn cancel_run(app: State<Dashboard>, who: SignedIn, id: Path<String>, request: Request) -> Outcome {
    let id = path_part(&id);
    let next = format!("/ui/runs/{id}?notice=cancelled");
    post_empty(&app, &who.0, request, &format!("/v1/runs/{id}/cancel"), &next).await
}

/// `POST /ui/runs/{id}/retry`, with `definition=live` to go on with the definition that is live now.
pub(crate) async fn retry_run(app: State<Dashboard>, who: SignedIn, id: Path<String>, request: Request) -> Outcome {
    let (parts, body) = request.into_parts();
    let form = read_form(body).await.map_err(|error| Refusal::from(error_page(Some(&who.0), error)))?;
    let query = if field(&form, "definition") == "live" { "?definition=live" } else { "" };
    let id = path_part(&id);
    post_json(&app, &who.0, &parts, &format!("/v1/runs/{id}/retry{query}"), &Value::Null).await?;
    Ok(see_other(&format!("/ui/runs/{id}?notice=retried")))
}

/// `POST /ui/runs/{id}/again`: a new run with the params of this one, except those that the form changes.
pub(crate) async fn run_again(app: State<Dashboard>, who: SignedIn, id: Path<String>, request: Request) -> Outcome {
    let (parts, body) = request.into_parts();
    let form = read_form(body).await.map_err(|error| Refusal::from(error_page(Some(&who.0), error)))?;
    let changes = find_changes(&app, &who.0, &id, &form).await?;
    let path = format!("/v1/runs/{}/replay", path_part(&id));
    let run = post_json(&app, &who.0, &parts, &path, &json!({ "params": changes })).await?;
    Ok(see_run(&who.0, &run, "started"))
}

/// `POST /ui/runs`: cancels or retries the selected runs, each by a call of its own.
pub(crate) async fn change_runs(app: State<Dashboard>, who: SignedIn, request: Request) -> Outcome {
    let (parts, body) = request.into_parts();
    let form = read_form(body).await.map_err(|error| Refusal::from(error_page(Some(&who.0), error)))?;
    let (action, done) = match field(&form, "action") {
        "retry" => ("retry", "runs-retried"),
        _ => ("cancel", "runs-cancelled"),
    };
    let selected = form.iter().filter(|(name, _)| name == "id").map(|(_, id)| path_part(id));
    let selected: Vec<_> = selected.take(MAX_SELECTED_RUNS).collect();
    let (mut changed, mut refusal) = (0, None);
    for id in &selected {
        match post_json(&app, &who.0, &parts, &format!("/v1/runs/{id}/{action}"), &Value::Null).await {
            Ok(_) => changed += 1,
            Err(page) => refusal = Some(page),
        }
    }
    let notice = match (changed, refusal) {
        // Nothing has been done, so the page says why.
        (0, Some(page)) => return Err(page),
        (_, Some(_)) => "some-refused",
        (0, None) => "none-selected",
        (_, None) => done,
    };
    let back = field(&form, "back");
    let more = if back.is_empty() { String::new() } else { format!("&{back}") };
    Ok(see_other(&format!("/ui/runs?notice={notice}{more}")))
}

/// `GET /ui/files/{id}`: a file of a run, whole or in part.
pub(crate) async fn show_file(app: State<Dashboard>, who: SignedIn, id: Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let path = format!("/v1/artifacts/{}", path_part(&id));
    let mut call = api_request(Method::GET, &path, HeaderValue::from_static("text/plain"), Body::empty());
    for name in ["range", "if-range", "if-none-match"] {
        if let Some(value) = parts.headers.get(name) {
            call.headers_mut().insert(name, value.clone());
        }
    }
    let response = call_api(&app, &who.0, &parts, call).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let body = to_bytes(response.into_body(), MAX_PROBLEM_BYTES).await.unwrap_or_default();
    let problem = with_status(serde_json::from_slice(&body).unwrap_or_default(), status);
    problem_page(Some(&who.0), &problem)
}

async fn post_empty(app: &Dashboard, viewer: &Viewer, request: Request, path: &str, next: &str) -> Outcome {
    let (parts, _): (Parts, _) = request.into_parts();
    post_json(app, viewer, &parts, path, &Value::Null).await?;
    Ok(see_other(next))
}

/// Leads to a new run, or back to the pipelines for those who may start runs and not read them.
fn see_run(viewer: &Viewer, run: &Value, notice: &str) -> Response {
    let (id, pipeline) = (run["id"].as_str().unwrap_or_default(), run["pipeline"].as_str().unwrap_or_default());
    match viewer.caller.can_read(pipeline) {
        true => see_other(&format!("/ui/runs/{id}?notice={notice}")),
        false => see_other(&format!("/ui/pipelines?notice={notice}")),
    }
}

async fn find_changes(
    app: &Dashboard,
    viewer: &Viewer,
    id: &str,
    form: &[(String, String)],
) -> Result<Map<String, Value>, Refusal> {
    let read = match ulid::Ulid::from_string(id) {
        Ok(_) => RunView::read(app.api().db(), id, app.base_url()).await,
        Err(_) => Ok(None),
    };
    let run = read.map_err(|error| Refusal::from(error_page(Some(viewer), error)))?;
    let Some(run) = run.filter(|run| viewer.caller.can_read(&run.pipeline)) else { return Ok(Map::new()) };
    let pipeline = app.api().pipeline_registry().get(&run.pipeline);
    Ok(pipeline.map_or_else(Map::new, |pipeline| changed_params(&pipeline, &run.params, form)))
}
