//! Retries a run with the live definition of its pipeline. Finished steps keep their results; the others become those of
//! the live plan.

use crate::codes;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::lifecycle::file_grants::FileGrants;
use crate::lifecycle::retry_steps::{is_main_step, is_undone, reset_step};
use crate::lifecycle::start::new_step_record;
use crate::plan_cache::{CompiledPlan, CompiledStep, PlanCache};
use crate::run_errors::pipeline_not_found;
use afterload_core::blocking::run_sized;
use afterload_core::error::{Error, Result};
use afterload_core::file_seals::FileSeals;
use afterload_core::keyring::Keyring;
use afterload_pipeline::Section;
use afterload_pipeline::params::estimate_params_size;
use afterload_state::{Db, DbTx, RunRecord, StepRecord, StepStatus};

/// A live definition that a run can go on with, and the params of the run as it binds them.
pub(super) struct LiveDefinition {
    pub(super) compiled: Arc<CompiledPlan>,
    digest: String,
    params: Map<String, Value>,
    file_seals: FileSeals,
}

impl LiveDefinition {
    /// Loads the live definition of the run's pipeline. Params that it no longer declares are left out, and new ones get
    /// their default.
    pub(super) async fn load(db: &Db, plans: &PlanCache, keyring: &Keyring, run: &RunRecord) -> Result<Self> {
        let definition = db.definitions().find_live(&run.pipeline).await?;
        let definition = definition.ok_or_else(|| pipeline_not_found(&run.pipeline))?;
        let compiled = plans.load_plan(&definition.digest).await?;
        let mut given = run.params.as_object().cloned().unwrap_or_default();
        given.retain(|name, _| compiled.plan.params.contains_key(name));
        let plan = compiled.plan.clone();
        let params = run_sized(estimate_params_size(&given), move || plan.bind_params(given)).await??;
        let grants = FileGrants::from_seals(keyring, &run.id, run.file_seals.clone());
        let file_seals = grants.into_seals(&compiled.plan.params, &params, &BTreeSet::new())?;
        Ok(Self { compiled, digest: definition.digest, params, file_seals })
    }

    /// True if the run has this definition already.
    pub(super) fn is_definition_of(&self, run: &RunRecord) -> bool {
        self.digest == run.digest
    }

    /// Gives an ended run this definition: its unfinished steps become those of the live plan. `own` is the plan it had.
    pub(super) async fn apply_to_run(
        self,
        tx: &mut DbTx,
        run: RunRecord,
        own: Option<&CompiledPlan>,
        steps: &[StepRecord],
    ) -> Result<RunRecord> {
        let live = &self.compiled;
        let revision = StepRevision::new(own, live, steps, run.stop().is_some());
        if !revision.mismatches.is_empty() {
            return Err(definition_mismatch(&run, &revision.mismatches));
        }
        for step in &revision.dropped {
            tx.steps().delete(&step.id).await?;
        }
        let overrides = StepOverrides::new(own, steps);
        for (index, step) in revision.kept.iter().chain(&revision.again) {
            let (queue, priority) = overrides.apply_to(&live.steps[*index]);
            tx.steps().set_place(&step.id, *index as i64, &queue, priority).await?;
        }
        for (_, step) in &revision.again {
            reset_step(tx, step).await?;
        }
        for index in revision.added {
            let (queue, priority) = overrides.apply_to(&live.steps[index]);
            let step = StepRecord { queue, priority, ..new_step_record(&run.id, index, &live.steps[index]) };
            tx.steps().insert(&step).await?;
        }
        let Self { digest, params, file_seals, .. } = self;
        let run = RunRecord { digest, params: Value::Object(params), file_seals, ..run };
        tx.runs().set_definition(&run).await?;
        Ok(run)
    }
}

/// What becomes of the steps of a run under another plan. Indexes are those of that plan.
#[derive(Default)]
struct StepRevision<'a> {
    /// Finished steps, which keep their results.
    kept: Vec<(usize, &'a StepRecord)>,
    /// Steps that run again. They keep their rows, so that nothing they did to the outside is repeated.
    again: Vec<(usize, &'a StepRecord)>,
    /// Unfinished steps that the plan lacks or has with another kind.
    dropped: Vec<&'a StepRecord>,
    /// Steps of the plan that the run does not have.
    added: Vec<usize>,
    /// Finished steps that the plan does not have as they are.
    mismatches: Vec<StepMismatch>,
}

/// A finished step that does not fit the live definition.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct StepMismatch {
    step: String,
    reason: &'static str,
    message: String,
}

