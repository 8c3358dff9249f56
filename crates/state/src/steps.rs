//! The steps of runs: their rows, and how they wait, are released and are reset.

use serde_json::Value;

use super::db::Db;
use super::sql_args::args;
use super::step_status::StepStatus;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_core::file_seals::FileSeals;

/// The counts of the items of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemCounts {
    /// All items.
    pub items: i64,
    /// Items that have ended.
    pub ended: i64,
    /// Items that have ended without success.
    pub failed: i64,
}

/// A step of a run, as stored.
#[derive(Clone, Debug)]
pub struct StepRecord {
    /// The id of the step and of its job in the queue.
    pub id: String,
    /// The run.
    pub run_id: String,
    /// `steps`, `on_success`, `on_failure` or `finally`.
    pub section: String,
    /// The position over all sections.
    pub position: i64,
    /// The id of the step in the pipeline.
    pub step_id: String,
    /// The step kind.
    pub uses: String,
    /// The queue of the job.
    pub queue: String,
    /// The priority of the job. A higher one goes first.
    pub priority: i64,
    /// The status of the step.
    pub status: StepStatus,
    /// The number of claims. Writes of an attempt are fenced by the number of its own claim.
    pub claims: i64,
    /// The number of failed attempts.
    pub failures: u32,
    /// The number of crashes since the progress last moved.
    pub crashes: u32,
    /// The number of suspends.
    pub suspend_count: i64,
    /// When the step wakes, or woke, at the latest.
    pub suspended_until: Option<UnixMillis>,
    /// The event that woke the step.
    pub wake_event: Option<Value>,
    /// The round: how often the step has started again after a success.
    pub round: i64,
    /// For an item of a `for_each` step: the row of that step.
    pub parent: Option<String>,
    /// For an item: its index in the list, from 0.
    pub item_index: Option<i64>,
    /// For an item: its value.
    pub item: Option<Value>,
    /// For a `for_each` step that has started: the counts of its items.
    pub item_counts: Option<ItemCounts>,
    /// The progress as last committed.
    pub progress: Option<Value>,
    /// The outputs, once the step has succeeded.
    pub outputs: Option<Value>,
    /// The seals of the files in the item and the outputs.
    pub file_seals: FileSeals,
    /// The last error: `{code, message}`.
    pub error: Option<Value>,
    /// When the next attempt is due.
    pub due_at: Option<UnixMillis>,
    /// When the first attempt started.
    pub started_at: Option<UnixMillis>,
    /// When the step ended.
    pub finished_at: Option<UnixMillis>,
}

impl StepRecord {
    /// The id in the definition. An item has the id of its step.
    pub fn definition_id(&self) -> &str {
        self.step_id.split_once('[').map_or(&self.step_id, |(step, _)| step)
    }

    /// The key of the step in the effect log and in names of objects. It differs for each round.
    pub fn effect_key(&self) -> String {
        match self.round {
            0 => self.step_id.clone(),
            round => format!("{}.{round}", self.step_id),
        }
    }
}

/// The counts of open steps in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStepCounts {
    /// The queue.
    pub queue: String,
    /// Steps that wait for a worker or for the time of their next attempt.
    pub waiting: i64,
    /// Steps that a worker runs.
    pub running: i64,
    /// The id of the oldest step that waits: a ULID, made when its run was accepted.
    pub oldest_waiting: Option<String>,
}

/// A step that waits for a time or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspendedStep {
    /// The run.
    pub run_id: String,
    /// The pipeline of the run.
    pub pipeline: String,
    /// The id of the step in the pipeline.
    pub step_id: String,
    /// When it resumes at the latest.
    pub until: Option<UnixMillis>,
    /// The event that may resume it.
    pub event: Option<String>,
}

/// The columns are named one by one, because a later version may add columns while an older process still reads.
pub(super) const STEP_COLUMNS: &str = "id, run_id, section, position, step_id, uses, queue, priority, status, claims, failures, crashes, \
     suspend_count, suspended_until, wake_event, round, parent, item_index, item, items, items_ended, items_failed, \
     progress, outputs, error, due_at, started_at, finished_at";

pub(super) fn step_from_row(row: &DbRow) -> Result<StepRecord> {
    let mut file_seals = FileSeals::default();
    Ok(StepRecord {
        id: row.get_text("id")?,
        run_id: row.get_text("run_id")?,
        section: row.get_text("section")?,
        position: row.get_int("position")?,
        step_id: row.get_text("step_id")?,
        uses: row.get_text("uses")?,
        queue: row.get_text("queue")?,
        priority: row.get_int("priority")?,
        status: StepStatus::parse(&row.get_text("status")?)?,
        claims: row.get_int("claims")?,
        failures: row.get_u32("failures")?,
        crashes: row.get_u32("crashes")?,
        suspend_count: row.get_int("suspend_count")?,
        suspended_until: row.get_opt_int("suspended_until")?,
        wake_event: row.get_json("wake_event")?,
        round: row.get_int("round")?,
        parent: row.get_opt_text("parent")?,
        item_index: row.get_opt_int("item_index")?,
        item: row.get_sealed_json("item", &mut file_seals)?,
        item_counts: match row.get_opt_int("items")? {
            Some(items) => {
                Some(ItemCounts { items, ended: row.get_int("items_ended")?, failed: row.get_int("items_failed")? })
            }
            None => None,
        },
        progress: row.get_json("progress")?,
        outputs: row.get_sealed_json("outputs", &mut file_seals)?,
        file_seals,
        error: row.get_json("error")?,
        due_at: row.get_opt_int("due_at")?,
        started_at: row.get_opt_int("started_at")?,
        finished_at: row.get_opt_int("finished_at")?,
    })
}

