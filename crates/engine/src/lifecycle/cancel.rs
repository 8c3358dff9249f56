//! Cancels runs: waiting steps end, running steps are asked to stop, and `finally` still runs. The steps of runs that
//! time out are stopped in the same way, and their `on_failure` still runs.
//!
//! First the cancel request is committed. After that no step of the run is queued, and a step that is claimed anyway
//! ends as cancelled. Then queued steps are ended and running attempts are stopped: at once in this process, with the
//! next poll in other processes.

use crate::codes;
use afterload_core::failpoint;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::lifecycle::advance::TransitionPublisher;
use crate::lifecycle::follow_up::StepFollowUp;
use crate::run_errors::run_not_found;
use afterload_core::error::{Error, Result};
use afterload_state::queue::JobQueue;
use afterload_state::{Db, RunRecord, RunStatus, RunStop, StepRecord, StepStatus};

/// The maximum number of attempts to write a cancel when transactions conflict.
const MAX_CANCEL_ATTEMPTS: u32 = 5;

/// The stoppable attempts of this process, by run.
#[derive(Default)]
pub(crate) struct RunningAttempts(Mutex<HashMap<String, Vec<StoppableAttempt>>>);

/// An attempt that ends with its run.
#[derive(Clone)]
pub(crate) struct StoppableAttempt {
    section: String,
    /// Cancelled when the run stops the step.
    pub(crate) cancelled: CancellationToken,
    /// Why; set before `cancelled`.
    pub(crate) reason: Arc<OnceLock<RunStop>>,
}

/// A registered attempt. Dropping the guard removes it.
pub(crate) struct CancelGuard {
    attempts: Arc<RunningAttempts>,
    run: String,
    pub(crate) attempt: StoppableAttempt,
}

impl RunningAttempts {
    /// Registers an attempt of a run.
    pub fn register_attempt(self: &Arc<Self>, run: &str, section: &str) -> CancelGuard {
        let attempt = StoppableAttempt {
            section: section.to_owned(),
            cancelled: CancellationToken::new(),
            reason: Arc::default(),
        };
        self.with_attempts(|map| map.entry(run.to_owned()).or_default().push(attempt.clone()));
        CancelGuard { attempts: self.clone(), run: run.to_owned(), attempt }
    }

    fn stop_attempts(&self, run: &str, stop: RunStop) {
        self.with_attempts(|map| {
            let attempts = map.get(run).into_iter().flatten();
            for attempt in attempts.filter(|attempt| stop.stops_section(&attempt.section)) {
                attempt.reason.get_or_init(|| stop);
                attempt.cancelled.cancel();
            }
        });
    }

    fn with_attempts<T>(&self, with: impl FnOnce(&mut HashMap<String, Vec<StoppableAttempt>>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        // Cancelling the token of this attempt marks the entry to remove.
        self.attempt.cancelled.cancel();
        self.attempts.with_attempts(|map| {
            if let Some(attempts) = map.get_mut(&self.run) {
                attempts.retain(|attempt| !attempt.cancelled.is_cancelled());
                if attempts.is_empty() {
                    map.remove(&self.run);
                }
            }
        });
    }
}

impl Engine {
    /// Requests the cancel of a run. The run has stopped when its status is `cancelled`. Repeating it is allowed.
    ///
    /// # Errors
    /// `run_not_found`, `run_ended`, or a database error.
    pub async fn cancel_run(&self, id: &str) -> Result<RunRecord> {
        self.0.canceller.cancel_run(id).await?;
        self.0.db.runs().find(id).await?.ok_or_else(|| run_not_found(id))
    }
}

#[derive(Clone)]
pub(crate) struct Canceller {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) attempts: Arc<RunningAttempts>,
    pub(crate) follow_up: StepFollowUp,
    pub(crate) publisher: TransitionPublisher,
}

