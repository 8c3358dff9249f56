//! A run as the API returns it.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::progress_view::{ProgressView, percent_done};
use afterload_core::clock;
use afterload_core::error::Result;
use afterload_core::keyring::{Keyring, TokenPurpose};
use afterload_egress::{display_origin, parse_url};
use afterload_state::{
    ArtifactRecord, Db, ItemCounts, NotificationRecord, NotificationStatus, RunRecord, RunStatus, StepRecord,
    StepStatus,
};

/// A run with its steps and artifacts. The shape is frozen: fields are added, never changed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunView {
    /// The id.
    pub id: String,
    /// Where it can be seen.
    pub url: String,
    /// Its pipeline.
    pub pipeline: String,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    #[schemars(with = "RunStatus")]
    pub status: &'static str,
    /// What started it, such as `api` or `replay of ID`.
    pub origin: String,
    /// How many runs came before it in its chain: each wrote or sent what started the next one.
    pub hops: u32,
    /// Its parameters.
    pub params: Value,
    /// What the trigger that started it saw; null for a call of the API.
    pub event: Option<Value>,
    /// Steps done of all, with a share for those that run.
    pub progress: ProgressView,
    /// Its steps in the order of the definition.
    pub steps: Vec<StepView>,
    /// The files that belong to it.
    pub artifacts: Vec<ArtifactView>,
    /// Why it failed: `{code, message, step}`.
    pub error: Option<Value>,
    /// Who is told of its end, if somebody asked for that.
    pub notification: Option<NotificationView>,
    /// When it may start, if it is not to start at once. RFC 3339, UTC.
    pub run_at: Option<String>,
    /// Since when it waits for other runs of the same `concurrency.key`, or for its time before it can. RFC 3339, UTC.
    pub waiting_since: Option<String>,
    /// Until when its first step must have started, or it fails as `queue_timed_out`. RFC 3339, UTC.
    pub queue_deadline: Option<String>,
    /// Until when it must have ended, or it fails as `run_timed_out`. RFC 3339, UTC.
    pub deadline: Option<String>,
    /// When somebody asked it to stop. RFC 3339, UTC.
    pub cancel_requested_at: Option<String>,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub started_at: Option<String>,
    /// RFC 3339, UTC.
    pub finished_at: Option<String>,
    /// Rises with every change.
    pub revision: i64,
}

/// A step of a run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StepView {
    /// Its id in the definition.
    pub id: String,
    /// `steps`, `on_success`, `on_failure` or `finally`.
    pub section: String,
    /// Its kind.
    pub uses: String,
    /// `waiting`, `queued`, `running`, `suspended`, `retrying`, `succeeded`, `failed`, `skipped`, `cancelled` or `quarantined`.
    #[schemars(with = "StepStatus")]
    pub status: &'static str,
    /// The attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// How far it is.
    pub progress: Option<Value>,
    /// What it offers to later steps.
    pub outputs: Option<Value>,
    /// Its last error: `{code, message, hint}`.
    pub error: Option<Value>,
    /// When it may start at the earliest, while its job is put off: by `delay`, `run_at` or `rate_limit`.
    pub starts_at: Option<String>,
    /// When its next attempt is due.
    pub retry_at: Option<String>,
    /// When it resumes at the latest; an event may resume it earlier.
    pub suspended_until: Option<String>,
    /// RFC 3339, UTC.
    pub started_at: Option<String>,
    /// RFC 3339, UTC.
    pub finished_at: Option<String>,
    #[serde(skip)]
    is_final: bool,
}

/// An item of a step with `for_each`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ItemView {
    /// Its place in the list, from 0.
    pub index: u64,
    /// What it is.
    pub item: Value,
    /// As that of a step.
    #[schemars(with = "StepStatus")]
    pub status: &'static str,
    /// The attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// How far it is.
    pub progress: Option<Value>,
    /// What it offers, in `steps.ID.items`.
    pub outputs: Option<Value>,
    /// Its last error: `{code, message, hint}`.
    pub error: Option<Value>,
    /// RFC 3339, UTC.
    pub started_at: Option<String>,
    /// RFC 3339, UTC.
    pub finished_at: Option<String>,
}

