//! The end of an attempt: what is written, what is thrown away, what comes next.

use afterload_core::failpoint;
use std::time::{Duration, Instant};

use rand::Rng;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Inner;
use super::advance::Moves;
use super::compiled::{CompiledStep, backoff};
use super::fan_out::Fan;
use super::progress::ProgressView;
use afterload_core::clock;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Class, Error, Result};
use afterload_core::file::File;
use afterload_state::queue::Lease;
use afterload_state::{Claimed, Ending, RunRecord, RunStatus, Sleep, StepRecord, StepStatus, Tx, Verdict};
use afterload_step_api::Made;

/// So many attempts back an attempt looks for files that were left behind; those before did the same.
const OLD_CLAIMS: i64 = 3;
/// How long to wait before trying a database that failed us again.
const DATABASE_PAUSE: Duration = Duration::from_millis(500);

/// What an attempt left behind.
pub(super) struct Outcome {
    pub result: Result<Value>,
    pub progress: Option<ProgressView>,
    pub made: Made,
    /// What it wants to wait for without a worker.
    pub sleep: Option<Sleep>,
    /// The items that it found out, if that is all it had to do.
    pub fan: Option<Fan>,
}

impl Outcome {
    /// An attempt that made nothing.
    pub fn failed(error: Error) -> Self {
        Self { result: Err(error), progress: None, made: Made::default(), sleep: None, fan: None }
    }

    /// An attempt that found out the items of its step.
    pub fn fanned(fan: Fan) -> Self {
        Self { result: Ok(Value::Null), progress: None, made: Made::default(), sleep: None, fan: Some(fan) }
    }
}

impl Inner {
    pub(super) fn after_failure(&self, claimed: &Claimed, step: Option<&CompiledStep>, error: &Error) -> Ending {
        if error.class() == Class::Stopped && self.draining.is_cancelled() {
            return Ending::Park { due_at: clock::now() };
        }
        let failures = claimed.step.failures + 1;
        let again = error.class() != Class::Permanent;
        match step.map(|known| &known.step.retry) {
            Some(retry) if again && failures < retry.attempts => {
                let wait = error.wait().unwrap_or_default().max(backoff(retry, failures, rand::rng().random()));
                Ending::Retry { error: error_json(error), due_at: clock::now() + wait.as_millis() as i64 }
            }
            // Without its definition at hand the step cannot know its retries; a database that was away comes back.
            None if again => Ending::Park { due_at: clock::now() + 1000 },
            _ => Ending::Final { status: StepStatus::Failed, outputs: None, error: Some(error_json(error)) },
        }
    }

    /// Ends the attempt in one transaction, however long the database is away.
    pub(super) async fn end(
        &self,
        lease: &Lease,
        claimed: &Claimed,
        outcome: Outcome,
        ending: Ending,
        started: Instant,
    ) {
        // While the lease is held: afterwards another attempt may be at the same keys.
        if matches!(ending, Ending::Final { .. }) && outcome.result.is_err() && !lease.lost.is_cancelled() {
            self.take_back(&outcome.made.fresh).await;
        }
        let mut uncertain = false;
        let held = loop {
            let tried = match self.try_end(lease, claimed, &outcome, &ending).await {
                // A commit whose answer was lost may have been ours.
                Ok(false) if uncertain => self.has_ended(claimed).await,
                tried => tried,
            };
            match tried {
                Ok(held) => break held,
                Err(error) => {
                    uncertain = true;
                    self.pause(&error, "ending a step").await;
                }
            }
        };
        if !held || outcome.result.is_err() {
            for file in &outcome.made.artifacts {
                if let Err(error) = self.objects.delete(&file.bucket, &file.key).await {
                    warn!(error.code = error.code(), "a file of a failed attempt was not deleted: {error}");
                }
            }
        }
        let duration_ms = started.elapsed().as_millis() as u64;
        self.metrics.step_ended(&claimed.step.uses, said(held, &ending), started.elapsed());
        match (&ending, &outcome.result) {
            _ if !held => warn!(duration_ms, "the step's lease was lost; nothing of this attempt was kept"),
            (Ending::Park { .. }, _) => info!(duration_ms, "step parked"),
            (Ending::Sleep(_), _) => info!(duration_ms, "step sleeps"),
            (Ending::FanOut, _) => info!(duration_ms, "step fans out"),
            (Ending::Final { status: StepStatus::Cancelled, .. }, _) => info!(duration_ms, "step cancelled"),
            (Ending::Final { status: StepStatus::Skipped, .. }, _) => info!(duration_ms, "step skipped"),
            (_, Ok(_)) => info!(duration_ms, "step succeeded"),
            (Ending::Retry { due_at, .. }, Err(error)) => {
                warn!(
                    duration_ms,
                    error.code = error.code(),
                    retry_at = clock::rfc3339(*due_at),
                    "step failed and will be tried again: {error}"
                );
            }
            (_, Err(error)) => warn!(duration_ms, error.code = error.code(), "step failed: {error}"),
        }
    }

