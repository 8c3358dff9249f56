//! Retries runs that failed or were cancelled, from the steps that did not succeed.

use crate::codes;
use std::sync::Arc;

use crate::Engine;
use crate::lifecycle::admit::{Admission, AdmissionKind};
use crate::lifecycle::advance::TransitionPublisher;
use crate::lifecycle::reconcile::ConcurrencyReconciler;
use crate::plan_cache::{CompiledPlan, PlanCache};
use crate::run_errors::run_not_found;
use afterload_core::error::{Error, Result};
use afterload_core::failpoint;
use afterload_pipeline::Section;
use afterload_state::{Db, RunRecord, RunStatus, StepRecord, StepStatus};

impl Engine {
    /// Runs failed and cancelled steps again, with the steps that depend on them. Succeeded steps keep their results.
    /// Handlers run again if main steps do; if only handlers failed, only those run.
    ///
    /// # Errors
    /// `run_not_found`; `run_not_ended`, `run_succeeded`, `run_never_began` or `run_files_expired` if the run cannot be
    /// retried; `definition_invalid` if this version cannot read the definition; or a database error.
    pub async fn retry_run(&self, id: &str) -> Result<RunRecord> {
        self.0.retrier.retry_run(id).await
    }
}

pub(crate) struct RunRetrier {
    pub(crate) db: Db,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) admission: Admission,
    pub(crate) reconciler: ConcurrencyReconciler,
    pub(crate) publisher: TransitionPublisher,
}

impl RunRetrier {
    async fn retry_run(&self, id: &str) -> Result<RunRecord> {
        let known = self.db.runs().find(id).await?.ok_or_else(|| run_not_found(id))?;
        let compiled = self.plans.load_plan(&known.digest).await?;
        let mut tx = self.db.begin().await?;
        let run = tx.runs().bump_revision(id).await?;
        match run.status {
            RunStatus::Failed | RunStatus::Cancelled => {}
            RunStatus::Succeeded => {
                return Err(Error::new(codes::RUN_SUCCEEDED, "the run has succeeded"));
            }
            RunStatus::Queued | RunStatus::Running => {
                return Err(Error::new(codes::RUN_NOT_ENDED, "the run has not ended yet"));
            }
        }
        let steps = tx.steps().list(id).await?;
        if steps.is_empty() {
            return Err(Error::new(codes::RUN_NEVER_BEGAN, "the run failed before its first step"));
        }
        if tx.retention().artifacts_expired(id).await? {
            return Err(Error::new(codes::RUN_FILES_EXPIRED, "the files of the run are no longer kept"));
        }
        for step in steps_to_reset(&compiled, &steps, run.cancel_requested_at.is_some()) {
            tx.steps().reset(&step.id).await?;
            // A handler that succeeded runs again with all its items, a failed step only with its failed ones.
            if step.status == StepStatus::Succeeded && step.item_counts.is_some() {
                tx.items().reset(&step.id).await?;
            }
        }
        tx.runs().reopen(id).await?;
        let run = RunRecord { cancel_requested_at: None, run_at: None, ..run };
        let moves = self.admission.admit_run(&mut tx, &run, &compiled.plan, AdmissionKind::Retry).await?;
        failpoint!("retry.before_commit");
        tx.commit().await?;
        failpoint!("retry.after_commit");
        self.publisher.after_commit(&run, &moves);
        self.reconciler.cancel_superseded_by(&run).await;
        tracing::info!(run.id = run.id, pipeline.name = run.pipeline, "run retried");
        self.db.runs().find(id).await?.ok_or_else(|| run_not_found(id))
    }
}

/// The steps that run again. A `cut_short` run skipped handlers that may be needed now. The state machine skips them
/// again if they are not.
fn steps_to_reset<'a>(compiled: &CompiledPlan, steps: &'a [StepRecord], cut_short: bool) -> Vec<&'a StepRecord> {
    let forgiven = |step: &StepRecord| {
        compiled.step_index(&step.step_id).is_some_and(|index| compiled.steps[index].step.continue_on_error)
    };
    let undone = |step: &&StepRecord| match step.status {
        StepStatus::Failed | StepStatus::Quarantined => !forgiven(step),
        StepStatus::Cancelled => true,
        _ => false,
    };
    let is_main = |step: &&StepRecord| step.section == Section::Main.field_name();
    let main_again = steps.iter().filter(is_main).any(|step| undone(&step));
    let skipped = |step: &&StepRecord| cut_short && !is_main(step) && step.status == StepStatus::Skipped;
    steps.iter().filter(|step| undone(step) || main_again && !is_main(step) || skipped(step)).collect()
}
