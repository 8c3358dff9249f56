//! Ends an attempt: writes its result, deletes files that are not kept, and advances the run.

use crate::codes;
use crate::plan_cache::is_unreadable_definition;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tracing::{info, warn};

use crate::db_retry::wait_for_db;
use crate::lifecycle::advance::{Transition, TransitionPublisher};
use crate::lifecycle::follow_up::StepFollowUp;
use crate::progress_view::ProgressView;
use crate::run_errors::error_to_json;
use crate::scheduling::fan_out::FanOut;
use crate::scheduling::suspend::Suspensions;
use afterload_core::clock;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::failpoint;
use afterload_core::file::File;
use afterload_metrics::Metrics;
use afterload_object_store::ObjectStore;
use afterload_state::queue::{HandedStep, JobQueue, Lease};
use afterload_state::{
    AttemptEnd, Db, DbTx, RunRecord, RunStatus, RunStop, StepClaim, StepRecord, StepStatus, TxOutcome, WakeCondition,
};
use afterload_step_api::ProducedFiles;

/// The result of an attempt and what it produced.
pub(crate) struct AttemptOutcome {
    pub result: Result<Value>,
    pub progress: Option<ProgressView>,
    pub produced: ProducedFiles,
    /// What the step waits for, if it suspends.
    pub wake_condition: Option<WakeCondition>,
    /// The items of the fan-out, if the attempt only created those.
    pub fan_out: Option<FanOut>,
}

impl AttemptOutcome {
    /// An attempt that failed without producing anything.
    pub fn from_error(error: Error) -> Self {
        Self {
            result: Err(error),
            progress: None,
            produced: ProducedFiles::default(),
            wake_condition: None,
            fan_out: None,
        }
    }

    /// An attempt that created the items of a fan-out.
    pub fn from_fan_out(fan: FanOut) -> Self {
        Self {
            result: Ok(Value::Null),
            progress: None,
            produced: ProducedFiles::default(),
            wake_condition: None,
            fan_out: Some(fan),
        }
    }
}

/// A step that the worker of the ended one has taken over.
pub(crate) struct NextStep {
    pub handed: HandedStep,
    /// The run, as of the transaction that ended the step before.
    pub run: RunRecord,
}

/// The result of writing the end of an attempt.
enum AttemptWrite {
    /// The lease is lost; nothing was written.
    LeaseLost,
    Written(Option<Box<NextStep>>),
}

#[derive(Clone)]
pub(crate) struct AttemptFinisher {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) objects: ObjectStore,
    pub(crate) metrics: Metrics,
    pub(crate) suspensions: Suspensions,
    pub(crate) follow_up: StepFollowUp,
    pub(crate) publisher: TransitionPublisher,
}

impl AttemptFinisher {
    /// Ends the attempt in one transaction, and retries while the database is unavailable. Returns the next step of the run
    /// if `hands_over` allows that this worker takes it over, and nothing stands against that.
    pub(crate) async fn end_attempt(
        &self,
        lease: &Lease,
        claimed: &StepClaim,
        outcome: AttemptOutcome,
        ending: AttemptEnd,
        started: Instant,
        hands_over: bool,
    ) -> Option<Box<NextStep>> {
        // Delete while the lease is valid: later another attempt may write the same keys.
        if matches!(ending, AttemptEnd::Final { .. }) && outcome.result.is_err() && !lease.lost.is_cancelled() {
            self.delete_outputs(&outcome.produced.created).await;
        }
        let heir = hands_over.then_some(lease);
        let mut uncertain = false;
        let (held, next) = loop {
            let tried = match self.try_end_attempt(lease, claimed, &outcome, &ending, heir).await {
                // An earlier commit may have succeeded although its response was lost. What it handed over is an orphan,
                // which the sweep releases.
                Ok(AttemptWrite::LeaseLost) if uncertain => {
                    self.claim_has_ended(claimed).await.map(|held| (held, None))
                }
                Ok(AttemptWrite::LeaseLost) => Ok((false, None)),
                Ok(AttemptWrite::Written(next)) => Ok((true, next)),
                Err(error) => Err(error),
            };
            match tried {
                Ok(ended) => break ended,
                Err(error) => {
                    uncertain = true;
                    wait_for_db(&error, "ending a step").await;
                }
            }
        };
        if !held || outcome.result.is_err() {
            for file in &outcome.produced.artifacts {
                if let Err(error) = self.objects.delete_object(&file.bucket, &file.key).await {
                    warn!(error.code = error.code().name(), "a file of a failed attempt was not deleted: {error}");
                }
            }
        }
        self.report_end(claimed, &outcome, &ending, held, started);
        next
    }

