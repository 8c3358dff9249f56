//! `Pipelines`: what is live, and what is refused and why.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use super::shared::{RefusedRow, notice_of, refused_rows, show_page};
use crate::dashboard::Dashboard;
use crate::forms::path_part;
use crate::numbers::counted;
use crate::response::render;
use crate::schedule_words::describe_schedule;
use crate::shell::{Part, Shell};
use crate::signed_in::SignedIn;
use crate::times::Moment;
use crate::viewer::Viewer;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_engine::registry::PipelineSummary;
use afterload_state::PauseTarget;
use serde_json::Value;

#[derive(Template)]
#[template(path = "pipelines.html")]
struct PipelinesPage {
    shell: Shell,
    headline: String,
    pipelines: Vec<PipelineRow>,
    refused: Vec<RefusedRow>,
}

struct PipelineRow {
    name: String,
    href: String,
    description: Option<String>,
    starts: Vec<String>,
    steps: String,
    paused: Option<Moment>,
}

/// `GET /ui/pipelines`
pub(crate) async fn show_pipelines(
    State(dashboard): State<Dashboard>,
    SignedIn(viewer): SignedIn,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let notice = notice_of(&uri);
    show_page(&dashboard, &viewer, &uri, &headers, || render_pipelines(&dashboard, &viewer, notice.as_deref())).await
}

async fn render_pipelines(dashboard: &Dashboard, viewer: &Viewer, notice: Option<&str>) -> Result<String> {
    let now = dashboard.now();
    let paused = dashboard.api().db().pauses().list(PauseTarget::Pipeline).await?;
    let paused: BTreeMap<String, UnixMillis> = paused.into_iter().collect();
    let list = dashboard.api().pipeline_registry().current_list();
    let visible = list
        .pipelines
        .iter()
        .filter(|pipeline| viewer.caller.can_read(&pipeline.name) || viewer.caller.can_write(&pipeline.name));
    let pipelines: Vec<_> = visible.map(|pipeline| pipeline_row(pipeline, &paused, now)).collect();
    let refused = refused_rows(dashboard, viewer);
    let page = PipelinesPage {
        shell: Shell::new("Pipelines", Some(viewer), Part::Pipelines).live(notice),
        headline: headline(pipelines.len(), refused.len()),
        pipelines,
        refused,
    };
    render(&page)
}

fn headline(live: usize, refused: usize) -> String {
    let live = match live {
        0 => "No pipeline is live".to_owned(),
        1 => "1 pipeline is live".to_owned(),
        live => format!("{live} pipelines are live"),
    };
    match refused {
        0 => format!("{live}."),
        1 => format!("{live}, and 1 file is refused."),
        refused => format!("{live}, and {refused} files are refused."),
    }
}

fn pipeline_row(pipeline: &PipelineSummary, paused: &BTreeMap<String, UnixMillis>, now: UnixMillis) -> PipelineRow {
    PipelineRow {
        name: pipeline.name.clone(),
        href: format!("/ui/pipelines/{}", path_part(&pipeline.name)),
        description: pipeline.description.clone(),
        starts: pipeline.triggers.iter().map(trigger_words).collect(),
        steps: counted(pipeline.steps.len() as i64, "step"),
        paused: paused.get(&pipeline.name).map(|since| Moment::new(*since, now)),
    }
}

/// What starts a pipeline, in words.
pub(super) fn trigger_words(trigger: &Value) -> String {
    let text = |name: &str| trigger[name].as_str().unwrap_or_default();
    match text("type") {
        "cron" => describe_schedule(text("schedule"), text("timezone")),
        "event" => format!("the event {}", text("name")),
        "s3" => format!("an upload to {}/{}", text("bucket"), text("prefix")),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::shared::FaultRow;
    use super::super::shared::tests::{assert_only_text, hostile_text};
    use super::*;

    #[test]
    fn hostile_texts_of_pipelines_stay_text() {
        let hostile = hostile_text();
        let fault = FaultRow { place: hostile.clone(), message: hostile.clone(), hint: Some(hostile.clone()) };
        let page = PipelinesPage {
            shell: Shell::new(hostile.clone(), None, Part::Pipelines),
            headline: hostile.clone(),
            pipelines: vec![PipelineRow {
                name: hostile.clone(),
                href: format!("/ui/pipelines/{}", path_part(&hostile)),
                description: Some(hostile.clone()),
                starts: vec![trigger_words(&json!({ "type": "event", "name": hostile }))],
                steps: "1 step".into(),
                paused: None,
            }],
            refused: vec![RefusedRow { file: hostile, faults: vec![fault] }],
        };
        assert_only_text(&render(&page).unwrap());
    }

    #[test]
    fn triggers_and_counts_are_told_in_words() {
        let cron = json!({ "type": "cron", "schedule": "0 6 * * MON", "timezone": "UTC" });
        assert_eq!(trigger_words(&cron), "every Monday at 06:00, UTC time");
        assert_eq!(trigger_words(&json!({ "type": "s3", "bucket": "uploads" })), "an upload to uploads/");
        assert_eq!(trigger_words(&json!({ "type": "event", "name": "user.signed_in" })), "the event user.signed_in");
        assert_eq!(
            [headline(0, 0), headline(2, 1)],
            ["No pipeline is live.", "2 pipelines are live, and 1 file is refused."]
        );
    }
}
