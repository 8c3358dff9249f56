//! The sweep: enqueues missing jobs and releases orphans.

use std::sync::Arc;
use std::time::Duration;

use crate::lifecycle::start::DedupKey;
use crate::scheduling::rate_limit::RATE_LIMIT_RETENTION_MS;
use crate::scheduling::suspend::EVENT_RETENTION_MS;
use afterload_core::error::Result;
use afterload_core::failpoint;
use afterload_state::Db;
use afterload_state::queue::{JobQueue, NewJob};

/// How far ahead jobs are enqueued, so that steps that come due between two sweeps start on time.
const ENQUEUE_LOOKAHEAD: Duration = Duration::from_secs(10);
/// The maximum number of steps per sweep. The next sweep continues.
const MAX_SWEEP_STEPS: u32 = 1000;

#[derive(Clone)]
pub(crate) struct QueueSweeper {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
}

impl QueueSweeper {
    /// Enqueues the jobs of steps that come due, and of queued steps whose job is missing. Returns true if there may be
    /// more.
    pub(crate) async fn enqueue_missing_jobs(&self) -> Result<bool> {
        let until = self.db.now() + ENQUEUE_LOOKAHEAD.as_millis() as i64;
        let missing = self.queue.steps_without_job(until, MAX_SWEEP_STEPS).await?;
        let more = missing.len() == MAX_SWEEP_STEPS as usize;
        for id in missing {
            let mut tx = self.db.begin().await?;
            // The step may have changed since it was listed.
            let Some(step) = tx.steps().lock_due(&id).await? else { continue };
            if !self.queue.has_job(&mut tx, &id).await? {
                let push = NewJob { step_run: &id, queue: &step.queue, priority: step.priority, due_at: step.due_at };
                self.queue.enqueue_jobs(&mut tx, &[push]).await?;
                failpoint!("sweep.push.before_commit");
                tx.commit().await?;
                failpoint!("sweep.push.after_commit");
                self.queue.announce_jobs(&step.queue);
            }
        }
        Ok(more)
    }

    /// Enqueues missing jobs and releases orphans.
    pub(crate) async fn run_sweep(&self) -> Result<()> {
        self.enqueue_missing_jobs().await?;
        self.queue.release_orphans().await?;
        Ok(())
    }

    /// Deletes expired records: workers, rate limits, events and idempotency keys.
    pub(crate) async fn prune_records(&self) -> Result<()> {
        self.queue.prune_workers().await?;
        let now = self.db.now();
        let before = now - DedupKey::IDEMPOTENCY_KEY_RETENTION.as_millis() as i64;
        self.db.rate_limits().delete_unused(now - RATE_LIMIT_RETENTION_MS).await?;
        self.db.events().delete_before(now - EVENT_RETENTION_MS).await?;
        self.db.dedup_keys().delete_before(DedupKey::IDEMPOTENCY_KEY_SOURCE, before).await?;
        Ok(())
    }
}