/// The condition that a step `s` has not ended. It matches a partial index that only queries over all runs use.
pub(super) const STEP_IS_OPEN: &str = "(s.status || '') IN ('waiting', 'queued', 'running', 'retrying', 'suspended')";

/// The condition that a step `s` should have a job once it is due. It matches a partial index, too.
pub(crate) const STEP_NEEDS_JOB: &str = "(s.status || '') IN ('queued', 'retrying', 'suspended')";

/// Sets a step back to `waiting`. A step that had succeeded begins a new round.
pub(super) const UPDATE_RESET_STEP: &str =
    "UPDATE step_runs SET round = CASE WHEN status = 'succeeded' THEN round + 1 ELSE round END,
                   progress = CASE WHEN status = 'succeeded' THEN NULL ELSE progress END, status = 'waiting',
                   failures = 0, crashes = 0, outputs = NULL, error = NULL, due_at = NULL, started_at = NULL,
                   finished_at = NULL, suspend_count = 0, suspended_until = NULL, wake_event_name = NULL, wake_event_fields = NULL,
                   wake_event_digest = NULL, wake_event = NULL, items = NULL, items_ended = 0, items_failed = 0,
                   reserved_start_at = NULL, rate_limited_starts = 0";

fn idle_steps_sql() -> String {
    format!(
        "SELECT {STEP_COLUMNS} FROM step_runs WHERE run_id = $1 AND (status IN ('queued', 'retrying', 'suspended')
         OR status = 'running' AND items IS NOT NULL) ORDER BY id"
    )
}

/// Reads and writes the steps of runs.
#[derive(Clone, Copy)]
pub struct StepStore<C>(pub(super) C);

impl StepStore<&mut DbTx> {
    /// Stores a new step.
    pub async fn insert(self, step: &StepRecord) -> Result<()> {
        let sql =
            "INSERT INTO step_runs (id, run_id, section, position, step_id, uses, queue, priority, status, finished_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let StepRecord { id, run_id, section, position, step_id, uses, queue, priority, status, finished_at, .. } =
            step;
        let args =
            args![id, run_id, section, *position, step_id, uses, queue, *priority, status.as_str(), *finished_at];
        self.0.execute(sql, &args).await.map(drop)
    }

    /// Gives a waiting step its next status: it goes to its queue, or it ends without an attempt.
    pub async fn release(
        self,
        id: &str,
        status: StepStatus,
        error: Option<&Value>,
        due_at: Option<UnixMillis>,
    ) -> Result<()> {
        let finished = status.is_final().then(|| self.0.now());
        let sql = "UPDATE step_runs SET status = $2, error = $3, finished_at = $4, due_at = $5
                   WHERE id = $1 AND status = 'waiting'";
        let args = args![id, status.as_str(), error.map(Value::to_string), finished, due_at];
        self.0.execute(sql, &args).await.map(drop)
    }

    /// Cancels a step that has no active attempt. Returns false if an attempt is active or the step has ended.
    pub async fn cancel(self, id: &str) -> Result<bool> {
        let sql = "UPDATE step_runs SET status = 'cancelled', due_at = NULL, finished_at = $2
                   WHERE id = $1 AND status IN ('queued', 'retrying', 'suspended')";
        Ok(self.0.execute(sql, &args![id, self.0.now()]).await? == 1)
    }

    /// Sets an ended step back to `waiting`. A step that had succeeded begins a new round.
    pub async fn reset(self, id: &str) -> Result<()> {
        self.0.execute(&format!("{UPDATE_RESET_STEP} WHERE id = $1"), &args![id]).await.map(drop)
    }

    /// Gives an ended step and its items their place, queue and priority in another definition.
    pub async fn set_place(self, id: &str, position: i64, queue: &str, priority: i64) -> Result<()> {
        let sql = "UPDATE step_runs SET position = $2, queue = $3, priority = $4 WHERE id = $1 OR parent = $1";
        self.0.execute(sql, &args![id, position, queue, priority]).await.map(drop)
    }

    /// Deletes an ended step with its items. What it did to the outside stays recorded.
    pub async fn delete(self, id: &str) -> Result<()> {
        self.0.execute("DELETE FROM step_runs WHERE id = $1 OR parent = $1", &args![id]).await.map(drop)
    }