/// A file that belongs to a run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ArtifactView {
    /// The id.
    pub id: String,
    /// The step that made it; null for what was uploaded.
    pub step: Option<String>,
    /// The name for people.
    #[schemars(with = "String")]
    pub name: Value,
    /// Bytes.
    #[schemars(with = "u64")]
    pub size: Value,
    /// The media type.
    #[schemars(with = "String")]
    pub content_type: Value,
    /// Where it can be downloaded with an API key.
    pub url: String,
    /// When it was let go of; it is gone since. RFC 3339, UTC.
    pub expired_at: Option<String>,
}

/// Who is told of the end of a run, and how far that is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NotificationView {
    /// Whom: scheme, host and port, for the rest of the address may be a secret.
    pub url: String,
    /// `waiting` for the end of the run, `pending`, `sent` or `failed`.
    #[schemars(with = "NotificationStatus")]
    pub status: &'static str,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next attempt is due. RFC 3339, UTC.
    pub next_at: Option<String>,
    /// Why the last attempt failed: `{code, message}`.
    pub error: Option<Value>,
}

impl From<NotificationRecord> for NotificationView {
    fn from(record: NotificationRecord) -> Self {
        Self {
            url: parse_url(&record.url).map(|url| display_origin(&url)).unwrap_or_default(),
            status: record.status.as_str(),
            attempts: record.attempts,
            next_at: record.next_at.map(clock::format_rfc3339),
            error: record.error,
        }
    }
}

impl RunView {
    /// True if the run has ended.
    pub fn is_final(&self) -> bool {
        self.finished_at.is_some()
    }

    /// True if the step with this id has ended.
    pub fn step_has_ended(&self, step: &str) -> bool {
        self.steps.iter().any(|known| known.id == step && known.is_final)
    }

    /// Reads a run with its steps, artifacts and notification. `None`: the run does not exist.
    pub async fn read(db: &Db, id: &str, base_url: &str) -> Result<Option<Self>> {
        let Some(run) = db.runs().find(id).await? else { return Ok(None) };
        let steps = db.steps().list(id).await?;
        let artifacts = db.artifacts().list(id).await?;
        let notification = db.notifications().find(id).await?;
        Ok(Some(Self::new(run, steps, artifacts, notification, base_url)))
    }

    fn new(
        run: RunRecord,
        steps: Vec<StepRecord>,
        artifacts: Vec<ArtifactRecord>,
        notification: Option<NotificationRecord>,
        base_url: &str,
    ) -> Self {
        Self {
            url: run_url(base_url, &run.id),
            id: run.id,
            pipeline: run.pipeline,
            status: run.status.as_str(),
            origin: run.origin,
            hops: run.hops,
            params: run.params,
            event: run.event,
            progress: run_progress(&steps),
            steps: steps.into_iter().map(StepView::from).collect(),
            artifacts: artifacts.into_iter().map(|artifact| ArtifactView::new(artifact, base_url)).collect(),
            error: run.error,
            notification: notification.map(NotificationView::from),
            run_at: run.run_at.map(clock::format_rfc3339),
            waiting_since: run
                .concurrency_slot
                .and_then(|place| place.waiting_since)
                .filter(|_| run.finished_at.is_none())
                .map(clock::format_rfc3339),
            queue_deadline: run.deadlines.queue.map(clock::format_rfc3339),
            deadline: run.deadlines.end.map(clock::format_rfc3339),
            cancel_requested_at: run.cancel_requested_at.map(clock::format_rfc3339),
            created_at: clock::format_rfc3339(run.created_at),
            started_at: run.started_at.map(clock::format_rfc3339),
            finished_at: run.finished_at.map(clock::format_rfc3339),
            revision: run.revision,
        }
    }
}

/// What expressions know about a run before it has ended.
pub(crate) fn run_facts(base_url: &str, run: &RunRecord) -> Value {
    json!({
        "id": run.id,
        "url": run_url(base_url, &run.id),
        "pipeline": run.pipeline,
        "created_at": clock::format_rfc3339(run.created_at),
    })
}

/// The URL of a run.
pub fn run_url(base_url: &str, id: &str) -> String {
    format!("{base_url}/v1/runs/{id}")
}

