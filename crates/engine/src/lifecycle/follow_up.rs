//! What follows the end of a step: of an item, the next item; of a step, the next steps of its run.

use crate::lifecycle::admit::Admission;
use crate::lifecycle::advance::Transition;
use crate::scheduling::fan_out::{EnqueuedItems, FanOut, FanOutStep, ItemScheduler};
use afterload_core::error::Result;
use afterload_state::{DbTx, RunRecord, StepRecord, StepStatus};

/// Moves on after steps and items have ended.
#[derive(Clone)]
pub(crate) struct StepFollowUp {
    pub(crate) items: ItemScheduler,
    pub(crate) admission: Admission,
}

impl StepFollowUp {
    /// Moves on after a step has ended for good: of an item, its step; else the run.
    pub(crate) async fn advance_after_step(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        step: &StepRecord,
        status: StepStatus,
    ) -> Result<Transition> {
        match &step.parent {
            Some(parent) => {
                let items = self.items.item_finished(tx, run, step, parent, status).await?;
                self.advance_after_items(tx, run, items).await
            }
            None => self.admission.advance_run(tx, run).await,
        }
    }

    /// Writes the items of a step whose attempt ends in this transaction, and enqueues the first of them.
    pub(crate) async fn start_fan_out(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        step: &StepRecord,
        fan: &FanOut,
    ) -> Result<Transition> {
        let items = self.items.start_fan_out(tx, run, step, fan).await?;
        self.advance_after_items(tx, run, items).await
    }

    /// Ends a step with items if none of them runs any more. The run is asked to stop, so that none begins.
    pub(crate) async fn cancel_items(&self, tx: &mut DbTx, run: &RunRecord, step: &StepRecord) -> Result<Transition> {
        let items = self.items.enqueue_next_items(tx, run, FanOutStep::from_record(step), 0).await?;
        self.advance_after_items(tx, run, items).await
    }

    /// The run goes on once the last item has ended its step.
    async fn advance_after_items(&self, tx: &mut DbTx, run: &RunRecord, items: EnqueuedItems) -> Result<Transition> {
        match items.step_ended {
            true => self.admission.advance_run(tx, run).await,
            false => Ok(Transition { queues_to_wake: items.queues_to_wake, ..Transition::default() }),
        }
    }
}
