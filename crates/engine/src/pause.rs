//! Pausing a queue or a pipeline, in all processes: what runs goes on to its end, what comes is accepted, and nothing
//! starts until it is resumed.
//!
//! A claim reads the pauses in its own transaction and gives the job of a paused step back, so that what was fetched
//! around the time of a pause does not start. A step without its job is found by the sweep, which leaves out what is
//! paused: that is how a pause ends.

use tokio::sync::Notify;

use super::start::not_found;
use super::{Engine, Inner};
use afterload_core::clock::{self, Millis};
use afterload_core::error::{Error, Result};
use afterload_core::units::is_name;
use afterload_state::queue::{Held, Lease};
use afterload_state::{Ending, Pausable, StepStatus, Tx};

/// Tells the tasks of this process that a pause began or ended here; they learn of others by looking.
#[derive(Default)]
pub(super) struct Pauses {
    /// For those who open and close the queues.
    gates: Notify,
    /// For those who push jobs.
    pushes: Notify,
}

impl Pauses {
    /// Until a pause began or ended.
    pub async fn changed(&self) {
        self.gates.notified().await;
    }

    /// Until a pause ended.
    pub async fn ended(&self) {
        self.pushes.notified().await;
    }
}

impl Engine {
    /// Pauses a queue or a pipeline for all processes, and says since when it is. When this returns, no step of it starts
    /// any more, except those whose claim was being committed.
    ///
    /// # Errors
    /// `queue_not_found`, `pipeline_not_found`, those of the database.
    pub async fn pause(&self, what: Pausable, name: &str) -> Result<Millis> {
        self.must_know(what, name).await?;
        let since = self.0.db.pause(what, name).await?;
        tracing::info!(kind = what.as_str(), name, "paused");
        self.0.pauses.gates.notify_one();
        Ok(since)
    }

    /// Lets a queue or a pipeline go on; one that is not paused is left as it is.
    ///
    /// # Errors
    /// `queue_not_found`, `pipeline_not_found`, those of the database.
    pub async fn resume(&self, what: Pausable, name: &str) -> Result<()> {
        self.must_know(what, name).await?;
        if self.0.db.resume(what, name).await? {
            tracing::info!(kind = what.as_str(), name, "resumed");
            self.0.pauses.gates.notify_one();
            self.0.pauses.pushes.notify_one();
        }
        Ok(())
    }

    async fn must_know(&self, what: Pausable, name: &str) -> Result<()> {
        match what {
            Pausable::Queue if self.queues().await?.iter().any(|queue| queue.name == name) => Ok(()),
            Pausable::Queue => Err(Error::permanent("queue_not_found", format!("there is no queue `{name}`"))
                .hint("`GET /v1/queues` lists those that the configuration, live pipelines and open steps name")),
            Pausable::Pipeline if is_name(name) && self.0.db.is_pipeline(name).await? => Ok(()),
            Pausable::Pipeline => Err(not_found(name)),
        }
    }
}

impl Inner {
    /// Gives the job of a paused step back.
    pub(super) async fn hold_back(&self, tx: &mut Tx, lease: &Lease, held: &Held) -> Result<()> {
        // One that a crash left counts that crash, and is found again only as queued.
        if held.status == Some(StepStatus::Running)
            && let Some(claimed) = tx.claim_step(&lease.step_run).await?
        {
            let parked = Ending::Park { due_at: clock::now() };
            tx.end_step(&lease.step_run, claimed.step.claims, None, &parked).await?;
        }
        self.chain.acknowledge(tx, lease).await.map(drop)
    }
}
