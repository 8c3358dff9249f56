//! `Now`: where work stands, at a glance.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use super::shared::{RefusedRow, notice_of, refused_rows, short_id, show_page};
use crate::chart::{DayChart, day_chart};
use crate::dashboard::Dashboard;
use crate::day_counts::CountsBySpan;
use crate::forms::{path_part, to_query};
use crate::numbers::{COUNT_CAP, capped, counted, grouped};
use crate::response::render;
use crate::schedule_words::{describe_schedule, next_moments};
use crate::shell::{Part, Shell};
use crate::signed_in::SignedIn;
use crate::times::{Moment, duration};
use crate::viewer::Viewer;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_engine::QueueState;
use afterload_server::api::Caller;
use afterload_state::{RunFilter, RunStatus};

/// The most rows of a panel.
const MAX_ROWS: usize = 10;
/// How many waiting runs and steps are read.
const MAX_WAITING: u32 = 20;

#[derive(Template)]
#[template(path = "now.html")]
struct NowPage {
    shell: Shell,
    headline: String,
    running: String,
    queued: String,
    chart: DayChart,
    ended: String,
    failed: String,
    failed_share: String,
    has_failures: bool,
    is_admin: bool,
    queues: Vec<QueueRow>,
    codes: Vec<CodeRow>,
    moments: Vec<ScheduleRow>,
    waiting: Vec<WaitingRow>,
    refused: Vec<RefusedRow>,
}

struct QueueRow {
    name: String,
    path: String,
    running: String,
    waiting: String,
    oldest: String,
    paused: Option<Moment>,
}

struct CodeRow {
    number: String,
    code: String,
    href: String,
    pipelines: String,
}

struct ScheduleRow {
    pipeline: String,
    href: String,
    words: String,
    next: Moment,
    at: UnixMillis,
}

struct WaitingRow {
    href: String,
    id: String,
    pipeline: String,
    what: String,
    moment: Option<Moment>,
}

/// `GET /ui/`
pub(crate) async fn show_now(
    State(dashboard): State<Dashboard>,
    SignedIn(viewer): SignedIn,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let notice = notice_of(&uri);
    show_page(&dashboard, &viewer, &uri, &headers, || render_now(&dashboard, &viewer, notice.as_deref())).await
}

async fn render_now(dashboard: &Dashboard, viewer: &Viewer, notice: Option<&str>) -> Result<String> {
    viewer.caller.require_read()?;
    let now = dashboard.now();
    let engine = dashboard.api().engine();
    let counts = dashboard.day_counts().read(now).await?;
    let chart = day_chart(&counts, &viewer.caller, now);
    let running = count_runs(dashboard, &viewer.caller, RunStatus::Running).await?;
    let queued = count_runs(dashboard, &viewer.caller, RunStatus::Queued).await?;
    let is_admin = viewer.caller.is_admin();
    let queues = if is_admin { engine.list_queues().await? } else { Vec::new() };
    let refused = refused_rows(dashboard, viewer);
    let paused = queues.iter().filter(|queue| queue.paused_at.is_some()).count();
    let page = NowPage {
        shell: Shell::new("Now", Some(viewer), Part::Now).live(notice),
        headline: headline(&chart, running, refused.len(), paused),
        running: capped(running),
        queued: capped(queued),
        ended: grouped(chart.ended),
        failed: grouped(chart.failed),
        failed_share: failed_share(&chart),
        has_failures: chart.failed > 0,
        chart,
        is_admin,
        queues: queues.into_iter().map(|queue| queue_row(queue, now)).collect(),
        codes: code_rows(&counts, &viewer.caller),
        moments: schedule_rows(dashboard, &viewer.caller, now),
        waiting: waiting_rows(dashboard, &viewer.caller, now).await?,
        refused,
    };
    render(&page)
}

/// Answers the question of the page in a sentence.
fn headline(chart: &DayChart, running: i64, refused: usize, paused: usize) -> String {
    let mut faults = Vec::new();
    if chart.failed > 0 {
        faults.push(format!("{} failed in the last 24 hours", counted(chart.failed, "run")));
    }
    if refused > 0 {
        let verb = if refused == 1 { "is" } else { "are" };
        faults.push(format!("{} {verb} not live", counted(refused as i64, "pipeline file")));
    }
    if paused > 0 {
        let verb = if paused == 1 { "is" } else { "are" };
        faults.push(format!("{} {verb} paused", counted(paused as i64, "queue")));
    }
    match (faults.split_last(), running, chart.ended) {
        (Some((last, [])), ..) => format!("{last}."),
        (Some((last, others)), ..) => format!("{}, and {last}.", others.join(", ")),
        (None, 0, 0) => "Nothing has run in the last 24 hours.".into(),
        (None, 0, _) => "All is well, and nothing runs right now.".into(),
        (None, 1, _) => "All is well: 1 run is at work.".into(),
        (None, running, _) => format!("All is well: {} runs are at work.", capped(running)),
    }
}

fn failed_share(chart: &DayChart) -> String {
    match chart.failed {
        0 => "none".into(),
        failed => format!("{:.1} % of all", failed as f64 * 100.0 / chart.ended as f64),
    }
}

