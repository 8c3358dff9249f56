//! `Runs`: the runs that match a filter, a page at a time.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use super::shared::{ErrorText, MAX_LINE_CHARS, notice_of, short_id, show_page};
use crate::dashboard::Dashboard;
use crate::forms::{path_part, to_query};
use crate::numbers::{COUNT_CAP, capped};
use crate::response::render;
use crate::run_filter::{PAGE_SIZE, RunQuery};
use crate::shell::{Part, Shell};
use crate::signed_in::SignedIn;
use crate::status::Chip;
use crate::times::{Moment, duration};
use crate::viewer::Viewer;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_state::{RunFilter, RunRecord};

const STATUSES: [&str; 5] = ["queued", "running", "succeeded", "failed", "cancelled"];

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsPage {
    shell: Shell,
    headline: String,
    fault: Option<String>,
    query: RunQuery,
    line: String,
    statuses: Vec<(&'static str, bool)>,
    pipelines: Vec<String>,
    runs: Vec<RunRow>,
    /// True if the page may change some of the runs.
    can_change: bool,
    is_filtered: bool,
    /// The query to come back with after an action.
    back: String,
    older: Option<String>,
    newest: Option<String>,
}

struct RunRow {
    id: String,
    short_id: String,
    href: String,
    pipeline: String,
    pipeline_href: String,
    chip: Chip,
    origin: String,
    created: Moment,
    took: String,
    error: Option<ErrorText>,
    can_change: bool,
}

/// `GET /ui/runs`
pub(crate) async fn show_runs(
    State(dashboard): State<Dashboard>,
    SignedIn(viewer): SignedIn,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    show_page(&dashboard, &viewer, &uri, &headers, || render_runs(&dashboard, &viewer, &uri)).await
}

async fn render_runs(dashboard: &Dashboard, viewer: &Viewer, uri: &Uri) -> Result<String> {
    viewer.caller.require_read()?;
    let now = dashboard.now();
    let parsed = RunQuery::parse(uri.query().unwrap_or_default());
    let (query, mut fault) = match parsed {
        Ok(query) => (query, None),
        Err(fault) => (RunQuery::default(), Some(fault)),
    };
    let filter = query.to_filter(&viewer.caller, now);
    let found = match filter {
        Ok(filter) if fault.is_none() => read_runs(dashboard, filter).await?,
        other => {
            fault = fault.or(other.err());
            FoundRuns::default()
        }
    };
    let FoundRuns { runs, number, has_more } = found;
    let last = runs.last().map(|run| run.id.clone()).filter(|_| has_more);
    let address = query.to_query();
    let with_place = |id: String| [address.clone(), to_query(&[("before", id.as_str())])].join("&");
    let runs: Vec<_> = runs.into_iter().map(|run| run_row(run, viewer, now)).collect();
    let list = dashboard.api().pipeline_registry().current_list();
    let names = list.pipelines.iter().map(|pipeline| &pipeline.name).filter(|name| viewer.caller.can_read(name));
    let page = RunsPage {
        shell: Shell::new("Runs", Some(viewer), Part::Runs).live(notice_of(uri).as_deref()),
        headline: headline(number, !address.is_empty(), fault.is_some()),
        fault,
        line: query.line(),
        statuses: STATUSES.map(|status| (status, status == query.status)).into(),
        pipelines: names.cloned().collect(),
        can_change: runs.iter().any(|run| run.can_change),
        runs,
        is_filtered: !address.is_empty(),
        older: last.map(|id| format!("/ui/runs?{}", with_place(id).trim_start_matches('&'))),
        newest: (!query.before.is_empty()).then(|| format!("/ui/runs?{address}")),
        back: match query.before.is_empty() {
            true => address.clone(),
            false => with_place(query.before.clone()).trim_start_matches('&').to_owned(),
        },
        query,
    };
    render(&page)
}

#[derive(Default)]
struct FoundRuns {
    runs: Vec<RunRecord>,
    /// All runs that match, at most one more than the cap.
    number: i64,
    has_more: bool,
}

async fn read_runs(dashboard: &Dashboard, filter: RunFilter) -> Result<FoundRuns> {
    let db = dashboard.api().db();
    let mut runs = db.runs().list(&filter).await?;
    let has_more = runs.len() > PAGE_SIZE as usize;
    runs.truncate(PAGE_SIZE as usize);
    let all = RunFilter { before_id: None, limit: COUNT_CAP as u32 + 1, ..filter };
    let number = db.runs().count(&all).await?;
    Ok(FoundRuns { runs, number, has_more })
}

fn headline(number: i64, is_filtered: bool, is_wrong: bool) -> String {
    let noun = if number == 1 { "run" } else { "runs" };
    match (number, is_filtered) {
        _ if is_wrong => "This filter is not understood.".into(),
        (0, true) => "No run matches.".into(),
        (0, false) => "No runs yet.".into(),
        (number, true) => format!("{} {noun} match.", capped(number)).replace("run match.", "run matches."),
        (number, false) => format!("{} {noun}.", capped(number)),
    }
}

fn run_row(run: RunRecord, viewer: &Viewer, now: UnixMillis) -> RunRow {
    let took = run.started_at.map(|started| duration(run.finished_at.unwrap_or(now) - started));
    RunRow {
        short_id: short_id(&run.id),
        href: format!("/ui/runs/{}", run.id),
        pipeline_href: format!("/ui/pipelines/{}", path_part(&run.pipeline)),
        can_change: viewer.caller.can_write(&run.pipeline),
        chip: Chip::new(run.status.as_str()),
        origin: run.origin,
        created: Moment::new(run.created_at, now),
        took: took.unwrap_or_else(|| "–".into()),
        error: run.error.as_ref().map(|error| ErrorText::new(error, MAX_LINE_CHARS)),
        id: run.id,
        pipeline: run.pipeline,
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::tests::{assert_only_text, hostile_text};
    use super::*;

    #[test]
    fn hostile_texts_of_runs_stay_text() {
        let hostile = hostile_text();
        let error = serde_json::json!({ "code": hostile, "message": hostile, "hint": hostile });
        let row = RunRow {
            id: hostile.clone(),
            short_id: hostile.clone(),
            href: "/ui/runs/01J".into(),
            pipeline: hostile.clone(),
            pipeline_href: "/ui/pipelines/a".into(),
            chip: Chip::new("failed"),
            origin: hostile.clone(),
            created: Moment::of_text(&hostile, 0),
            took: hostile.clone(),
            error: Some(ErrorText::new(&error, MAX_LINE_CHARS)),
            can_change: true,
        };
        let query = RunQuery { code: hostile.clone(), since: hostile.clone(), ..RunQuery::default() };
        let page = RunsPage {
            shell: Shell::new(hostile.clone(), None, Part::Runs),
            headline: hostile.clone(),
            fault: Some(hostile.clone()),
            line: query.line(),
            query,
            statuses: vec![("failed", true)],
            pipelines: vec![hostile.clone()],
            runs: vec![row],
            can_change: true,
            is_filtered: true,
            back: hostile,
            older: None,
            newest: None,
        };
        assert_only_text(&render(&page).unwrap());
    }

    #[test]
    fn the_headline_counts_in_a_sentence() {
        assert_eq!(headline(0, false, false), "No runs yet.");
        assert_eq!(headline(1, true, false), "1 run matches.");
        assert_eq!(headline(10_001, true, false), "10,000+ runs match.");
        assert_eq!(headline(20, false, false), "20 runs.");
        assert_eq!(headline(0, true, true), "This filter is not understood.");
    }
}
