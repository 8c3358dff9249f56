//! Admits runs: decides which runs of a concurrency key may be active.
//!
//! The transaction that accepts a run puts it in the queue of its key and fills free slots. The transaction that ends a
//! run passes its slot to the next run. A reconciler handles the rest every second: scheduled runs that come due,
//! cancels that a crash interrupted, and definitions that this version cannot read.

use crate::codes;
use crate::plan_cache::is_unreadable_definition;
use serde_json::json;

use crate::lifecycle::advance::{StepAdvancer, Transition};
use crate::run_errors::error_to_json;
use afterload_core::error::{Error, Result};
use afterload_pipeline::{OnRunConflict, PipelinePlan};
use afterload_state::queue::Lease;
use afterload_state::{DbTx, RunRecord, RunStatus};

/// The maximum number of runs that one transaction admits. The reconciler admits the rest.
const MAX_ADMITTED_PER_TX: usize = 100;

/// Why a run asks for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdmissionKind {
    /// The run is new.
    New,
    /// The run has ended and is retried. It waits for a slot even if a new run would be skipped.
    Retry,
}

/// Admits runs to free slots and advances active runs.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) steps: StepAdvancer,
}

impl Admission {
    /// Starts an accepted run if a slot is free. Otherwise the run waits, or is skipped if the pipeline asks for that.
    pub(crate) async fn admit_run(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        plan: &PipelinePlan,
        asked: AdmissionKind,
    ) -> Result<Transition> {
        let Some(place) = &run.concurrency_slot else { return self.steps.advance_steps(tx, run, None).await };
        if run.run_at.is_some_and(|time| time > tx.now()) {
            tx.concurrency().set_waiting(&run.id, place, false).await?;
            return Ok(Transition::default());
        }
        // The lock keeps two runs from taking the same slot.
        tx.concurrency().lock_key(&place.key).await?;
        tx.concurrency().set_waiting(&run.id, place, true).await?;
        let mut moves = Transition { admitted: self.admit_waiting(tx, &place.key).await?, ..Transition::default() };
        let begins = moves.admitted.iter().any(|(released, _)| released.id == run.id);
        let skips = plan.concurrency.as_ref().is_some_and(|said| said.on_conflict == OnRunConflict::Skip);
        if skips && !begins && asked == AdmissionKind::New {
            let other = tx.concurrency().find_first_active(&place.key).await?.unwrap_or_default();
            let error = Error::new(codes::CONCURRENCY_SKIPPED, format!("the run `{other}` is under way"))
                .with_details(json!({ "run": other }));
            tx.runs().set_error(&run.id, &error_to_json(&error)).await?;
            moves.notify = tx.concurrency().cancel_waiting(&run.id).await?;
            moves.ended = Some(RunStatus::Cancelled);
        }
        Ok(moves)
    }

    /// Advances the steps of a run. If the run ends, the next waiting runs get its slot. `heir` is the lease of a step that
    /// ends in this transaction, if its worker may take over the next step of the run.
    pub(crate) async fn advance_run(&self, tx: &mut DbTx, run: &RunRecord, heir: Option<&Lease>) -> Result<Transition> {
        let Some(place) = &run.concurrency_slot else { return self.steps.advance_steps(tx, run, heir).await };
        match (place.waiting_since, run.cancel_requested_at) {
            (None, _) => {
                let mut moves = self.steps.advance_steps(tx, run, heir).await?;
                if moves.ended.is_some() {
                    tx.concurrency().lock_key(&place.key).await?;
                    moves.admitted = self.admit_waiting(tx, &place.key).await?;
                }
                Ok(moves)
            }
            // The run has not started, so there is nothing to clean up and `finally` does not run.
            (Some(_), Some(_)) => {
                let notify = tx.concurrency().cancel_waiting(&run.id).await?;
                Ok(Transition { ended: Some(RunStatus::Cancelled), notify, ..Transition::default() })
            }
            (Some(_), None) => Ok(Transition::default()),
        }
    }

    /// Fills the free slots of a key with waiting runs. The caller holds the lock of the key.
    pub(crate) async fn admit_waiting(&self, tx: &mut DbTx, key: &str) -> Result<Vec<(RunRecord, Transition)>> {
        let mut released = Vec::new();
        while released.len() < MAX_ADMITTED_PER_TX
            && let Some(run) = tx.concurrency().admit_next(key).await?
        {
            let moves = match self.steps.advance_steps(tx, &run, None).await {
                Err(error) if is_unreadable_definition(&error) => fail_unreadable_run(tx, &run, &error).await?,
                moves => moves?,
            };
            released.push((run, moves));
        }
        Ok(released)
    }
}

/// Fails a run whose definition this version cannot read, so that it does not occupy a slot.
pub(crate) async fn fail_unreadable_run(tx: &mut DbTx, run: &RunRecord, error: &Error) -> Result<Transition> {
    let notify = tx.runs().fail_unreadable(&run.id, &error_to_json(error)).await?;
    Ok(Transition { ended: Some(RunStatus::Failed), notify, ..Transition::default() })
}
