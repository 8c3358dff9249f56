//! Suspended steps: each waits for a time or an event, without a worker.

use serde_json::Value;

use super::sql_args::args;
use super::steps::{self, StepRecord};
use super::tx::DbTx;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// The condition that wakes a suspended step: a time or an event, whichever comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WakeCondition {
    /// When the step wakes at the latest.
    pub until: Option<UnixMillis>,
    /// The event that wakes the step.
    pub event: Option<AwaitedEvent>,
}

/// An event that a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedEvent {
    /// The name of the event.
    pub name: String,
    /// The fields of the body that must match, as one text.
    pub fields: String,
    /// The digest of the values that the fields must have.
    pub digest: String,
}

/// Reads and writes suspended steps.
pub struct SuspensionStore<'a>(pub(super) &'a mut DbTx);

impl SuspensionStore<'_> {
    /// Lists the sets of fields by which suspended steps select this event.
    pub async fn list_awaited_fields(self, name: &str) -> Result<Vec<String>> {
        let sql =
            "SELECT DISTINCT wake_event_fields FROM step_runs WHERE status = 'suspended' AND wake_event_name = $1";
        self.0.fetch(sql, &args![name]).await?.iter().map(|row| row.get_text("wake_event_fields")).collect()
    }

    /// Lists the steps that wait for exactly this event.
    pub async fn list_steps(self, awaited: &AwaitedEvent) -> Result<Vec<StepRecord>> {
        let AwaitedEvent { name, fields, digest } = awaited;
        let sql = format!(
            "SELECT {} FROM step_runs
             WHERE status = 'suspended' AND wake_event_name = $1 AND wake_event_fields = $2 AND wake_event_digest = $3 ORDER BY id",
            steps::STEP_COLUMNS
        );
        self.0.fetch(&sql, &args![name, fields, digest]).await?.iter().map(steps::step_from_row).collect()
    }

    /// Suspends a step under its claim. Returns false if the claim is lost.
    pub(super) async fn suspend(
        self,
        id: &str,
        claim: i64,
        progress: Option<&Value>,
        sleep: &WakeCondition,
    ) -> Result<bool> {
        let sql = "UPDATE step_runs SET status = 'suspended', suspend_count = suspend_count + 1, due_at = $3, suspended_until = $3,
                   wake_event_name = $4, wake_event_fields = $5, wake_event_digest = $6, crashes = 0,
                   progress = COALESCE($7, progress)
                   WHERE id = $1 AND claims = $2 AND status = 'running'";
        let awaited = |field: fn(&AwaitedEvent) -> &String| sleep.event.as_ref().map(field).cloned();
        let args = args![
            id,
            claim,
            sleep.until,
            awaited(|event| &event.name),
            awaited(|event| &event.fields),
            awaited(|event| &event.digest),
            progress.map(Value::to_string)
        ];
        Ok(self.0.execute(sql, &args).await? == 1)
    }

    /// Wakes a step with an event. Returns false if the step is no longer suspended.
    pub async fn wake(self, id: &str, event: &Value) -> Result<bool> {
        let sql = "UPDATE step_runs SET status = 'queued', wake_event = $2, due_at = NULL
                   WHERE id = $1 AND status = 'suspended'";
        Ok(self.0.execute(sql, &args![id, event.to_string()]).await? == 1)
    }
}