/// The download URL of an artifact, for clients with an API key.
pub fn artifact_url(base_url: &str, id: &str) -> String {
    format!("{base_url}/v1/artifacts/{id}")
}

/// The download URL of an artifact with a token, for anybody who has the URL.
pub fn signed_artifact_url(base_url: &str, keyring: &Keyring, id: &str) -> String {
    format!("{}?token={}", artifact_url(base_url, id), keyring.create_token(TokenPurpose::Artifact, id))
}

/// The download URL of a link, for anybody who has the URL.
pub fn download_link_url(base_url: &str, keyring: &Keyring, id: Ulid) -> String {
    format!("{base_url}/d/{}", keyring.create_link_token(id))
}

/// Counts ended steps. Running steps add their share to `percent`.
fn run_progress(steps: &[StepRecord]) -> ProgressView {
    let total = steps.len() as u64;
    let done = steps.iter().filter(|step| step.status.is_final()).count() as u64;
    let running = steps.iter().filter(|step| !step.status.is_final());
    let share: f64 =
        running.filter_map(|step| step_progress(step)?.get("percent")?.as_f64()).map(|percent| percent / 100.0).sum();
    let exact = percent_done((done as f64 * 1000.0 + share * 1000.0) as u64, total * 1000);
    ProgressView { done, total: Some(total), unit: "steps".into(), percent: Some(exact), ..ProgressView::default() }
}

/// The progress of a step: its own report, or the number of items that have ended.
fn step_progress(step: &StepRecord) -> Option<Value> {
    let Some(ItemCounts { items, ended, failed }) = step.item_counts else { return step.progress.clone() };
    let (done, total) = (ended.unsigned_abs(), items.unsigned_abs());
    Some(json!(ProgressView {
        done,
        total: Some(total),
        unit: "items".into(),
        percent: Some(percent_done(done, total)),
        counts: [("failed".to_owned(), failed.unsigned_abs())].into(),
        ..ProgressView::default()
    }))
}

/// The number of the attempt, from 1; 0 before the first.
fn attempt_number(step: &StepRecord) -> u32 {
    match (step.started_at, step.status) {
        (None, _) => 0,
        (Some(_), StepStatus::Retrying) => step.failures,
        (Some(_), _) => step.failures + 1,
    }
}

impl From<StepRecord> for StepView {
    fn from(step: StepRecord) -> Self {
        Self {
            attempt: attempt_number(&step),
            progress: step_progress(&step),
            id: step.step_id,
            section: step.section,
            uses: step.uses,
            status: step.status.as_str(),
            is_final: step.status.is_final(),
            outputs: step.outputs,
            error: step.error,
            starts_at: step.due_at.filter(|_| step.status == StepStatus::Queued).map(clock::format_rfc3339),
            retry_at: step.due_at.filter(|_| step.status == StepStatus::Retrying).map(clock::format_rfc3339),
            suspended_until: step.due_at.filter(|_| step.status == StepStatus::Suspended).map(clock::format_rfc3339),
            started_at: step.started_at.map(clock::format_rfc3339),
            finished_at: step.finished_at.map(clock::format_rfc3339),
        }
    }
}

impl From<StepRecord> for ItemView {
    fn from(step: StepRecord) -> Self {
        Self {
            attempt: attempt_number(&step),
            index: step.item_index.unwrap_or_default().unsigned_abs(),
            item: step.item.unwrap_or_default(),
            status: step.status.as_str(),
            progress: step.progress,
            outputs: step.outputs,
            error: step.error,
            started_at: step.started_at.map(clock::format_rfc3339),
            finished_at: step.finished_at.map(clock::format_rfc3339),
        }
    }
}

impl ArtifactView {
    fn new(artifact: ArtifactRecord, base_url: &str) -> Self {
        let field = |name: &str| artifact.file.get(name).cloned().unwrap_or_default();
        Self {
            name: field("name"),
            size: field("size"),
            content_type: field("content_type"),
            url: artifact_url(base_url, &artifact.id),
            id: artifact.id,
            step: artifact.step_id,
            expired_at: artifact.expired_at.map(clock::format_rfc3339),
        }
    }
}
