//! Stopping a run: what has not begun never does, what runs is asked to stop, `finally` still runs.
//!
//! First the request is committed. From then on nothing of the run is queued, and a step that is claimed all the same
//! (one that a crash left, one that was just being fetched) ends as cancelled. Then what waits in the queue is ended,
//! and what runs is told: in this process at once, in others when they look.

use crate::codes;
use afterload_core::failpoint;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::lifecycle::advance::TransitionPublisher;
use crate::lifecycle::follow_up::StepFollowUp;
use crate::run_errors::run_not_found;
use afterload_core::error::{Error, Result};
use afterload_pipeline::Section;
use afterload_state::queue::JobQueue;
use afterload_state::{Db, RunRecord, RunStatus, StepRecord, StepStatus};

/// How often a cancel is tried when others hold the same rows.
const MAX_CANCEL_ATTEMPTS: u32 = 5;

/// The attempts of this process that a cancel may stop, by run.
#[derive(Default)]
pub(crate) struct RunningAttempts(Mutex<HashMap<String, Vec<CancellationToken>>>);

/// An attempt that a cancel may stop, until dropped.
pub(crate) struct CancelGuard {
    attempts: Arc<RunningAttempts>,
    run: String,
    /// Cancelled with its run.
    pub cancelled: CancellationToken,
}

impl RunningAttempts {
    /// Adds an attempt of a run.
    pub fn register_attempt(self: &Arc<Self>, run: &str) -> CancelGuard {
        let cancelled = CancellationToken::new();
        self.with_tokens(|map| map.entry(run.to_owned()).or_default().push(cancelled.clone()));
        CancelGuard { attempts: self.clone(), run: run.to_owned(), cancelled }
    }

    fn cancel_attempts(&self, run: &str) {
        self.with_tokens(|map| map.get(run).into_iter().flatten().for_each(CancellationToken::cancel));
    }

    fn with_tokens<T>(&self, with: impl FnOnce(&mut HashMap<String, Vec<CancellationToken>>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        // Each attempt adds one token; which of them goes does not matter once its own is spent.
        self.cancelled.cancel();
        self.attempts.with_tokens(|map| {
            if let Some(tokens) = map.get_mut(&self.run) {
                tokens.retain(|token| !token.is_cancelled());
                if tokens.is_empty() {
                    map.remove(&self.run);
                }
            }
        });
    }
}

impl Engine {
    /// Asks a run to stop. It has stopped when its status is `cancelled`; a run that was asked before is left as it is.
    ///
    /// # Errors
    /// `run_not_found`, `run_ended`, those of the database.
    pub async fn cancel_run(&self, id: &str) -> Result<RunRecord> {
        self.0.canceller.cancel_run(id).await?;
        self.0.db.runs().find(id).await?.ok_or_else(|| run_not_found(id))
    }
}

/// Stops runs.
#[derive(Clone)]
pub(crate) struct Canceller {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) attempts: Arc<RunningAttempts>,
    pub(crate) follow_up: StepFollowUp,
    pub(crate) publisher: TransitionPublisher,
}

impl Canceller {
    /// As [`Engine::cancel_run`].
    pub(crate) async fn cancel_run(&self, id: &str) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.request_cancel(id).await {
                Err(error) if error.is_transient() && tries < MAX_CANCEL_ATTEMPTS => tries += 1,
                requested => break requested?,
            }
        }
        self.attempts.cancel_attempts(id);
        // That it fails for now does no harm: whoever looks next goes on.
        if let Err(error) = self.cancel_idle_steps(id).await {
            tracing::warn!(run.id = id, error.code = error.code().name(), "a run is not yet stopped: {error}");
        }
        Ok(())
    }

    async fn request_cancel(&self, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let run = tx.runs().bump_revision(id).await?;
        match run.status {
            RunStatus::Queued | RunStatus::Running => {}
            // Asked twice, it is as it was wanted.
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
            tracing::info!(run.id = id, pipeline.name = run.pipeline, "the run is asked to stop");
        }
        Ok(())
    }

    /// Ends the steps of a run, asked to stop, whose attempts have not begun, and moves on.
    pub(crate) async fn cancel_idle_steps(&self, id: &str) -> Result<()> {
        let idle: Vec<StepRecord> = self.db.steps().list_idle(id).await?.into_iter().filter(is_cancellable).collect();
        let open: Vec<String> = idle.iter().map(|step| step.id.clone()).collect();
        let mut tx = self.db.begin().await?;
        // Jobs before steps before the run, as those do it who end a step.
        self.queue.lock_jobs(&mut tx, &open).await?;
        for step in &open {
            if tx.steps().cancel(step).await? {
                self.queue.delete_job(&mut tx, step).await?;
            }
        }
        let run = tx.runs().bump_revision(id).await?;
        // It may have ended meanwhile, and even have been taken up again: then nothing of this is wanted.
        if run.cancel_requested_at.is_none() || run.finished_at.is_some() {
            return Ok(());
        }
        // Items that never begin end their steps; those that run do it when they have stopped.
        let mut moves = self.follow_up.admission.advance_run(&mut tx, &run).await?;
        for step in
            tx.steps().list_idle(id).await?.into_iter().filter(is_cancellable).filter(|step| step.item_counts.is_some())
        {
            let more = self.follow_up.cancel_items(&mut tx, &run, &step).await?;
            moves.merge(more);
        }
        failpoint!("cancel.queued.before_commit");
        tx.commit().await?;
        failpoint!("cancel.queued.after_commit");
        self.publisher.after_commit(&run, &moves);
        Ok(())
    }

    /// Stops the attempts of this process whose runs another process was asked to stop.
    pub(crate) async fn poll_cancelled_runs(&self) -> Result<()> {
        if self.attempts.with_tokens(|map| map.is_empty()) {
            return Ok(());
        }
        for id in self.db.runs().list_cancelling().await? {
            self.attempts.cancel_attempts(&id);
        }
        Ok(())
    }

    /// Goes on with what a crash left of a cancel.
    pub(crate) async fn finish_cancels(&self) -> Result<()> {
        for id in self.db.runs().list_cancelling().await? {
            self.attempts.cancel_attempts(&id);
            if self.db.steps().list_idle(&id).await?.iter().any(is_cancellable) {
                self.cancel_idle_steps(&id).await?;
            }
        }
        Ok(())
    }
}

/// True if a cancel may end the step: its attempt has not begun, and it does not belong to `finally`.
fn is_cancellable(step: &StepRecord) -> bool {
    let idle = matches!(step.status, StepStatus::Queued | StepStatus::Retrying | StepStatus::Suspended);
    (idle || step.item_counts.is_some()) && step.section != Section::Finally.field_name()
}
