//! Compiled definitions and their cache.

use crate::codes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::Engine;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_pipeline::plan::{Backoff, ForEach, PipelinePlan, PlanStep, RetryPolicy};
use afterload_pipeline::{self as pipeline, Condition, Section, StepCatalog, ValidationContext};
use afterload_state::{Db, DbTx, DefinitionRecord, StepRecord};

/// The maximum number of cached plans.
const MAX_CACHED_PLANS: usize = 256;

/// A definition that is ready to run.
pub(super) struct CompiledPlan {
    /// The checked pipeline.
    pub plan: Arc<PipelinePlan>,
    /// All steps in one list: `steps`, then the handlers.
    pub steps: Vec<CompiledStep>,
}

/// A step that is ready to run.
pub(super) struct CompiledStep {
    /// The validated step.
    pub step: PlanStep,
    /// The section of the step.
    pub section: Section,
    /// The `if` of the step.
    pub condition: Option<Condition>,
    /// Whether the inputs of the step may refer to other steps.
    pub sees_steps: bool,
}

impl CompiledStep {
    /// The fan-out of a step with `for_each`; `None` for its items, which run as usual steps.
    pub fn fan_out_spec(&self, step: &StepRecord) -> Option<&ForEach> {
        self.step.for_each.as_ref().filter(|_| step.parent.is_none())
    }
}

impl CompiledPlan {
    fn new(plan: PipelinePlan) -> Self {
        let step = |(section, step): (Section, &PlanStep)| CompiledStep {
            section,
            condition: step.condition.as_deref().map(Condition::new),
            // Handlers can refer to the error and the status of the run, which depend on its steps.
            sees_steps: section != Section::Main || json!(step).to_string().contains("steps"),
            step: step.clone(),
        };
        Self { steps: plan.sections.iter_steps().map(step).collect(), plan: Arc::new(plan) }
    }

    /// The step with this id.
    pub fn find_step(&self, id: &str) -> Option<&PlanStep> {
        self.step_index(id).map(|index| &self.steps[index].step)
    }

    /// The position of the step with this id.
    pub fn step_index(&self, id: &str) -> Option<usize> {
        self.steps.iter().position(|known| known.step.id == id)
    }
}

/// The delay after the given number of failures. Exponential backoff has full jitter: `random` from 0 to 1 scales the
/// delay, so that steps that failed together are not retried together.
pub(super) fn backoff_delay(retry: &RetryPolicy, failures: u32, random: f64) -> Duration {
    let millis = match retry.backoff {
        Backoff::Constant => retry.delay_ms as f64,
        Backoff::Exponential => {
            let factor = 2f64.powi(failures.saturating_sub(1).min(62) as i32);
            (retry.delay_ms as f64 * factor).min(retry.max_delay_ms as f64) * random
        }
    };
    Duration::from_millis(millis as u64)
}

/// A live pipeline.
#[derive(Clone, Debug)]
pub struct LivePlan {
    /// The checked pipeline.
    pub plan: Arc<PipelinePlan>,
    /// When this definition was published.
    pub published_at: UnixMillis,
}

impl Engine {
    /// The live pipelines, read from the database. A definition that this version cannot read is left out: its runs
    /// report the error.
    pub async fn list_live_plans(&self) -> Result<Vec<LivePlan>> {
        self.0.plans.list_live_plans().await
    }
}

/// The compiled definitions by digest.
pub(super) struct PlanCache {
    db: Db,
    kinds: StepCatalog,
    /// The names that definitions refer to are checked before they are stored, and not here.
    ctx: ValidationContext,
    compiled: Mutex<HashMap<String, Arc<CompiledPlan>>>,
}

impl PlanCache {
    pub(super) fn new(db: Db, kinds: StepCatalog, smtputf8: bool) -> Self {
        let ctx = ValidationContext { smtputf8, ..ValidationContext::default() };
        Self { db, kinds, ctx, compiled: Mutex::default() }
    }

    fn get(&self, digest: &str) -> Option<Arc<CompiledPlan>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn insert(&self, digest: &str, compiled: &Arc<CompiledPlan>) {
        let mut cache = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        // Clearing a full cache is simpler than tracking which plans are in use.
        if cache.len() >= MAX_CACHED_PLANS {
            cache.clear();
        }
        cache.insert(digest.to_owned(), compiled.clone());
    }
}

/// True if this version cannot continue a run because it cannot read the definition.
pub(super) fn is_unreadable_definition(error: &Error) -> bool {
    matches!(error.code(), codes::DEFINITION_INVALID | codes::DEFINITION_NOT_FOUND)
}

impl PlanCache {
    async fn list_live_plans(&self) -> Result<Vec<LivePlan>> {
        let mut live = Vec::new();
        for (digest, published_at) in self.db.definitions().list_published_digests().await? {
            match self.load_plan(&digest).await {
                Ok(compiled) => live.push(LivePlan { plan: compiled.plan.clone(), published_at }),
                Err(error) if !error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(live)
    }

    /// Loads and compiles the definition with this digest.
    pub(super) async fn load_plan(&self, digest: &str) -> Result<Arc<CompiledPlan>> {
        if let Some(compiled) = self.get(digest) {
            return Ok(compiled);
        }
        self.compile_plan(digest, self.db.definitions().find(digest).await?)
    }

    /// The queues that need workers: those of live pipelines, and those with open steps.
    pub(super) async fn list_active_queues(&self) -> Result<Vec<String>> {
        let mut queues = self.db.steps().list_open_queues().await?;
        for digest in self.db.definitions().list_live_digests().await? {
            match self.load_plan(&digest).await {
                Ok(compiled) => queues.extend(compiled.steps.iter().map(|known| known.step.queue.clone())),
                // The definition was published by an older version. Its runs report the error.
                Err(error) if !error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(queues)
    }

    /// The same as [`Self::load_plan`], inside a transaction.
    pub(super) async fn load_plan_in(&self, tx: &mut DbTx, digest: &str) -> Result<Arc<CompiledPlan>> {
        if let Some(compiled) = self.get(digest) {
            return Ok(compiled);
        }
        let definition = tx.definitions().find(digest).await?;
        self.compile_plan(digest, definition)
    }

    fn compile_plan(&self, digest: &str, definition: Option<DefinitionRecord>) -> Result<Arc<CompiledPlan>> {
        let definition = definition
            .ok_or_else(|| Error::new(codes::DEFINITION_NOT_FOUND, format!("there is no definition `{digest}`")))?;
        let pipeline =
            pipeline::compile_definition(None, &definition.source, &self.kinds, &self.ctx).map_err(|problems| {
                let first = problems.first().map_or_else(String::new, |problem| problem.message.clone());
                Error::new(
                    codes::DEFINITION_INVALID,
                    format!("the stored definition of `{}` is not valid for this version: {first}", definition.name),
                )
            })?;
        let compiled = Arc::new(CompiledPlan::new(pipeline.plan));
        self.insert(digest, &compiled);
        Ok(compiled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(backoff: Backoff) -> RetryPolicy {
        RetryPolicy { attempts: 9, backoff, delay_ms: 2_000, max_delay_ms: 60_000 }
    }

    #[test]
    fn exponential_backoff_doubles_up_to_its_maximum() {
        let retry = retry(Backoff::Exponential);
        let waits: Vec<_> = (1..8).map(|failures| backoff_delay(&retry, failures, 1.0).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff_delay(&retry, 40, 0.0), Duration::ZERO);
    }

    #[test]
    fn constant_backoff_is_constant() {
        assert_eq!(backoff_delay(&retry(Backoff::Constant), 5, 0.3), Duration::from_secs(2));
    }
}
