//! Pausing a queue or a pipeline, in all processes: what runs goes on to its end, what comes is accepted, and nothing
//! starts until it is resumed.
//!
//! A claim reads the pauses in its own transaction and gives the job of a paused step back, so that what was fetched
//! around the time of a pause does not start. A step without its job is found by the sweep, which leaves out what is
//! paused: that is how a pause ends.

use tokio::sync::Notify;

use crate::lifecycle::start::pipeline_not_found;
use crate::{Engine, EngineCore};
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::units::is_queue_name;
use afterload_state::queue::{Lease, LockedJob};
use afterload_state::{AttemptEnd, DbTx, PauseTarget, StepStatus};

/// Tells the tasks of this process that a pause began or ended here; they learn of others by looking.
#[derive(Default)]
pub(crate) struct PauseSignals {
    /// For those who open and close the queues.
    pause_changed: Notify,
    /// For those who push jobs.
    resumed: Notify,
}

impl PauseSignals {
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
        let since = self.0.db.insert_pause(what, name).await?;
        tracing::info!(kind = what.as_str(), name, "paused");
        self.0.pause_signals.pause_changed.notify_one();
        Ok(since)
    }

    /// Lets a queue or a pipeline go on; one that is not paused is left as it is.
    ///
    /// # Errors
    /// `queue_not_found`, `pipeline_not_found`, those of the database.
    pub async fn resume_target(&self, what: PauseTarget, name: &str) -> Result<()> {
        self.ensure_target_exists(what, name).await?;
        if self.0.db.delete_pause(what, name).await? {
            tracing::info!(kind = what.as_str(), name, "resumed");
            self.0.pause_signals.pause_changed.notify_one();
            self.0.pause_signals.resumed.notify_one();
        }
        Ok(())
    }

    async fn ensure_target_exists(&self, what: PauseTarget, name: &str) -> Result<()> {
        match what {
            PauseTarget::Queue if self.list_queues().await?.iter().any(|queue| queue.name == name) => Ok(()),
            PauseTarget::Queue => Err(Error::permanent("queue_not_found", format!("there is no queue `{name}`"))
                .with_hint("`GET /v1/queues` lists those that the configuration, live pipelines and open steps name")),
            PauseTarget::Pipeline if is_queue_name(name) && self.0.db.pipeline_exists(name).await? => Ok(()),
            PauseTarget::Pipeline => Err(pipeline_not_found(name)),
        }
    }
}

impl EngineCore {
    /// Gives the job of a paused step back.
    pub(crate) async fn return_paused_job(&self, tx: &mut DbTx, lease: &Lease, held: &LockedJob) -> Result<()> {
        // One that a crash left counts that crash, and is found again only as queued.
        if held.status == Some(StepStatus::Running)
            && let Some(claimed) = tx.claim_step(&lease.step_run).await?
        {
            let parked = AttemptEnd::Park { due_at: clock::now_millis() };
            tx.end_step(&lease.step_run, claimed.step.claims, None, &parked).await?;
        }
        self.queue.acknowledge_job(tx, lease).await.map(drop)
    }
}