    /// Counts and logs the end of an attempt.
    fn report_end(
        &self,
        claimed: &StepClaim,
        outcome: &AttemptOutcome,
        ending: &AttemptEnd,
        held: bool,
        started: Instant,
    ) {
        let duration_ms = started.elapsed().as_millis() as u64;
        self.metrics.record_step_attempt(&claimed.step.uses, attempt_end_label(held, ending), started.elapsed());
        match (ending, &outcome.result) {
            _ if !held => warn!(duration_ms, "the step's lease was lost; nothing of this attempt was kept"),
            (AttemptEnd::Park { due_at, error: Some(_) }, Err(error)) => warn!(
                duration_ms,
                error.code = error.code().name(),
                retry_at = clock::format_rfc3339(*due_at),
                "step parked: {error}"
            ),
            (AttemptEnd::Park { .. }, _) => info!(duration_ms, "step parked"),
            (AttemptEnd::Suspend(_), _) => info!(duration_ms, "step suspended"),
            (AttemptEnd::FanOut, _) => info!(duration_ms, "step fanned out"),
            (AttemptEnd::Final { status: StepStatus::Cancelled, .. }, _) => info!(duration_ms, "step cancelled"),
            (AttemptEnd::Final { status: StepStatus::Skipped, .. }, _) => info!(duration_ms, "step skipped"),
            (_, Ok(_)) => info!(duration_ms, "step succeeded"),
            (AttemptEnd::Retry { due_at, .. }, Err(error)) => {
                warn!(
                    duration_ms,
                    error.code = error.code().name(),
                    retry_at = clock::format_rfc3339(*due_at),
                    "step failed; retrying: {error}"
                );
            }
            (_, Err(error)) => warn!(duration_ms, error.code = error.code().name(), "step failed: {error}"),
        }
    }

    /// Deletes the objects that a permanently failed step wrote to a user's bucket, unless they were replaced since.
    /// A step that is retried keeps them for its next attempt.
    async fn delete_outputs(&self, fresh: &[File]) {
        for file in fresh {
            let ours = match self.objects.head_object(&file.bucket, &file.key).await {
                Ok(found) => found.etag == file.etag && found.version == file.version,
                Err(_) => false,
            };
            if ours && let Err(error) = self.objects.delete_object(&file.bucket, &file.key).await {
                warn!(error.code = error.code().name(), "an object of a failed step was not deleted: {error}");
            }
        }
    }

    /// True if this claim is still the latest one and the step is no longer running.
    async fn claim_has_ended(&self, claimed: &StepClaim) -> Result<bool> {
        let now = self.db.steps().find(&claimed.step.id).await?;
        Ok(now.is_some_and(|now| now.claims == claimed.step.claims && now.status != StepStatus::Running))
    }

    async fn try_end_attempt(
        &self,
        lease: &Lease,
        claimed: &StepClaim,
        outcome: &AttemptOutcome,
        ending: &AttemptEnd,
        heir: Option<&Lease>,
    ) -> Result<AttemptWrite> {
        let progress = outcome.progress.as_ref().map(|view| json!(view));
        let written = self.db.with_tx(async |tx| {
            Ok(match self.write_attempt_end(tx, (lease, heir), claimed, outcome, progress.as_ref(), ending).await? {
                Some(moved) => TxOutcome::Commit(Some(moved)),
                None => TxOutcome::Rollback(None),
            })
        });
        let Some((run, mut moves)) = written.await? else { return Ok(AttemptWrite::LeaseLost) };
        failpoint!("end.after_commit");
        let handed = moves.handed.take();
        if handed.is_some() {
            failpoint!("hand_over.after_commit");
        }
        self.publisher.after_commit(&run, &moves);
        Ok(AttemptWrite::Written(handed.map(|handed| Box::new(NextStep { handed, run }))))
    }

