//! A run: what happened, why, and what to do about it.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use ulid::Ulid;

use super::run_files::{FileRow, file_row};
use super::run_steps::{NamedValue, ProgressText, StepRow, named_values, progress_text, step_row};
use super::shared::{ErrorText, MAX_TEXT_CHARS, notice_of, show_page};
use crate::codes;
use crate::dashboard::Dashboard;
use crate::forms::path_part;
use crate::param_form::{ParamField, again_fields};
use crate::response::render;
use crate::shell::{Part, Shell};
use crate::signed_in::SignedIn;
use crate::status::Chip;
use crate::times::{Moment, took};
use crate::viewer::Viewer;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_engine::{NotificationView, RunView};

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    shell: Shell,
    headline: String,
    id: String,
    pipeline: String,
    pipeline_href: String,
    /// False if no pipeline of this name is live any more.
    pipeline_is_live: bool,
    origin: String,
    chip: Chip,
    created: Moment,
    took: Option<String>,
    progress: Option<ProgressText>,
    error: Option<ErrorText>,
    waiting_since: Option<Moment>,
    cancel_requested: Option<Moment>,
    steps: Vec<StepRow>,
    files: Vec<FileRow>,
    params: Vec<NamedValue>,
    event: Option<String>,
    notification: Option<NotificationText>,
    can_cancel: bool,
    can_retry: bool,
    can_run_again: bool,
    fields: Vec<ParamField>,
}

struct NotificationText {
    url: String,
    status: &'static str,
    attempts: u32,
    next: Option<Moment>,
    error: Option<ErrorText>,
}

/// `GET /ui/runs/{id}`
pub(crate) async fn show_run(
    State(dashboard): State<Dashboard>,
    SignedIn(viewer): SignedIn,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let notice = notice_of(&uri);
    let render = || async {
        let run = find_run(&dashboard, &viewer, &id).await?;
        render_run(&dashboard, &viewer, run, notice.as_deref())
    };
    show_page(&dashboard, &viewer, &uri, &headers, render).await
}

/// Reads a run. For those who may not read it, it does not exist.
async fn find_run(dashboard: &Dashboard, viewer: &Viewer, id: &str) -> Result<RunView> {
    let run = match Ulid::from_string(id) {
        Ok(_) => RunView::read(dashboard.api().db(), id, dashboard.base_url()).await?,
        Err(_) => None,
    };
    run.filter(|run| viewer.caller.can_read(&run.pipeline))
        .ok_or_else(|| Error::new(codes::RUN_NOT_FOUND, "there is no such run, or it has been deleted"))
}

fn render_run(dashboard: &Dashboard, viewer: &Viewer, run: RunView, notice: Option<&str>) -> Result<String> {
    let now = dashboard.now();
    let live = dashboard.api().pipeline_registry().get(&run.pipeline);
    let can_write = viewer.caller.can_write(&run.pipeline);
    let moment = |time: &String| Moment::of_text(time, now);
    let fields = live.as_ref().map(|pipeline| again_fields(pipeline, &run.params)).unwrap_or_default();
    let page = RunPage {
        shell: Shell::new(format!("{} {}", run.pipeline, run.status), Some(viewer), Part::Runs).live(notice),
        headline: headline(&run, now),
        pipeline_href: format!("/ui/pipelines/{}", path_part(&run.pipeline)),
        pipeline_is_live: live.is_some(),
        chip: Chip::new(run.status),
        created: moment(&run.created_at),
        took: took(run.started_at.as_deref(), run.finished_at.as_deref(), now),
        progress: (!run.is_final()).then(|| progress_text(&json!(run.progress), false)),
        error: run.error.as_ref().map(|error| ErrorText::new(error, MAX_TEXT_CHARS)),
        waiting_since: run.waiting_since.as_ref().map(moment),
        cancel_requested: run.cancel_requested_at.as_ref().filter(|_| !run.is_final()).map(moment),
        steps: run.steps.iter().map(|step| step_row(step, now)).collect(),
        files: run.artifacts.iter().map(file_row).collect(),
        params: named_values(&run.params),
        event: run.event.as_ref().map(short_json),
        notification: run.notification.as_ref().map(|notification| notification_text(notification, now)),
        can_cancel: can_write && !run.is_final() && run.cancel_requested_at.is_none(),
        can_retry: can_write && matches!(run.status, "failed" | "cancelled"),
        can_run_again: can_write && live.is_some(),
        fields,
        id: run.id,
        origin: run.origin,
        pipeline: run.pipeline,
    };
    render(&page)
}

/// What happened, in a sentence.
fn headline(run: &RunView, now: UnixMillis) -> String {
    let duration = took(run.started_at.as_deref(), run.finished_at.as_deref(), now);
    let duration = duration.map_or_else(String::new, |time| format!(" in {time}"));
    let with_status = |status: &str| run.steps.iter().find(|step| step.status == status).map(|step| step.id.as_str());
    match run.status {
        "succeeded" => format!("It succeeded{duration}."),
        "cancelled" => "It was cancelled.".into(),
        "failed" => {
            let error = run.error.as_ref().map(|error| ErrorText::new(error, MAX_TEXT_CHARS)).unwrap_or_default();
            match error.step {
                Some(step) => format!("It failed in step {step}."),
                None => "It failed.".into(),
            }
        }
        _ if run.cancel_requested_at.is_some() => "It stops as soon as it can.".into(),
        _ if run.waiting_since.is_some() => "It waits for another run of the same key.".into(),
        "queued" => "It waits for a worker.".into(),
        _ => match (with_status("running"), with_status("suspended"), with_status("retrying")) {
            (Some(step), ..) => format!("Step {step} is at work."),
            (None, Some(step), _) => format!("Step {step} waits for its time or its event."),
            (None, None, Some(step)) => format!("Step {step} failed and is tried again."),
            _ => "It goes on as soon as a worker is free.".into(),
        },
    }
}

fn short_json(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    afterload_core::text::shorten_text(&text, MAX_TEXT_CHARS).into_owned()
}

fn notification_text(notification: &NotificationView, now: UnixMillis) -> NotificationText {
    NotificationText {
        url: notification.url.clone(),
        status: notification.status,
        attempts: notification.attempts,
        next: notification.next_at.as_deref().map(|time| Moment::of_text(time, now)),
        error: notification.error.as_ref().map(|error| ErrorText::new(error, MAX_TEXT_CHARS)),
    }
}