    /// Deletes what a step that failed for good has written to the user's bucket, unless it was replaced since. An
    /// attempt that is followed by another one leaves it to that.
    async fn take_back(&self, fresh: &[File]) {
        for file in fresh {
            let ours = match self.objects.head(&file.bucket, &file.key).await {
                Ok(found) => found.etag == file.etag && found.version == file.version,
                Err(_) => false,
            };
            if ours && let Err(error) = self.objects.delete(&file.bucket, &file.key).await {
                warn!(error.code = error.code(), "an object of a failed step was not deleted: {error}");
            }
        }
    }

    /// True if this very claim has left the step's running state.
    async fn has_ended(&self, claimed: &Claimed) -> Result<bool> {
        let now = self.db.step(&claimed.step.id).await?;
        Ok(now.is_some_and(|now| now.claims == claimed.step.claims && now.status != StepStatus::Running))
    }

    /// True: written. False: the lease is lost, nothing was written.
    async fn try_end(&self, lease: &Lease, claimed: &Claimed, outcome: &Outcome, ending: &Ending) -> Result<bool> {
        let step = &claimed.step;
        let progress = outcome.progress.as_ref().map(|view| json!(view));
        let written = self.db.write(async |tx| {
            Ok(match self.write_end(tx, lease, claimed, outcome, (progress.as_ref(), ending)).await? {
                Some(moved) => Verdict::Keep(Some(moved)),
                None => Verdict::Undo(None),
            })
        });
        let Some((run, mut moves)) = written.await? else { return Ok(false) };
        failpoint!("end.after_commit");
        moves.wake.push(step.queue.clone());
        self.moved(&run, &moves);
        Ok(true)
    }

    /// `None`: the lease is lost, and nothing may be written.
    async fn write_end(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        claimed: &Claimed,
        outcome: &Outcome,
        (progress, ending): (Option<&Value>, &Ending),
    ) -> Result<Option<(RunRecord, Moves)>> {
        let step = &claimed.step;
        let run = match ending {
            Ending::Final { status, outputs, error } if tx.dialect() == Dialect::Postgres => {
                let last = (*status, outputs.as_ref(), error.as_ref());
                self.chain.finish(tx, lease, step, progress, last).await?
            }
            _ => self.leave(tx, lease, step, progress, ending).await?,
        };
        let Some(run) = run else { return Ok(None) };
        if let Ending::Sleep(sleep) = ending {
            self.asleep(tx, step, sleep, run.created_at).await?;
        }
        let mut moves = Moves::default();
        if let Some(fan) = &outcome.fan
            && matches!(ending, Ending::FanOut)
        {
            moves = self.fan_out(tx, &run, step, fan).await?;
        }
        if let Ending::Final { status, .. } = ending {
            if *status == StepStatus::Succeeded {
                for file in &outcome.made.artifacts {
                    let id = file.artifact_id.as_deref().unwrap_or_default();
                    tx.insert_artifact(id, &step.run_id, Some(&step.step_id), &json!(file)).await?;
                }
            }
            match self.next(tx, &run, step, *status).await {
                Ok(moved) => moves = moved,
                // The step has ended all the same; of the run this version cannot say what comes next.
                Err(error) if error.code().starts_with("definition_") => {
                    moves.notify = tx.abandon_run(&run.id, &error_json(&error)).await?;
                    moves.ended = Some(RunStatus::Failed);
                }
                Err(error) => return Err(error),
            }
        }
        failpoint!("end.before_commit");
        Ok(Some((run, moves)))
    }