    /// Locks a step that needs a job until the end of the transaction. Returns `None` if it no longer needs one.
    pub async fn lock_due(self, id: &str) -> Result<Option<StepRecord>> {
        let sql = format!(
            "UPDATE step_runs SET due_at = due_at WHERE id = $1 AND status IN ('queued', 'retrying', 'suspended') RETURNING {STEP_COLUMNS}"
        );
        self.0.fetch(&sql, &args![id]).await?.first().map(step_from_row).transpose()
    }

    /// Lists the steps of a run in their order, without items.
    pub async fn list(self, run: &str) -> Result<Vec<StepRecord>> {
        let rows = self
            .0
            .fetch(
                &format!("SELECT {STEP_COLUMNS} FROM step_runs WHERE run_id = $1 AND parent IS NULL ORDER BY position"),
                &args![run],
            )
            .await?;
        rows.iter().map(step_from_row).collect()
    }

    /// Lists the steps of a run that no attempt works on and that a cancel may end: steps and items in a queue, and
    /// steps that have fanned out.
    pub async fn list_idle(self, run: &str) -> Result<Vec<StepRecord>> {
        let rows = self.0.fetch(&idle_steps_sql(), &args![run]).await?;
        rows.iter().map(step_from_row).collect()
    }

    /// Ends a step after all its items have ended. The outputs hold the seals of their files.
    pub async fn finish_fan_out(
        self,
        id: &str,
        status: StepStatus,
        outputs: &Value,
        error: Option<&Value>,
    ) -> Result<()> {
        let sql = "UPDATE step_runs SET status = $2, outputs = $3, error = $4, finished_at = $5
                   WHERE id = $1 AND status = 'running'";
        let args = args![id, status.as_str(), outputs, error.map(Value::to_string), self.0.now()];
        self.0.execute(sql, &args).await.map(drop)
    }
}

impl StepStore<&Db> {
    /// Lists the steps of a run in their order, without items.
    pub async fn list(self, run: &str) -> Result<Vec<StepRecord>> {
        let rows = self
            .0
            .fetch(
                &format!("SELECT {STEP_COLUMNS} FROM step_runs WHERE run_id = $1 AND parent IS NULL ORDER BY position"),
                &args![run],
            )
            .await?;
        rows.iter().map(step_from_row).collect()
    }

    /// Lists the queues of all steps that have not ended.
    pub async fn list_open_queues(self) -> Result<Vec<String>> {
        self.0
            .fetch(&format!("SELECT DISTINCT queue FROM step_runs s WHERE {STEP_IS_OPEN}"), &[])
            .await?
            .iter()
            .map(|row| row.get_text("queue"))
            .collect()
    }

    /// Finds a step by its id.
    pub async fn find(self, id: &str) -> Result<Option<StepRecord>> {
        self.0
            .fetch_optional(&format!("SELECT {STEP_COLUMNS} FROM step_runs WHERE id = $1"), &args![id])
            .await?
            .as_ref()
            .map(step_from_row)
            .transpose()
    }

    /// Lists the idle steps of a run as above, without waiting for writers.
    pub async fn list_idle(self, run: &str) -> Result<Vec<StepRecord>> {
        let rows = self.0.fetch(&idle_steps_sql(), &args![run]).await?;
        rows.iter().map(step_from_row).collect()
    }

    /// Counts the open steps of each queue that has some.
    pub async fn count_by_queue(self) -> Result<Vec<QueueStepCounts>> {
        let sql = format!(
            "SELECT queue, COUNT(CASE WHEN status IN ('queued', 'retrying') THEN 1 END) AS waiting,
             MIN(CASE WHEN status IN ('queued', 'retrying') THEN id END) AS oldest_waiting,
             COUNT(CASE WHEN status = 'running' THEN 1 END) AS running FROM step_runs s WHERE {STEP_IS_OPEN} GROUP BY queue"
        );
        let count = |row: &DbRow| {
            Ok(QueueStepCounts {
                queue: row.get_text("queue")?,
                waiting: row.get_int("waiting")?,
                running: row.get_int("running")?,
                oldest_waiting: row.get_opt_text("oldest_waiting")?,
            })
        };
        self.0.fetch(&sql, &[]).await?.iter().map(count).collect()
    }

    /// Lists steps that wait for a time or an event, at most `limit`.
    pub async fn list_suspended(self, limit: u32) -> Result<Vec<SuspendedStep>> {
        let sql = format!(
            "SELECT s.run_id, r.pipeline, s.step_id, s.suspended_until, s.wake_event_name
             FROM step_runs s JOIN runs r ON r.id = s.run_id
             WHERE {STEP_NEEDS_JOB} AND s.status = 'suspended' LIMIT $1"
        );
        let step = |row: &DbRow| {
            Ok(SuspendedStep {
                run_id: row.get_text("run_id")?,
                pipeline: row.get_text("pipeline")?,
                step_id: row.get_text("step_id")?,
                until: row.get_opt_int("suspended_until")?,
                event: row.get_opt_text("wake_event_name")?,
            })
        };
        self.0.fetch(&sql, &args![limit]).await?.iter().map(step).collect()
    }
}
