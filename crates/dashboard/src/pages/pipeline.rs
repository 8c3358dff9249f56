//! A pipeline: what it does, what starts it, and a form that starts it.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use super::pipelines::trigger_words;
use super::shared::{notice_of, show_page};
use crate::codes;
use crate::dashboard::Dashboard;
use crate::forms::{path_part, to_query};
use crate::param_form::{ParamField, new_run_fields};
use crate::response::render;
use crate::schedule_words::next_moments;
use crate::shell::{Part, Shell};
use crate::signed_in::SignedIn;
use crate::times::Moment;
use crate::viewer::Viewer;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_engine::registry::{PipelineSummary, StepSummary};
use afterload_state::PauseTarget;
use serde_json::Value;

/// How many moments of a schedule are shown.
const MAX_MOMENTS: usize = 5;

#[derive(Template)]
#[template(path = "pipeline.html")]
struct PipelinePage {
    shell: Shell,
    name: String,
    path: String,
    description: Option<String>,
    paused: Option<Moment>,
    is_admin: bool,
    can_start: bool,
    runs_href: String,
    steps: Vec<StepSummary>,
    triggers: Vec<TriggerRow>,
    /// The lines of the definition, for those who may read its runs.
    source: Vec<SourceLine>,
    fields: Vec<ParamField>,
}

struct TriggerRow {
    words: String,
    moments: Vec<Moment>,
}

struct SourceLine {
    number: usize,
    text: String,
}

/// `GET /ui/pipelines/{name}`
pub(crate) async fn show_pipeline(
    State(dashboard): State<Dashboard>,
    SignedIn(viewer): SignedIn,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let notice = notice_of(&uri);
    let render = || async {
        let pipeline = find_pipeline(&dashboard, &viewer, &name)?;
        render_pipeline(&dashboard, &viewer, pipeline, notice.as_deref()).await
    };
    show_page(&dashboard, &viewer, &uri, &headers, render).await
}

fn find_pipeline(dashboard: &Dashboard, viewer: &Viewer, name: &str) -> Result<PipelineSummary> {
    let is_visible = viewer.caller.can_read(name) || viewer.caller.can_write(name);
    dashboard.api().pipeline_registry().get(name).filter(|_| is_visible).ok_or_else(|| {
        Error::new(codes::PIPELINE_NOT_FOUND, "there is no live pipeline of this name")
            .with_hint("`Pipelines` lists those that are live, and the files that are refused")
    })
}

async fn render_pipeline(
    dashboard: &Dashboard,
    viewer: &Viewer,
    pipeline: PipelineSummary,
    notice: Option<&str>,
) -> Result<String> {
    let now = dashboard.now();
    let paused = dashboard.api().db().pauses().list(PauseTarget::Pipeline).await?;
    let since = paused.into_iter().find(|(name, _)| *name == pipeline.name).map(|(_, since)| since);
    let source = pipeline.source.as_deref().filter(|_| viewer.caller.can_read(&pipeline.name)).unwrap_or_default();
    let lines = source.lines().zip(1..).map(|(text, number)| SourceLine { number, text: text.to_owned() });
    let page = PipelinePage {
        shell: Shell::new(pipeline.name.clone(), Some(viewer), Part::Pipelines).live(notice),
        path: path_part(&pipeline.name),
        runs_href: format!("/ui/runs?{}", to_query(&[("pipeline", pipeline.name.as_str())])),
        paused: since.map(|since| Moment::new(since, now)),
        is_admin: viewer.caller.is_admin(),
        can_start: viewer.caller.can_write(&pipeline.name),
        triggers: pipeline.triggers.iter().map(|trigger| trigger_row(trigger, now)).collect(),
        source: lines.collect(),
        fields: new_run_fields(&pipeline),
        name: pipeline.name.clone(),
        description: pipeline.description.clone(),
        steps: pipeline.steps.clone(),
    };
    render(&page)
}

fn trigger_row(trigger: &Value, now: UnixMillis) -> TriggerRow {
    let text = |name: &str| trigger[name].as_str().unwrap_or_default();
    let moments = match text("type") {
        "cron" => next_moments(text("schedule"), text("timezone"), now, MAX_MOMENTS),
        _ => Vec::new(),
    };
    TriggerRow {
        words: trigger_words(trigger),
        moments: moments.into_iter().map(|moment| Moment::new(moment, now)).collect(),
    }
}
