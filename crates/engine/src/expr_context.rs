//! Builds the context of expressions from the records of a run.

use std::sync::Arc;

use serde_json::Value;

use crate::config::EngineConfig;
use crate::plan_cache::{CompiledPlan, CompiledStep};
use crate::run_errors::run_error;
use crate::run_view::run_facts;
use afterload_core::error::Result;
use afterload_core::file_seals::FileSeals;
use afterload_pipeline::{ExprContext, Section};
use afterload_state::{Db, RunRecord, RunStatus, RunStop, StepRecord, StepStatus};

/// What a step can read.
pub(super) struct StepScope {
    /// The values of its expressions.
    pub expr: ExprContext,
    /// The seals of the files in them.
    pub file_seals: FileSeals,
}

/// Builds the context of expressions.
#[derive(Clone)]
pub(crate) struct ContextBuilder {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
}

impl ContextBuilder {
    /// The scope of a step, or of an item of a fan-out, that is about to run.
    pub(super) async fn step_scope(
        &self,
        run: &RunRecord,
        compiled: &CompiledPlan,
        known: &CompiledStep,
        step: &StepRecord,
    ) -> Result<StepScope> {
        let steps = if known.sees_steps { self.db.steps().list(&run.id).await? } else { Vec::new() };
        let statuses: Vec<_> = steps.iter().map(|step| step.status).collect();
        let mut expr = self.build_expr_context(run, compiled, &steps, &statuses, known.section);
        let mut file_seals = run.file_seals.clone();
        steps.into_iter().for_each(|step| file_seals.merge(step.file_seals));
        if let Some(index) = step.item_index {
            expr = expr.with_item(index.unsigned_abs(), step.item.as_ref().unwrap_or(&Value::Null));
            file_seals.merge(step.file_seals.clone());
        }
        Ok(StepScope { expr, file_seals })
    }

    /// The context with these step records and statuses.
    pub(super) fn build_expr_context(
        &self,
        run: &RunRecord,
        compiled: &CompiledPlan,
        steps: &[StepRecord],
        statuses: &[StepStatus],
        section: Section,
    ) -> ExprContext {
        let mut facts = run_facts(&self.config.base_url, run);
        if section != Section::Main {
            let stop = run.stop();
            let error = match stop {
                Some(RunStop::TimedOut) => run.error.clone(),
                Some(RunStop::Cancelled) | None => run_error(compiled, steps),
            };
            let status = match (stop, &error) {
                (Some(RunStop::Cancelled), _) => RunStatus::Cancelled,
                (Some(RunStop::TimedOut), _) | (None, Some(_)) => RunStatus::Failed,
                (None, None) => RunStatus::Succeeded,
            };
            facts["status"] = status.as_str().into();
            facts["error"] = error.unwrap_or_default();
        }
        let secrets = self.config.secrets.clone();
        let params = crate::record_params::params_with_references(&compiled.plan, run);
        let event = run.event.clone().unwrap_or_default();
        let mut scope = ExprContext::new().with_params(&params).with_event(&event).with_run(&facts);
        scope = scope.with_clock(self.db.clock());
        scope = scope.with_secrets(move |name| secrets.get(name).map(|secret| secret.expose_secret().to_owned()));
        for (known, (step, status)) in compiled.steps.iter().zip(steps.iter().zip(statuses)) {
            let (outputs, error) = (step.outputs.clone().unwrap_or_default(), step.error.clone().unwrap_or_default());
            scope = scope.with_step(&known.step.id, &outputs, status.as_str(), &error);
        }
        scope
    }
}