impl Canceller {
    /// Does the work of [`Engine::cancel_run`].
    pub(crate) async fn cancel_run(&self, id: &str) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.request_cancel(id).await {
                Err(error) if error.is_transient() && tries < MAX_CANCEL_ATTEMPTS => tries += 1,
                requested => break requested?,
            }
        }
        self.stop_steps(id, RunStop::Cancelled).await;
        Ok(())
    }

    /// Stops the steps of a run after its cancel or its timeout was committed.
    pub(crate) async fn stop_steps(&self, id: &str, stop: RunStop) {
        self.attempts.stop_attempts(id, stop);
        // A failure is harmless here: the periodic `finish_cancels` task continues.
        if let Err(error) = self.end_idle_steps(id, stop).await {
            tracing::warn!(
                run.id = id,
                error.code = error.code().name(),
                "ending the steps of a stopped run failed; retrying: {error}"
            );
        }
    }

    async fn request_cancel(&self, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let run = tx.runs().bump_revision(id).await?;
        match run.status {
            RunStatus::Queued | RunStatus::Running => {}
            // A repeated cancel is not an error.
            RunStatus::Cancelled => return Ok(()),
            RunStatus::Succeeded | RunStatus::Failed => {
                let message = format!("the run has ended already: it {}", run.status.as_str());
                return Err(Error::new(codes::RUN_ENDED, message));
            }
        }
        if tx.runs().request_cancel(id).await? {
            failpoint!("cancel.before_commit");
            tx.commit().await?;
            failpoint!("cancel.after_commit");
            self.publisher.watches.publish_run_change(&run);
            tracing::info!(run.id = id, pipeline.name = run.pipeline, "run cancel requested");
        }
        Ok(())
    }

    /// Ends the steps of a stopped run that are not running, and advances the run.
    pub(crate) async fn end_idle_steps(&self, id: &str, stop: RunStop) -> Result<()> {
        let idle = self.db.steps().list_idle(id).await?.into_iter();
        let idle: Vec<StepRecord> = idle.filter(|step| can_be_ended(step, stop)).collect();
        let open: Vec<String> = idle.iter().map(|step| step.id.clone()).collect();
        let mut tx = self.db.begin().await?;
        // Locks are taken in the same order as at the end of a step: jobs, steps, run. This avoids deadlocks.
        self.queue.lock_jobs(&mut tx, &open).await?;
        for step in &open {
            if tx.steps().cancel(step).await? {
                self.queue.delete_job(&mut tx, step).await?;
            }
        }
        let run = tx.runs().bump_revision(id).await?;
        // The run may have ended meanwhile, or even have been retried: then nothing is cancelled.
        if run.stop() != Some(stop) || run.finished_at.is_some() {
            return Ok(());
        }
        // Items that never start end their step here. Running items do it when they have stopped.
        let mut moves = self.follow_up.admission.advance_run(&mut tx, &run, None).await?;
        let fanned_out = |step: &StepRecord| can_be_ended(step, stop) && step.item_counts.is_some();
        for step in tx.steps().list_idle(id).await?.into_iter().filter(fanned_out) {
            let more = self.follow_up.cancel_items(&mut tx, &run, &step).await?;
            moves.merge(more);
        }
        failpoint!("cancel.queued.before_commit");
        tx.commit().await?;
        failpoint!("cancel.queued.after_commit");
        self.publisher.after_commit(&run, &moves);
        Ok(())
    }

    /// Stops attempts of this process whose runs were cancelled by another process, or timed out there.
    pub(crate) async fn poll_cancelled_runs(&self) -> Result<()> {
        if self.attempts.with_attempts(|map| map.is_empty()) {
            return Ok(());
        }
        for (id, stop) in self.db.runs().list_stopping().await? {
            self.attempts.stop_attempts(&id, stop);
        }
        Ok(())
    }

    /// Continues cancels and timeouts that a crash interrupted.
    pub(crate) async fn finish_cancels(&self) -> Result<()> {
        for (id, stop) in self.db.runs().list_stopping().await? {
            self.attempts.stop_attempts(&id, stop);
            if self.db.steps().list_idle(&id).await?.iter().any(|step| can_be_ended(step, stop)) {
                self.end_idle_steps(&id, stop).await?;
            }
        }
        Ok(())
    }
}

/// True if the stop of the run may end the step: no attempt is running, and its section is stopped.
fn can_be_ended(step: &StepRecord, stop: RunStop) -> bool {
    let idle = matches!(step.status, StepStatus::Queued | StepStatus::Retrying | StepStatus::Suspended);
    (idle || step.item_counts.is_some()) && stop.stops_section(&step.section)
}
