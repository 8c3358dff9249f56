//! One attempt of a step: it is prepared, runs as its own task and leaves an outcome.

use crate::codes;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::attempt_worker::AttemptWorker;
use super::delivery_log::DbDeliveryLog;
use super::download_links::StepLinks;
use super::effect_log::DbEffectLog;
use super::outcome::{decide_end, quarantine_error};
use super::progress::{ProgressStore, ProgressTracker};
use super::step_files::AttemptFiles;
use super::step_owner::StepOwner;
use super::supervise::Supervisor;
use crate::attempt::AttemptContext;
use crate::config::EngineConfig;
use crate::expr_context::{ContextBuilder, StepScope};
use crate::lifecycle::cancel::RunningAttempts;
use crate::lifecycle::finish::AttemptOutcome;
use crate::plan_cache::{CompiledPlan, CompiledStep, PlanCache};
use crate::progress_view::ProgressView;
use crate::record_params::RecordLoader;
use crate::run_errors::error_to_json;
use crate::run_view::run_url;
use crate::scheduling::fan_out::FanOut;
use crate::scheduling::rate_limit::{StartLimiter, rate_limited_error};
use crate::scheduling::suspend::wake_condition;
use afterload_core::error::{Error, Result};
use afterload_core::failpoint;
use afterload_core::redactor::Redactor;
use afterload_pipeline::{self as pipeline, ExprContext};
use afterload_state::queue::{JobSlot, Lease};
use afterload_state::{AttemptEnd, Db, RunRecord, StepClaim, StepStatus};
use afterload_step_api::{
    ProgressReporter, ProgressUpdate, RegisteredStep, Resumed, RunInfo, StepContext, StepFiles, StepInfo, StepWaits,
    SuspendSlot,
};

/// The work of an attempt.
enum PreparedAttempt {
    /// Run the step.
    Step(Value, ExprContext, StepFiles),
    /// Create the items of a fan-out.
    FanOut(FanOut),
}

/// The compiled step that an attempt runs.
struct FoundStep {
    compiled: Arc<CompiledPlan>,
    index: usize,
}

pub(crate) struct StepRunner {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) steps: Vec<RegisteredStep>,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) contexts: ContextBuilder,
    pub(crate) records: RecordLoader,
    pub(crate) files: AttemptFiles,
    pub(crate) links: StepLinks,
    pub(crate) limiter: StartLimiter,
    pub(crate) progress: ProgressStore,
    pub(crate) supervisor: Supervisor,
    pub(crate) attempts: Arc<RunningAttempts>,
    pub(crate) redactor: Redactor,
    /// Cancelled when the process shuts down: running steps stop at their next checkpoint.
    pub(crate) draining: CancellationToken,
}

impl StepRunner {
    /// Runs the step and decides how the attempt ends.
    pub(super) async fn run_attempt(
        &self,
        lease: &Lease,
        slot: &JobSlot,
        claimed: &StepClaim,
        run: &RunRecord,
    ) -> (AttemptOutcome, AttemptEnd) {
        self.files.delete_stale_files(claimed).await;
        let guard = self.attempts.register_attempt(&claimed.step.run_id, &claimed.step.section);
        let (cancel, stop_reason) = (&guard.attempt.cancelled, &*guard.attempt.reason);
        let attempt = AttemptContext { lease, slot, claimed, run, cancel, stop_reason };
        // Another attempt would most likely crash the process again.
        if claimed.step.crashes >= self.config.max_crashes {
            let error = quarantine_error(claimed.step.crashes);
            let stored = Some(error_to_json(&error));
            let ending = AttemptEnd::Final { status: StepStatus::Quarantined, outputs: None, error: stored };
            return (AttemptOutcome::from_error(error), ending);
        }
        let (outcome, found) = match self.find_compiled_step(claimed, run).await {
            Ok(found) => {
                let outcome = match self.limiter.wait_for_rate_limit(attempt, &found.compiled, found.index).await {
                    Ok(None) => self.run_step(attempt, &found.compiled, found.index).await,
                    Ok(Some(due_at)) => {
                        let parked = AttemptEnd::Park { due_at, error: None };
                        return (AttemptOutcome::from_error(rate_limited_error()), parked);
                    }
                    Err(error) => AttemptOutcome::from_error(error),
                };
                (outcome, Some(found))
            }
            Err(error) => (AttemptOutcome::from_error(error), None),
        };
        let outcome = self.hide_secrets(outcome);
        let step = found.as_ref().map(|found| &found.compiled.steps[found.index]);
        let ending = decide_end(attempt, step, &outcome, self.draining.is_cancelled(), self.db.now());
        (outcome, ending)
    }

    /// Removes secrets from what is stored and logged: a database or a service may return a value that was sent to it.
    fn hide_secrets(&self, outcome: AttemptOutcome) -> AttemptOutcome {
        let result = match outcome.result {
            Ok(outputs) => Ok(self.redactor.redact_json(outputs)),
            Err(error) => Err(self.redactor.redact_error(error)),
        };
        AttemptOutcome { result, ..outcome }
    }

    async fn find_compiled_step(&self, claimed: &StepClaim, run: &RunRecord) -> Result<FoundStep> {
        let compiled = self.plans.load_plan(&run.digest).await?;
        let index = compiled.step_index(claimed.step.definition_id());
        index
            .map(|index| FoundStep { compiled, index })
            .ok_or_else(|| Error::new(codes::DEFINITION_INVALID, "the step is not in its definition"))
    }