    /// Ends an attempt statement by statement. `None`: the lease is lost.
    async fn leave(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        step: &StepRecord,
        progress: Option<&Value>,
        ending: &Ending,
    ) -> Result<Option<RunRecord>> {
        let held = match ending {
            Ending::Retry { due_at, .. } | Ending::Park { due_at } => self.chain.postpone(tx, lease, *due_at).await?,
            _ => self.chain.acknowledge(tx, lease).await?,
        };
        if !held || !tx.end_step(&step.id, step.claims, progress, ending).await? {
            return Ok(None);
        }
        // Before the run: who tells of the event does it in this order.
        if let Ending::Sleep(Sleep { event: Some(event), .. }) = ending {
            tx.lock_event(&event.name).await?;
        }
        tx.touch_run(&step.run_id).await.map(Some)
    }

    /// Moves on after a step has ended for good: of an item, its step; else the run.
    pub(super) async fn next(
        &self,
        tx: &mut Tx,
        run: &RunRecord,
        step: &StepRecord,
        status: StepStatus,
    ) -> Result<Moves> {
        match &step.parent {
            Some(parent) => self.join(tx, run, (step, parent), status).await,
            None => self.advance(tx, run).await,
        }
    }

    /// Removes what attempts before wrote and never published. That it fails is no reason not to work.
    pub(super) async fn clean_up(&self, claimed: &Claimed) {
        let step = &claimed.step;
        if step.claims > 1 {
            // Only what is older than this attempt: if this one is stale, a later one may have published its own.
            for claim in (step.claims - OLD_CLAIMS).max(1)..step.claims {
                let prefix = format!("{}{claim}/", files_prefix(step));
                if let Err(error) = self.objects.delete_prefix(&self.config.artifacts, &prefix).await {
                    warn!(error.code = error.code(), "files of an earlier attempt were not removed: {error}");
                }
            }
        }
    }

    pub(super) async fn pause(&self, error: &Error, doing: &str) {
        warn!(error.code = error.code(), "{doing} failed and will be tried again: {error}");
        tokio::time::sleep(DATABASE_PAUSE).await;
    }
}

/// How an attempt ended, in a word.
fn said(held: bool, ending: &Ending) -> &'static str {
    match ending {
        _ if !held => "lost",
        Ending::Final { status, .. } => status.as_str(),
        Ending::Retry { .. } => "retried",
        Ending::Park { .. } => "parked",
        Ending::Sleep(_) => "slept",
        Ending::FanOut => "fanned_out",
    }
}

/// Where the artifacts of a step lie, whichever attempt made them.
pub(super) fn files_prefix(step: &StepRecord) -> String {
    format!("runs/{}/{}/", step.run_id, step.key())
}

/// How a step ends whose run was asked to stop.
pub(super) fn cancelled() -> Ending {
    let error = Error::stopped("run_cancelled", "the run was cancelled");
    Ending::Final { status: StepStatus::Cancelled, outputs: None, error: Some(error_json(&error)) }
}

/// An error as runs and steps store it.
pub(super) fn error_json(error: &Error) -> Value {
    let mut json = json!({ "code": error.code(), "message": error.message() });
    if let Some(hint) = error.hint_text() {
        json["hint"] = hint.into();
    }
    if let Some(details) = error.facts() {
        json["details"] = details.clone();
    }
    json
}
