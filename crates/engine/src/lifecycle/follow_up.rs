//! What follows the end of a step: the next item of its fan-out, or the next steps of its run.

use crate::lifecycle::admit::Admission;
use crate::lifecycle::advance::Transition;
use crate::scheduling::fan_out::{EnqueuedItems, FanOut, FanOutStep, ItemScheduler};
use afterload_core::error::Result;
use afterload_state::queue::Lease;
use afterload_state::{DbTx, RunRecord, StepRecord, StepStatus};

/// Continues a run after steps and items have ended.
#[derive(Clone)]
pub(crate) struct StepFollowUp {
    pub(crate) items: ItemScheduler,
    pub(crate) admission: Admission,
}

impl StepFollowUp {
    /// Continues after the final end of a step: with its fan-out if it is an item, otherwise with the run. `heir` is the
    /// lease of the step, if its worker may take over the next step.
    pub(crate) async fn advance_after_step(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        step: &StepRecord,
        status: StepStatus,
        heir: Option<&Lease>,
    ) -> Result<Transition> {
        match &step.parent {
            Some(parent) => {
                let items = self.items.item_finished(tx, run, step, parent, status).await?;
                self.advance_after_items(tx, run, items).await
            }
            None => self.admission.advance_run(tx, run, heir).await,
        }
    }

    /// Stores the items of a step whose attempt ends in this transaction, and enqueues the first ones.
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

    /// Ends a fan-out without running items. The run is cancelled, so no further item starts.
    pub(crate) async fn cancel_items(&self, tx: &mut DbTx, run: &RunRecord, step: &StepRecord) -> Result<Transition> {
        let items = self.items.enqueue_next_items(tx, run, FanOutStep::from_record(step), 0).await?;
        self.advance_after_items(tx, run, items).await
    }

    /// Advances the run once the last item has ended the fan-out.
    async fn advance_after_items(&self, tx: &mut DbTx, run: &RunRecord, items: EnqueuedItems) -> Result<Transition> {
        match items.step_ended {
            true => self.admission.advance_run(tx, run, None).await,
            false => Ok(Transition { queues_to_wake: items.queues_to_wake, ..Transition::default() }),
        }
    }
}
