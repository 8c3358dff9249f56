//! Which runs may be under way, where a pipeline says how many.
//!
//! A run joins the line of its key in the transaction that accepts it, and free places go to the first in line there and
//! then; the transaction that ends a run gives its place to the next one. What neither can do (a run whose time comes, a
//! crash before those that are superseded were asked to stop, a definition that cannot be read) is done by a look every
//! second.

use crate::codes;
use crate::plan_cache::is_unreadable_definition;
use serde_json::json;

use crate::lifecycle::advance::{StepAdvancer, Transition};
use crate::run_errors::error_to_json;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_pipeline::{OnRunConflict, PipelinePlan};
use afterload_state::{DbTx, RunRecord, RunStatus};

/// So many runs get a place in one transaction; the next look goes on.
const MAX_ADMITTED_PER_TX: usize = 100;

/// How a run comes to want a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdmissionKind {
    /// It is new.
    New,
    /// It has ended before, and somebody wants it to go on: then it waits even where a new one would be skipped.
    Retry,
}

/// Lets runs begin where there is room for them, and moves those that are under way.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) steps: StepAdvancer,
}

impl Admission {
    /// Lets an accepted run begin, if there is room for it. If not it waits, or ends at once where the pipeline says so.
    pub(crate) async fn admit_run(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        plan: &PipelinePlan,
        asked: AdmissionKind,
    ) -> Result<Transition> {
        let Some(place) = &run.concurrency_slot else { return self.steps.advance_steps(tx, run).await };
        if run.run_at.is_some_and(|time| time > clock::now_millis()) {
            tx.concurrency().set_waiting(&run.id, place, false).await?;
            return Ok(Transition::default());
        }
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

    /// Moves what can move in a run, and in those that get its place when it has ended.
    pub(crate) async fn advance_run(&self, tx: &mut DbTx, run: &RunRecord) -> Result<Transition> {
        let Some(place) = &run.concurrency_slot else { return self.steps.advance_steps(tx, run).await };
        match (place.waiting_since, run.cancel_requested_at) {
            (None, _) => {
                let mut moves = self.steps.advance_steps(tx, run).await?;
                if moves.ended.is_some() {
                    tx.concurrency().lock_key(&place.key).await?;
                    moves.admitted = self.admit_waiting(tx, &place.key).await?;
                }
                Ok(moves)
            }
            // Nothing of it has begun, so there is nothing to clean up: `finally` does not run either.
            (Some(_), Some(_)) => {
                let notify = tx.concurrency().cancel_waiting(&run.id).await?;
                Ok(Transition { ended: Some(RunStatus::Cancelled), notify, ..Transition::default() })
            }
            (Some(_), None) => Ok(Transition::default()),
        }
    }

    /// Gives the free places of a key, which the caller has locked, to those that wait for one.
    pub(crate) async fn admit_waiting(&self, tx: &mut DbTx, key: &str) -> Result<Vec<(RunRecord, Transition)>> {
        let mut released = Vec::new();
        while released.len() < MAX_ADMITTED_PER_TX
            && let Some(run) = tx.concurrency().admit_next(key).await?
        {
            let moves = match self.steps.advance_steps(tx, &run).await {
                Err(error) if is_unreadable_definition(&error) => fail_unreadable_run(tx, &run, &error).await?,
                moves => moves?,
            };
            released.push((run, moves));
        }
        Ok(released)
    }
}

/// Gives a run up whose definition this version cannot read, so that it takes nobody's place.
pub(crate) async fn fail_unreadable_run(tx: &mut DbTx, run: &RunRecord, error: &Error) -> Result<Transition> {
    let notify = tx.runs().fail_unreadable(&run.id, &error_to_json(error)).await?;
    Ok(Transition { ended: Some(RunStatus::Failed), notify, ..Transition::default() })
}
