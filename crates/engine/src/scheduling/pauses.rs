//! Pauses of queues and pipelines, for all processes: running steps continue, new runs are accepted, and no step starts
//! until the resume.
//!
//! A claim reads the pauses in its own transaction and returns the job of a paused step, so that a job that was fetched
//! just before the pause does not start. The step then has no job. The sweep enqueues missing jobs of steps that are
//! not paused, so a resumed step gets its job again.

use crate::codes;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::Engine;
use crate::run_errors::pipeline_not_found;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::units::is_queue_name;
use afterload_state::queue::{JobQueue, Lease, LockedJob};
use afterload_state::{AttemptEnd, Db, DbTx, PauseTarget, StepStatus};

/// The pauses of queues and pipelines. Tasks of this process see its own changes at once, and those of other processes
/// with their next poll.
pub(crate) struct Pauses {
    db: Db,
    queue: Arc<JobQueue>,
    /// Notifies the task that opens and closes queues.
    pause_changed: Notify,
    /// Notifies the task that enqueues jobs of resumed steps.
    resumed: Notify,
}

impl Pauses {
    pub(crate) fn new(db: Db, queue: Arc<JobQueue>) -> Self {
        Self { db, queue, pause_changed: Notify::new(), resumed: Notify::new() }
    }

    /// Waits until a pause begins or ends.
    pub async fn wait_for_change(&self) {
        self.pause_changed.notified().await;
    }

    /// Waits until a pause ends.
    pub async fn wait_for_resume(&self) {
        self.resumed.notified().await;
    }
}

impl Engine {
    /// Pauses a queue or a pipeline for all processes, and returns since when it is paused. After this call no step of
    /// it starts, except steps whose claim was just being committed.
    ///
    /// # Errors
    /// `queue_not_found`, `pipeline_not_found`, or a database error.
    pub async fn pause_target(&self, what: PauseTarget, name: &str) -> Result<UnixMillis> {
        self.ensure_target_exists(what, name).await?;
        self.0.pauses.pause_target(what, name).await
    }

    /// Resumes a queue or a pipeline. It has no effect on one that is not paused.
    ///
    /// # Errors
    /// `queue_not_found`, `pipeline_not_found`, or a database error.
    pub async fn resume_target(&self, what: PauseTarget, name: &str) -> Result<()> {
        self.ensure_target_exists(what, name).await?;
        self.0.pauses.resume_target(what, name).await
    }

    async fn ensure_target_exists(&self, what: PauseTarget, name: &str) -> Result<()> {
        match what {
            PauseTarget::Queue if self.list_queues().await?.iter().any(|queue| queue.name == name) => Ok(()),
            PauseTarget::Queue => Err(Error::new(codes::QUEUE_NOT_FOUND, format!("there is no queue `{name}`"))),
            PauseTarget::Pipeline if is_queue_name(name) && self.0.db.pauses().pipeline_exists(name).await? => Ok(()),
            PauseTarget::Pipeline => Err(pipeline_not_found(name)),
        }
    }
}

impl Pauses {
    async fn pause_target(&self, what: PauseTarget, name: &str) -> Result<UnixMillis> {
        let since = self.db.pauses().insert(what, name).await?;
        tracing::info!(kind = what.as_str(), name, "paused");
        self.pause_changed.notify_one();
        Ok(since)
    }

    async fn resume_target(&self, what: PauseTarget, name: &str) -> Result<()> {
        if self.db.pauses().delete(what, name).await? {
            tracing::info!(kind = what.as_str(), name, "resumed");
            self.pause_changed.notify_one();
            self.resumed.notify_one();
        }
        Ok(())
    }

    /// Returns the job of a paused step.
    pub(crate) async fn return_paused_job(&self, tx: &mut DbTx, lease: &Lease, held: &LockedJob) -> Result<()> {
        // A step that a crash left as running must be parked: this counts the crash, and the sweep finds it as queued.
        if held.status == Some(StepStatus::Running)
            && let Some(claimed) = tx.claims().claim(&lease.step_run).await?
        {
            let parked = AttemptEnd::Park { due_at: tx.now(), error: None };
            tx.claims().end(&lease.step_run, claimed.step.claims, None, &parked).await?;
        }
        self.queue.acknowledge_job(tx, lease).await.map(drop)
    }
}