impl<'a> StepRevision<'a> {
    fn new(own: Option<&CompiledPlan>, live: &CompiledPlan, steps: &'a [StepRecord], cut_short: bool) -> Self {
        let is_new = |known: &CompiledStep| steps.iter().all(|step| step.step_id != known.step.id);
        // A failure counts as finished only if both definitions continue after it.
        let undone = |step: &StepRecord| is_undone(own, step) || is_undone(Some(live), step);
        let main_again = steps.iter().any(|step| is_main_step(step) && undone(step))
            || live.steps.iter().any(|known| known.section == Section::Main && is_new(known));
        let mut revision = Self::default();
        for step in steps {
            let skipped = step.status == StepStatus::Skipped;
            let runs_again = undone(step)
                || main_again && (skipped || !is_main_step(step))
                || cut_short && skipped && !is_main_step(step);
            match find_in_plan(own, live, steps, step) {
                Ok(index) if runs_again => revision.again.push((index, step)),
                Ok(index) => revision.kept.push((index, step)),
                Err(_) if runs_again || skipped => revision.dropped.push(step),
                Err(mismatch) => revision.mismatches.push(mismatch),
            }
        }
        let known: BTreeSet<_> = revision.kept.iter().chain(&revision.again).map(|(index, _)| *index).collect();
        revision.added = (0..live.steps.len()).filter(|index| !known.contains(index)).collect();
        revision
    }
}

/// The index of the step in the live plan, if it is the same there.
fn find_in_plan(
    own: Option<&CompiledPlan>,
    live: &CompiledPlan,
    steps: &[StepRecord],
    step: &StepRecord,
) -> std::result::Result<usize, StepMismatch> {
    let id = &step.step_id;
    let mismatch = |reason, message| Err(StepMismatch { step: id.clone(), reason, message });
    let Some(index) = live.step_index(id) else {
        return match find_new_name(live, steps, step) {
            Some(name) => mismatch("renamed", format!("it has no step `{id}`; `{name}` may be its new name")),
            None => mismatch("missing", format!("it has no step `{id}`")),
        };
    };
    let CompiledStep { step: known, section, .. } = &live.steps[index];
    let fans_out = step.item_counts.is_some()
        || own.and_then(|own| own.find_step(id)).is_some_and(|known| known.for_each.is_some());
    if section.field_name() != step.section {
        let (was, is) = (&step.section, section.field_name());
        return mismatch("section_changed", format!("`{id}` was one of `{was}` and is now one of `{is}`"));
    }
    if known.uses != step.uses {
        return mismatch("kind_changed", format!("`{id}` was `{}` and is now `{}`", step.uses, known.uses));
    }
    match (fans_out, known.for_each.is_some()) {
        (true, false) => mismatch("for_each_changed", format!("`{id}` had a `for_each` and now has none")),
        (false, true) => mismatch("for_each_changed", format!("`{id}` had no `for_each` and now has one")),
        _ => Ok(index),
    }
}

/// The only new step of the live plan with the section and the kind of this one.
fn find_new_name<'a>(live: &'a CompiledPlan, steps: &[StepRecord], step: &StepRecord) -> Option<&'a str> {
    let mut alike = live.steps.iter().filter(|known| {
        known.section.field_name() == step.section
            && known.step.uses == step.uses
            && steps.iter().all(|other| other.step_id != known.step.id)
    });
    let first = alike.next()?;
    alike.next().is_none().then_some(first.step.id.as_str())
}

/// The queue and the priority that the run was started with for all its steps.
struct StepOverrides {
    queue: Option<String>,
    priority: Option<i64>,
}

impl StepOverrides {
    /// They are not stored by themselves: they are what differs from the plan of the run.
    fn new(own: Option<&CompiledPlan>, steps: &[StepRecord]) -> Self {
        let mut overrides = Self { queue: None, priority: None };
        for step in steps {
            let Some(known) = own.and_then(|own| own.find_step(&step.step_id)) else { continue };
            if known.queue != step.queue {
                overrides.queue = Some(step.queue.clone());
            }
            if i64::from(known.priority) != step.priority {
                overrides.priority = Some(step.priority);
            }
        }
        overrides
    }

    fn apply_to(&self, CompiledStep { step, .. }: &CompiledStep) -> (String, i64) {
        let queue = self.queue.clone().unwrap_or_else(|| step.queue.clone());
        (queue, self.priority.unwrap_or_else(|| step.priority.into()))
    }
}

fn definition_mismatch(run: &RunRecord, mismatches: &[StepMismatch]) -> Error {
    let list: Vec<_> = mismatches.iter().map(|mismatch| mismatch.message.as_str()).collect();
    let message = format!(
        "the live definition of `{}` does not fit what the run has finished: {}",
        run.pipeline,
        list.join("; ")
    );
    Error::new(codes::DEFINITION_MISMATCH, message).with_details(json!(mismatches))
}
