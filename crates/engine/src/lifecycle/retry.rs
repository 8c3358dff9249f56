//! Retries runs that failed or were cancelled, from the steps that did not succeed.

use crate::codes;
use std::sync::Arc;

use crate::Engine;
use crate::config::EngineConfig;
use crate::lifecycle::admit::{Admission, AdmissionKind};
use crate::lifecycle::advance::TransitionPublisher;
use crate::lifecycle::deadlines::run_deadlines;
use crate::lifecycle::reconcile::ConcurrencyReconciler;
use crate::lifecycle::retry_live::LiveDefinition;
use crate::lifecycle::retry_steps::{reset_step, steps_to_reset};
use crate::plan_cache::{CompiledPlan, PlanCache, is_unreadable_definition};
use crate::run_errors::run_not_found;
use afterload_core::error::{Error, Result};
use afterload_core::failpoint;
use afterload_state::{Db, DbTx, RunRecord, RunStatus, StepRecord};

/// The definition with which a retried run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryDefinition {
    /// The one that the run was started with, or was last retried with.
    #[default]
    Own,
    /// The one that is live now.
    Live,
}

impl Engine {
    /// Runs failed and cancelled steps again, with the steps that depend on them. Succeeded steps keep their results.
    /// Handlers run again if main steps do; if only handlers failed, only those run. With the live definition, the steps
    /// that have not succeeded become those of that definition.
    ///
    /// # Errors
    /// `run_not_found`; `run_not_ended`, `run_succeeded`, `run_never_began` or `run_files_expired` if the run cannot be
    /// retried; `definition_invalid` if this version cannot read the definition; with the live definition
    /// `pipeline_not_found`, `definition_mismatch` if it does not fit the finished steps, and `params_invalid` if it does
    /// not fit the params; or a database error.
    pub async fn retry_run(&self, id: &str, definition: RetryDefinition) -> Result<RunRecord> {
        self.0.retrier.retry_run(id, definition).await
    }
}

pub(crate) struct RunRetrier {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) admission: Admission,
    pub(crate) reconciler: ConcurrencyReconciler,
    pub(crate) publisher: TransitionPublisher,
}

impl RunRetrier {
    async fn retry_run(&self, id: &str, definition: RetryDefinition) -> Result<RunRecord> {
        let known = self.db.runs().find(id).await?.ok_or_else(|| run_not_found(id))?;
        let plans = self.load_plans(&known, definition).await?;
        let mut tx = self.db.begin().await?;
        let run = tx.runs().bump_revision(id).await?;
        let steps = list_retryable_steps(&mut tx, &run).await?;
        let cut_short = run.stop().is_some();
        let (run, compiled) = match plans {
            RetryPlans::Own(own) => {
                for step in steps_to_reset(&own, &steps, cut_short) {
                    reset_step(&mut tx, step).await?;
                }
                (run, own)
            }
            RetryPlans::Live(live, own) => {
                let compiled = live.compiled.clone();
                (live.apply_to_run(&mut tx, run, own.as_deref(), &steps).await?, compiled)
            }
        };
        let deadlines = run_deadlines(&compiled.plan, tx.now());
        tx.runs().reopen(id, deadlines).await?;
        let run = RunRecord { cancel_requested_at: None, timed_out_at: None, run_at: None, deadlines, ..run };
        let moves = self.admission.admit_run(&mut tx, &run, &compiled.plan, AdmissionKind::Retry).await?;
        failpoint!("retry.before_commit");
        tx.commit().await?;
        failpoint!("retry.after_commit");
        self.publisher.after_commit(&run, &moves);
        self.reconciler.cancel_superseded_by(&run).await;
        tracing::info!(run.id = run.id, pipeline.name = run.pipeline, ?definition, "run retried");
        self.db.runs().find(id).await?.ok_or_else(|| run_not_found(id))
    }

    async fn load_plans(&self, run: &RunRecord, definition: RetryDefinition) -> Result<RetryPlans> {
        let own = self.plans.load_plan(&run.digest).await;
        if definition == RetryDefinition::Own {
            return own.map(RetryPlans::Own);
        }
        let own = match own {
            Ok(own) => Some(own),
            // The live definition may be the one that mends this.
            Err(error) if is_unreadable_definition(&error) => None,
            Err(error) => return Err(error),
        };
        let live = LiveDefinition::load(&self.db, &self.plans, &self.config.keyring, run).await?;
        Ok(match own {
            Some(own) if live.is_definition_of(run) => RetryPlans::Own(own),
            own => RetryPlans::Live(live, own),
        })
    }
}

/// The plans with which a run is retried.
enum RetryPlans {
    /// The plan of the run.
    Own(Arc<CompiledPlan>),
    /// Another plan, and the one of the run if this version can read it.
    Live(LiveDefinition, Option<Arc<CompiledPlan>>),
}

/// The steps of a run that can be retried.
async fn list_retryable_steps(tx: &mut DbTx, run: &RunRecord) -> Result<Vec<StepRecord>> {
    match run.status {
        RunStatus::Failed | RunStatus::Cancelled => {}
        RunStatus::Succeeded => {
            return Err(Error::new(codes::RUN_SUCCEEDED, "the run has succeeded"));
        }
        RunStatus::Queued | RunStatus::Running => {
            return Err(Error::new(codes::RUN_NOT_ENDED, "the run has not ended yet"));
        }
    }
    let steps = tx.steps().list(&run.id).await?;
    if steps.is_empty() {
        return Err(Error::new(codes::RUN_NEVER_BEGAN, "the run failed before its first step"));
    }
    if tx.retention().artifacts_expired(&run.id).await? {
        return Err(Error::new(codes::RUN_FILES_EXPIRED, "the files of the run are no longer kept"));
    }
    Ok(steps)
}