async fn count_runs(dashboard: &Dashboard, caller: &Caller, status: RunStatus) -> Result<i64> {
    let filter = RunFilter {
        pipelines: caller.readable_pipelines(),
        status: Some(status),
        limit: COUNT_CAP as u32 + 1,
        ..RunFilter::default()
    };
    dashboard.api().db().runs().count(&filter).await
}

fn queue_row(queue: QueueState, now: UnixMillis) -> QueueRow {
    QueueRow {
        path: path_part(&queue.name),
        name: queue.name,
        running: grouped(queue.running),
        waiting: grouped(queue.waiting),
        oldest: queue.oldest_waiting_at.map_or_else(|| "–".into(), |since| duration(now - since)),
        paused: queue.paused_at.map(|since| Moment::new(since, now)),
    }
}

/// The error codes of the last day, the most frequent first.
fn code_rows(counts: &CountsBySpan, caller: &Caller) -> Vec<CodeRow> {
    let mut codes: BTreeMap<&str, BTreeMap<&str, i64>> = BTreeMap::new();
    for count in counts.values().flatten().filter(|count| caller.can_read(&count.pipeline)) {
        if let Some(code) = count.error_code.as_deref() {
            *codes.entry(code).or_default().entry(&count.pipeline).or_default() += count.number;
        }
    }
    let mut found: Vec<_> =
        codes.into_iter().map(|(code, pipelines)| (pipelines.values().sum::<i64>(), code, pipelines)).collect();
    found.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
    let row = |(number, code, pipelines): (i64, &str, BTreeMap<&str, i64>)| CodeRow {
        number: grouped(number),
        code: code.to_owned(),
        href: format!("/ui/runs?{}", to_query(&[("code", code), ("since", "24h")])),
        pipelines: pipelines.into_keys().collect::<Vec<_>>().join(", "),
    };
    found.into_iter().take(MAX_ROWS).map(row).collect()
}

/// The next moment of each schedule, the soonest first.
fn schedule_rows(dashboard: &Dashboard, caller: &Caller, now: UnixMillis) -> Vec<ScheduleRow> {
    let list = dashboard.api().pipeline_registry().current_list();
    let mut rows = Vec::new();
    for pipeline in list.pipelines.iter().filter(|pipeline| caller.can_read(&pipeline.name)) {
        for trigger in pipeline.triggers.iter().filter(|trigger| trigger["type"] == "cron") {
            let text = |name: &str| trigger[name].as_str().unwrap_or_default();
            let (schedule, timezone) = (text("schedule"), text("timezone"));
            if let Some(at) = next_moments(schedule, timezone, now, 1).pop() {
                rows.push(ScheduleRow {
                    pipeline: pipeline.name.clone(),
                    href: format!("/ui/pipelines/{}", path_part(&pipeline.name)),
                    words: describe_schedule(schedule, timezone),
                    next: Moment::new(at, now),
                    at,
                });
            }
        }
    }
    rows.sort_by_key(|row| row.at);
    rows.truncate(MAX_ROWS);
    rows
}

/// Runs that wait for a slot, and steps that wait for a time or an event.
async fn waiting_rows(dashboard: &Dashboard, caller: &Caller, now: UnixMillis) -> Result<Vec<WaitingRow>> {
    let db = dashboard.api().db();
    let mut rows = Vec::new();
    for run in db.runs().list_waiting_for_slot(MAX_WAITING).await? {
        let slot = run.concurrency_slot.as_ref();
        rows.push(WaitingRow {
            href: format!("/ui/runs/{}", run.id),
            id: short_id(&run.id),
            pipeline: run.pipeline,
            what: "for another run of the same `concurrency.key`".into(),
            moment: slot.and_then(|slot| slot.waiting_since).map(|since| Moment::new(since, now)),
        });
    }
    for step in db.steps().list_suspended(MAX_WAITING).await? {
        let what = match &step.event {
            Some(event) => format!("step `{}`, for the event `{event}`", step.step_id),
            None => format!("step `{}`, for its time", step.step_id),
        };
        rows.push(WaitingRow {
            href: format!("/ui/runs/{}", step.run_id),
            id: short_id(&step.run_id),
            pipeline: step.pipeline,
            what,
            moment: step.until.map(|until| Moment::new(until, now)),
        });
    }
    rows.retain(|row| caller.can_read(&row.pipeline));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_answers_with_a_sentence() {
        let chart = |ended, failed| DayChart { ended, failed, ..DayChart::default() };
        assert_eq!(headline(&chart(0, 0), 0, 0, 0), "Nothing has run in the last 24 hours.");
        assert_eq!(headline(&chart(5, 0), 3, 0, 0), "All is well: 3 runs are at work.");
        assert_eq!(headline(&chart(5, 1), 3, 0, 0), "1 run failed in the last 24 hours.");
        let all = headline(&chart(5_000, 2_000), 3, 1, 2);
        assert_eq!(
            all,
            "2,000 runs failed in the last 24 hours, 1 pipeline file is not live, and 2 queues are paused."
        );
        assert_eq!(failed_share(&chart(1_000, 2)), "0.2 % of all");
    }
}
