//! Stopping a run: what has not begun never does, what runs is asked to stop, `finally` still runs.
//!
//! First the request is committed. From then on nothing of the run is queued, and a step that is claimed all the same
//! (one that a crash left, one that was just being fetched) ends as cancelled. Then what waits in the queue is ended,
//! and what runs is told: in this process at once, in others when they look.

use afterload_core::failpoint;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{Engine, Inner};
use afterload_core::error::{Error, Result};
use afterload_pipeline::Section;
use afterload_state::{RunRecord, RunStatus, StepRecord, StepStatus};

/// How often a cancel is tried when others hold the same rows.
const TRIES: u32 = 5;

/// The attempts of this process that a cancel may stop, by run.
#[derive(Default)]
pub(super) struct Attempts(Mutex<HashMap<String, Vec<CancellationToken>>>);

/// An attempt that a cancel may stop, until dropped.
pub(super) struct Stoppable {
    attempts: Arc<Attempts>,
    run: String,
    /// Cancelled with its run.
    pub cancelled: CancellationToken,
}

impl Attempts {
    /// Adds an attempt of a run.
    pub fn add(self: &Arc<Self>, run: &str) -> Stoppable {
        let cancelled = CancellationToken::new();
        self.map(|map| map.entry(run.to_owned()).or_default().push(cancelled.clone()));
        Stoppable { attempts: self.clone(), run: run.to_owned(), cancelled }
    }

    fn cancel(&self, run: &str) {
        self.map(|map| map.get(run).into_iter().flatten().for_each(CancellationToken::cancel));
    }

    fn map<T>(&self, with: impl FnOnce(&mut HashMap<String, Vec<CancellationToken>>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        // Each attempt adds one token; which of them goes does not matter once its own is spent.
        self.cancelled.cancel();
        self.attempts.map(|map| {
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
    pub async fn cancel(&self, id: &str) -> Result<RunRecord> {
        let inner = &self.0;
        inner.cancel(id).await?;
        inner.db.run(id).await?.ok_or_else(|| not_found(id))
    }
}

impl Inner {
    /// As [`Engine::cancel`].
    pub(super) async fn cancel(&self, id: &str) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.request_cancel(id).await {
                Err(error) if error.is_transient() && tries < TRIES => tries += 1,
                requested => break requested?,
            }
        }
        self.attempts.cancel(id);
        // That it fails for now does no harm: whoever looks next goes on.
        if let Err(error) = self.cancel_queued(id).await {
            tracing::warn!(run.id = id, error.code = error.code(), "a run is not yet stopped: {error}");
        }
        Ok(())
    }

    async fn request_cancel(&self, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let run = tx.touch_run(id).await?;
        match run.status {
            RunStatus::Queued | RunStatus::Running => {}
            // Asked twice, it is as it was wanted.
            RunStatus::Cancelled => return Ok(()),
            RunStatus::Succeeded | RunStatus::Failed => {
                let message = format!("the run has ended already: it {}", run.status.as_str());
                return Err(Error::permanent("run_ended", message));
            }
        }
        if tx.request_cancel(id).await? {
            failpoint!("cancel.before_commit");
            tx.commit().await?;
            failpoint!("cancel.after_commit");
            self.changed(&run);
            tracing::info!(run.id = id, pipeline.name = run.pipeline, "the run is asked to stop");
        }
        Ok(())
    }

    /// Ends the steps of a run, asked to stop, whose attempts have not begun, and moves on.
    pub(super) async fn cancel_queued(&self, id: &str) -> Result<()> {
        let idle: Vec<StepRecord> = self.db.idle_steps(id).await?.into_iter().filter(in_queue).collect();
        let open: Vec<String> = idle.iter().map(|step| step.id.clone()).collect();
        let mut tx = self.db.begin().await?;
        // Jobs before steps before the run, as those do it who end a step.
        self.chain.lock(&mut tx, &open).await?;
        for step in &open {
            if tx.cancel_step(step).await? {
                self.chain.remove(&mut tx, step).await?;
            }
        }
        let run = tx.touch_run(id).await?;
        // It may have ended meanwhile, and even have been taken up again: then nothing of this is wanted.
        if run.cancel_requested_at.is_none() || run.finished_at.is_some() {
            return Ok(());
        }
        // Items that never begin end their steps; those that run do it when they have stopped.
        let mut moves = self.advance(&mut tx, &run).await?;
        for step in tx.idle_steps(id).await?.into_iter().filter(in_queue).filter(|step| step.items.is_some()) {
            let more = self.go_on(&mut tx, &run, (&step.id, &step.section), 0).await?;
            moves.add(more);
        }
        failpoint!("cancel.queued.before_commit");
        tx.commit().await?;
        failpoint!("cancel.queued.after_commit");
        self.moved(&run, &moves);
        Ok(())
    }

    /// Tells the attempts of this process whose runs were asked to stop, in whichever process. `settle` also goes on with
    /// what a crash left of a cancel.
    pub(super) async fn look_for_cancelled(&self, settle: bool) -> Result<()> {
        if !settle && self.attempts.map(|map| map.is_empty()) {
            return Ok(());
        }
        for id in self.db.cancelling().await? {
            self.attempts.cancel(&id);
            if settle && self.db.idle_steps(&id).await?.iter().any(in_queue) {
                self.cancel_queued(&id).await?;
            }
        }
        Ok(())
    }
}

/// The error for an id without a run.
pub(super) fn not_found(id: &str) -> Error {
    Error::permanent("run_not_found", format!("there is no run `{id}`"))
}

/// True if a cancel may end the step: its attempt has not begun, and it does not belong to `finally`.
fn in_queue(step: &StepRecord) -> bool {
    let idle = matches!(step.status, StepStatus::Queued | StepStatus::Retrying | StepStatus::Sleeping);
    (idle || step.items.is_some()) && step.section != Section::Finally.field()
}