    /// Returns `None` if the lease is lost; then nothing may be written.
    async fn write_attempt_end(
        &self,
        tx: &mut DbTx,
        (lease, heir): (&Lease, Option<&Lease>),
        claimed: &StepClaim,
        outcome: &AttemptOutcome,
        progress: Option<&Value>,
        ending: &AttemptEnd,
    ) -> Result<Option<(RunRecord, Transition)>> {
        let step = &claimed.step;
        let run = match ending {
            AttemptEnd::Final { status, outputs, error } if tx.dialect() == Dialect::Postgres => {
                let last = (*status, outputs.as_ref(), error.as_ref());
                self.queue.finish_step(tx, lease, step, progress, last).await?
            }
            _ => self.end_stepwise(tx, lease, step, progress, ending).await?,
        };
        let Some(run) = run else { return Ok(None) };
        if let AttemptEnd::Suspend(condition) = ending {
            self.suspensions.arm_wakeup(tx, step, condition, run.created_at).await?;
        }
        let mut moves = Transition::default();
        if let Some(fan) = &outcome.fan_out
            && matches!(ending, AttemptEnd::FanOut)
        {
            moves = self.follow_up.start_fan_out(tx, &run, step, fan).await?;
        }
        if let AttemptEnd::Final { status, .. } = ending {
            if *status == StepStatus::Succeeded {
                for file in &outcome.produced.artifacts {
                    let id = file.artifact_id.as_deref().unwrap_or_default();
                    tx.artifacts().insert(id, &step.run_id, Some(&step.step_id), &json!(file)).await?;
                }
            }
            match self.follow_up.advance_after_step(tx, &run, step, *status, heir).await {
                Ok(moved) => moves = moved,
                // The step still ends, but this version cannot decide what comes next, so the run fails.
                Err(error) if is_unreadable_definition(&error) => {
                    moves.notify = tx.runs().fail_unreadable(&run.id, &error_to_json(&error)).await?;
                    moves.ended = Some(RunStatus::Failed);
                }
                Err(error) => return Err(error),
            }
        }
        if moves.handed.is_some() {
            failpoint!("hand_over.before_commit");
        }
        failpoint!("end.before_commit");
        Ok(Some((run, moves)))
    }

    /// Ends an attempt with one statement per change. `None`: the lease is lost.
    async fn end_stepwise(
        &self,
        tx: &mut DbTx,
        lease: &Lease,
        step: &StepRecord,
        progress: Option<&Value>,
        ending: &AttemptEnd,
    ) -> Result<Option<RunRecord>> {
        let held = match ending {
            AttemptEnd::Retry { due_at, .. } | AttemptEnd::Park { due_at, .. } => {
                self.queue.reschedule_job(tx, lease, *due_at).await?
            }
            _ => self.queue.acknowledge_job(tx, lease).await?,
        };
        if !held || !tx.claims().end(&step.id, step.claims, progress, ending).await? {
            return Ok(None);
        }
        // Events are locked before the run, in the same order as when an event is published. This avoids deadlocks.
        if let AttemptEnd::Suspend(WakeCondition { event: Some(event), .. }) = ending {
            tx.events().lock_name(&event.name).await?;
        }
        tx.runs().bump_revision(&step.run_id).await.map(Some)
    }
}

/// The label of the outcome in metrics.
fn attempt_end_label(held: bool, ending: &AttemptEnd) -> &'static str {
    match ending {
        _ if !held => "lost",
        AttemptEnd::Final { status, .. } => status.as_str(),
        AttemptEnd::Retry { .. } => "retried",
        AttemptEnd::Park { .. } => "parked",
        AttemptEnd::Suspend(_) => "suspended",
        AttemptEnd::FanOut => "fanned_out",
    }
}

/// The end of a step whose run was cancelled or timed out.
pub(crate) fn stopped_end(stop: RunStop) -> AttemptEnd {
    let error = match stop {
        RunStop::Cancelled => Error::new(codes::RUN_CANCELLED, "the run was cancelled"),
        RunStop::TimedOut => Error::new(codes::RUN_TIMED_OUT, "the run timed out"),
    };
    AttemptEnd::Final { status: StepStatus::Cancelled, outputs: None, error: Some(error_to_json(&error)) }
}