    fn run_info(&self, run: &RunRecord, pipeline: &str) -> RunInfo {
        let url = run_url(&self.config.base_url, &run.id);
        RunInfo { id: run.id.clone(), url, pipeline: pipeline.to_owned(), hops: run.hops }
    }

    async fn run_step(&self, attempt: AttemptContext<'_>, compiled: &CompiledPlan, index: usize) -> AttemptOutcome {
        let AttemptContext { lease, slot, claimed, run: run_record, cancel, .. } = attempt;
        let step = &claimed.step;
        let stop = self.draining.child_token();
        // A lost lease stops the step too, because another process may run it now.
        let abort = CancellationToken::new();
        let (lost, stopped, aborted) = (lease.lost.clone(), stop.clone(), abort.clone());
        let fence = async move {
            lost.cancelled().await;
            stopped.cancel();
            aborted.cancel();
            std::future::pending::<()>().await;
        };
        let (progress, reports) = ProgressReporter::new_channel();
        let known = &compiled.steps[index];
        let (with, scope, files) = match self.prepare_attempt(attempt, compiled, known).await {
            Ok(PreparedAttempt::Step(with, scope, files)) => (with, scope, files),
            Ok(PreparedAttempt::FanOut(fan)) => return AttemptOutcome::from_fan_out(fan),
            Err(error) => return AttemptOutcome::from_error(error),
        };
        let timeout = Duration::from_millis(known.step.timeout_ms.max(0) as u64);
        let suspend_slot = SuspendSlot::default();
        let worker = AttemptWorker::new(slot);
        let waits = worker.waits();
        let effect_key = step.effect_key();
        let owner = StepOwner { run: step.run_id.clone(), step: effect_key.clone() };
        let ctx = StepContext {
            clock: self.db.clock().clone(),
            suspend_slot: suspend_slot.clone(),
            waits: StepWaits { clock: self.db.clock().clone(), worker: Arc::new(worker), stop: stop.clone() },
            resumed: (step.suspend_count > 0)
                .then(|| Resumed { until: step.suspended_until, event: step.wake_event.clone() }),
            run: self.run_info(run_record, &compiled.plan.name),
            step: StepInfo {
                id: step.step_id.clone(),
                attempt: step.failures + 1,
                own_retry: known.step.own_retry,
                key: format!("{}/{effect_key}", step.run_id),
                epoch: step.claims,
            },
            expr_context: scope,
            progress,
            stop: stop.clone(),
            abort: abort.clone(),
            files: files.clone(),
            links: Arc::new(self.links.for_step(owner.clone())),
            effect_log: Arc::new(DbEffectLog::new(self.db.clone(), owner.clone(), self.redactor.clone())),
            delivery_log: Arc::new(DbDeliveryLog::new(self.db.clone(), owner)),
        };
        failpoint!("step.start", &step.step_id);
        let before: Option<ProgressView> = step.progress.clone().and_then(|view| serde_json::from_value(view).ok());
        let gauge = ProgressTracker::new(before.as_ref(), self.redactor.clone());
        // A separate task contains a panic of the step and can be aborted.
        #[expect(clippy::disallowed_methods, reason = "`supervise` waits for it or aborts it")]
        let run = match self.steps.iter().find(|known| known.kind.name() == step.uses) {
            Some(registered) => tokio::spawn(registered.run(with, ctx).in_current_span()),
            None => {
                let error = Error::new(codes::NOT_SUPPORTED_YET, format!("this version does not run `{}`", step.uses));
                return AttemptOutcome::from_error(error);
            }
        };
        let ended = CancellationToken::new();
        let store = self.progress.store_progress(claimed, &gauge, reports.clone(), &stop, &ended);
        let supervised = async {
            let result = self.supervisor.supervise_step(run, (timeout, &waits), (&stop, &abort), cancel).await;
            ended.cancel();
            result
        };
        let (result, ()) = tokio::select! {
            done = async { tokio::join!(supervised, store) } => done,
            () = fence => unreachable!("the fence only stops the step"),
        };
        let last = reports.borrow().clone();
        let progress = (last != ProgressUpdate::default()).then(|| gauge.to_view(&last));
        let sleep = suspend_slot.request().filter(|_| result.is_err()).map(|wanted| wake_condition(&wanted));
        let produced = files.snapshot();
        let result = result.map(|outputs| produced.seals.seal_copy(&outputs));
        AttemptOutcome { result, progress, produced, wake_condition: sleep, fan_out: None }
    }

    /// Resolves the inputs of the step, or the items of its fan-out.
    async fn prepare_attempt(
        &self,
        attempt: AttemptContext<'_>,
        compiled: &CompiledPlan,
        known: &CompiledStep,
    ) -> Result<PreparedAttempt> {
        let AttemptContext { claimed, run, .. } = attempt;
        let step = &claimed.step;
        let StepScope { expr, file_seals } = self.contexts.step_scope(run, compiled, known, step).await?;
        if let Some(for_each) = known.fan_out_spec(step) {
            return Ok(PreparedAttempt::FanOut(FanOut::new(for_each, &expr, file_seals, &self.redactor)?));
        }
        let scope = self.records.with_records(expr, run, &compiled.plan, &known.step).await?;
        let registered = self.steps.iter().find(|known| known.kind.name() == step.uses);
        let with = pipeline::resolve_except(
            &known.step.with,
            &scope,
            registered.map_or(&[], |known| known.kind.deferred_fields()),
            registered.map_or(&[], |known| known.kind.encoded_fields()),
        )?;
        let files = self.files.new_step_files(attempt, known.step.output.as_ref(), scope.clone(), file_seals);
        Ok(PreparedAttempt::Step(with, scope, files))
    }
}
