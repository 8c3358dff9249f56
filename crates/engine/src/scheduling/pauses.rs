//! Pausing a queue or a pipeline, in all processes: what runs goes on to its end, what comes is accepted, and nothing
//! starts until it is resumed.
//!
//! A claim reads the pauses in its own transaction and gives the job of a paused step back, so that what was fetched
//! around the time of a pause does not start. A step without its job is found by the sweep, which leaves out what is
//! paused: that is how a pause ends.

use crate::codes;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::Engine;
use crate::run_errors::pipeline_not_found;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::units::is_queue_name;
use afterload_state::queue::{JobQueue, Lease, LockedJob};
use afterload_state::{AttemptEnd, Db, DbTx, PauseTarget, StepStatus};

/// The pauses of queues and pipelines. The tasks of this process learn at once of those that begin or end here; of
/// others they learn by looking.
pub(crate) struct Pauses {
    db: Db,
    queue: Arc<JobQueue>,
    /// For those who open and close the queues.
    pause_changed: Notify,
    /// For those who push jobs.
    resumed: Notify,
}

impl Pauses {
    pub(crate) fn new(db: Db, queue: Arc<JobQueue>) -> Self {
        Self { db, queue, pause_changed: Notify::new(), resumed: Notify::new() }
    }

    /// Until a pause began or ended.
    pub async fn wait_for_change(&self) {
        self.pause_changed.notified().await;
    }

    /// Until a pause ended.
    pub async fn wait_for_resume(&self) {
        self.resumed.notified().await;
    }
}

impl Engine {
    /// Pauses a queue or a pipeline for all processes, and says since when it is. When this returns, no step of it starts
    /// any more, except those whose claim was being committed.
    ///
    /// # Errors
    /// `queue_not_found`, `pipeline_not_found`, those of the database.
    pub async fn pause_target(&self, what: PauseTarget, name: &str) -> Result<UnixMillis> {
        self.ensure_target_exists(what, name).await?;
        self.0.pauses.pause_target(what, name).await
    }

    /// Lets a queue or a pipeline go on; one that is not paused is left as it is.
    ///
    /// # Errors
    /// `queue_not_found`, `pipeline_not_found`, those of the database.
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

    /// Gives the job of a paused step back.
    pub(crate) async fn return_paused_job(&self, tx: &mut DbTx, lease: &Lease, held: &LockedJob) -> Result<()> {
        // One that a crash left counts that crash, and is found again only as queued.
        if held.status == Some(StepStatus::Running)
            && let Some(claimed) = tx.claims().claim(&lease.step_run).await?
        {
            let parked = AttemptEnd::Park { due_at: clock::now_millis() };
            tx.claims().end(&lease.step_run, claimed.step.claims, None, &parked).await?;
        }
        self.queue.acknowledge_job(tx, lease).await.map(drop)
    }
}
