//! The steps that run again when a run is retried.

use crate::plan_cache::CompiledPlan;
use afterload_core::error::Result;
use afterload_pipeline::Section;
use afterload_state::{DbTx, StepRecord, StepStatus};

/// The steps that run again. A `cut_short` run skipped handlers that may be needed now. The state machine skips them
/// again if they are not.
pub(super) fn steps_to_reset<'a>(own: &CompiledPlan, steps: &'a [StepRecord], cut_short: bool) -> Vec<&'a StepRecord> {
    let undone = |step: &StepRecord| is_undone(Some(own), step);
    let main_again = steps.iter().any(|step| is_main_step(step) && undone(step));
    let skipped = |step: &StepRecord| cut_short && !is_main_step(step) && step.status == StepStatus::Skipped;
    steps.iter().filter(|step| undone(step) || main_again && !is_main_step(step) || skipped(step)).collect()
}

/// True if the step failed or was cancelled, and the definition that it ran under does not continue after that.
pub(super) fn is_undone(own: Option<&CompiledPlan>, step: &StepRecord) -> bool {
    let continues = || own.and_then(|plan| plan.find_step(&step.step_id)).is_some_and(|known| known.continue_on_error);
    match step.status {
        StepStatus::Failed | StepStatus::Quarantined => !continues(),
        StepStatus::Cancelled => true,
        _ => false,
    }
}

pub(super) fn is_main_step(step: &StepRecord) -> bool {
    step.section == Section::Main.field_name()
}

/// Sets a step back to `waiting`.
pub(super) async fn reset_step(tx: &mut DbTx, step: &StepRecord) -> Result<()> {
    tx.steps().reset(&step.id).await?;
    // A handler that succeeded runs again with all its items, a failed step only with its failed ones.
    if step.status == StepStatus::Succeeded && step.item_counts.is_some() {
        tx.items().reset(&step.id).await?;
    }
    Ok(())
}
