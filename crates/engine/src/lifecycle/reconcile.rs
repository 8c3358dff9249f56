//! Reconciles concurrency: continues waiting runs that no other transaction continues.

use crate::codes;
use crate::plan_cache::is_unreadable_definition;
use std::sync::Arc;

use crate::lifecycle::admit::{self, Admission, AdmissionKind};
use crate::lifecycle::advance::TransitionPublisher;
use crate::lifecycle::cancel::Canceller;
use crate::plan_cache::PlanCache;
use afterload_core::error::Result;
use afterload_core::failpoint;
use afterload_state::{Db, RunRecord, RunStop};

/// The maximum number of runs or keys per pass.
const RECONCILE_BATCH_ROWS: u32 = 100;

/// Periodically continues runs that wait for a slot.
#[derive(Clone)]
pub(crate) struct ConcurrencyReconciler {
    pub(crate) db: Db,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) admission: Admission,
    pub(crate) canceller: Canceller,
    pub(crate) publisher: TransitionPublisher,
}

impl ConcurrencyReconciler {
    /// Cancels the runs that a newly accepted run supersedes. Call it after the commit. The next pass retries failures.
    pub(crate) async fn cancel_superseded_by(&self, run: &RunRecord) {
        if run.concurrency_slot.as_ref().is_some_and(|place| place.supersedes)
            && let Err(error) = self.cancel_superseded().await
        {
            tracing::warn!(
                run.id = run.id,
                error.code = error.code().name(),
                "cancelling superseded runs failed; retrying: {error}"
            );
        }
    }

    async fn cancel_superseded(&self) -> Result<()> {
        for id in self.db.concurrency().list_superseded(RECONCILE_BATCH_ROWS).await? {
            match self.canceller.cancel_run(&id).await {
                // The run ended on its own, so its slot is free.
                Err(error) if [codes::RUN_ENDED, codes::RUN_NOT_FOUND].contains(&error.code()) => {}
                stopped => stopped?,
            }
        }
        Ok(())
    }

    /// Handles scheduled runs that come due, free slots that no run took, and cancels that a crash interrupted. A
    /// failure for one run or key does not affect the others.
    pub(crate) async fn reconcile_concurrency(&self) -> Result<()> {
        if !self.db.concurrency().has_waiting().await? {
            return Ok(());
        }
        for id in self.db.concurrency().list_due(RECONCILE_BATCH_ROWS).await? {
            log_failure(&id, self.enqueue_for_slot(&id).await);
        }
        for key in self.db.concurrency().list_keys_with_capacity(RECONCILE_BATCH_ROWS).await? {
            log_failure(&key, self.admit_waiting_for_key(&key).await);
        }
        log_failure("", self.cancel_superseded().await);
        for id in self.db.concurrency().list_cancelled(RECONCILE_BATCH_ROWS).await? {
            log_failure(&id, self.canceller.end_idle_steps(&id, RunStop::Cancelled).await);
        }
        Ok(())
    }

    /// Puts a scheduled run that is due in the queue of its key.
    async fn enqueue_for_slot(&self, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let run = tx.runs().bump_revision(id).await?;
        let waits = run
            .concurrency_slot
            .as_ref()
            .is_some_and(|place| place.waiting_since.is_some() && place.queue_position.is_none());
        if !waits || run.finished_at.is_some() || run.stop().is_some() {
            return Ok(());
        }
        let moves = match self.plans.load_plan_in(&mut tx, &run.digest).await {
            Ok(compiled) => self.admission.admit_run(&mut tx, &run, &compiled.plan, AdmissionKind::New).await?,
            Err(error) if is_unreadable_definition(&error) => admit::fail_unreadable_run(&mut tx, &run, &error).await?,
            Err(error) => return Err(error),
        };
        failpoint!("line_up.before_commit");
        tx.commit().await?;
        failpoint!("line_up.after_commit");
        self.publisher.after_commit(&run, &moves);
        Ok(())
    }

    async fn admit_waiting_for_key(&self, key: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        tx.concurrency().lock_key(key).await?;
        let released = self.admission.admit_waiting(&mut tx, key).await?;
        failpoint!("places.before_commit");
        tx.commit().await?;
        failpoint!("places.after_commit");
        released.iter().for_each(|(run, moves)| self.publisher.after_commit(run, moves));
        Ok(())
    }
}

fn log_failure(what: &str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(what, error.code = error.code().name(), "reconciling concurrency failed; retrying: {error}");
    }
}
