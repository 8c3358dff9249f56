//! One attempt of one step: claim, run, end. What the lease does not cover is never written.

use afterload_core::failpoint;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, warn};

use crate::EngineCore;
use crate::executor::progress::{PROGRESS_STORE_INTERVAL, ProgressTracker, ProgressView};
use crate::lifecycle::advance::Transition;
use crate::lifecycle::finish::{AttemptOutcome, artifacts_prefix, cancelled_end, error_to_json};
use crate::plan_cache::{CompiledPlan, CompiledStep};
use crate::run_view::run_url;
use crate::scheduling::fan_out::FanOut;
use crate::scheduling::rate_limit;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_pipeline::plan::OutputTarget;
use afterload_pipeline::{self as pipeline, ExprContext, Section};
use afterload_state::queue::Lease;
use afterload_state::{AttemptEnd, DbTx, RunRecord, StepClaim, StepStatus, TxOutcome};
use afterload_step_api::{
    OutputDestination, ProgressReporter, ProgressUpdate, Resumed, RunInfo, StepContext, StepFiles, StepInfo,
    SuspendSlot,
};

/// How long a step that was left by a crash waits while another one is being tried.
const SUSPECT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A step that is taken for an attempt.
struct ClaimedStep {
    claimed: StepClaim,
    /// Its run, as of the claim.
    run: RunRecord,
    /// The right to work on a suspect, if it is one.
    _suspect: Option<OwnedSemaphorePermit>,
}

/// What came of a claim.
enum ClaimOutcome {
    /// The lease is lost; nothing may be written.
    Lost,
    /// It is not this step's turn: its job is given back, or was left over.
    NotReady,
    /// The run was asked to stop, and so the step has ended.
    Ended(Box<(RunRecord, Transition)>),
    /// The step is taken.
    Claimed(Box<ClaimedStep>),
}

/// What there is to do in an attempt.
enum PreparedAttempt {
    /// To run the step.
    Step(Value, ExprContext, StepFiles),
    /// To write its items.
    FanOut(FanOut),
}

/// Works on a job until its lease has been given back or lost.
pub(crate) async fn run_job(engine: Arc<EngineCore>, lease: Lease) {
    let Some(ClaimedStep { claimed, run, _suspect }) = engine.claim_with_retry(&lease).await else { return };
    let step = &claimed.step;
    let span = tracing::info_span!(
        "step",
        run.id = step.run_id,
        pipeline.name = run.pipeline,
        step.id = step.step_id,
        step.uses = step.uses
    );
    async {
        let started = Instant::now();
        let (outcome, ending) = engine.run_attempt(&lease, &claimed, &run).await;
        engine.end_attempt(&lease, &claimed, outcome, ending, started).await;
    }
    .instrument(span)
    .await;
}

/// Whether the step runs whatever becomes of its run.
fn is_finally_step(claimed: &StepClaim) -> bool {
    claimed.step.section == Section::Finally.field_name()
}

/// Whether the run was asked to stop, and the step has to end with it.
fn is_cancelled(claimed: &StepClaim, run: &RunRecord) -> bool {
    run.cancel_requested_at.is_some() && !is_finally_step(claimed)
}

impl EngineCore {
    /// Takes the step for this attempt, and with a suspect the right to work on one. `None`: the wake-up was stale, the
    /// lease is lost, or it is not this step's turn.
    async fn claim_with_retry(&self, lease: &Lease) -> Option<ClaimedStep> {
        loop {
            match self.try_claim_step(lease).await {
                Ok(claimed) => return claimed,
                Err(error) if error.is_transient() => self.wait_for_db(&error, "claiming a step").await,
                Err(error) => {
                    // Out of hand, the job is freed by the sweep and fetched again.
                    warn!(error.code = error.code(), "claiming a step failed: {error}");
                    return None;
                }
            }
        }
    }

    async fn try_claim_step(&self, lease: &Lease) -> Result<Option<ClaimedStep>> {
        let alone = self.queue.claim_and_start_run(lease).await?;
        let claim = match alone.filter(|(claimed, run)| !is_cancelled(claimed, run)) {
            Some((claimed, run)) => ClaimOutcome::Claimed(Box::new(ClaimedStep { claimed, run, _suspect: None })),
            None => {
                let written = self.db.with_tx(async |tx| {
                    let claim = self.write_claim(tx, lease).await?;
                    failpoint!("claim.before_commit");
                    Ok(match claim {
                        ClaimOutcome::Lost => TxOutcome::Rollback(ClaimOutcome::Lost),
                        claim => TxOutcome::Commit(claim),
                    })
                });
                written.await?
            }
        };
        failpoint!("claim.after_commit");
        Ok(match claim {
            ClaimOutcome::Lost | ClaimOutcome::NotReady => None,
            ClaimOutcome::Ended(ended) => {
                self.after_commit(&ended.0, &ended.1);
                None
            }
            ClaimOutcome::Claimed(taken) => {
                self.publish_run_change(&taken.run);
                Some(*taken)
            }
        })
    }

    async fn write_claim(&self, tx: &mut DbTx, lease: &Lease) -> Result<ClaimOutcome> {
        let claimed = match self.queue.claim_leased_step(tx, lease).await? {
            Some(claimed) => claimed,
            None => match self.queue.lock_job(tx, lease).await? {
                None => return Ok(ClaimOutcome::Lost),
                Some(held) if held.paused => {
                    self.return_paused_job(tx, lease, &held).await?;
                    return Ok(ClaimOutcome::NotReady);
                }
                // It was resumed just now, or has ended without its job, and the job is left over.
                Some(_) => match tx.claim_step(&lease.step_run).await? {
                    Some(claimed) => claimed,
                    None => {
                        self.queue.acknowledge_job(tx, lease).await?;
                        return Ok(ClaimOutcome::NotReady);
                    }
                },
            },
        };
        let run = tx.mark_run_started(&claimed.step.run_id, is_finally_step(&claimed)).await?;
        if is_cancelled(&claimed, &run) {
            let ending = cancelled_end();
            self.queue.acknowledge_job(tx, lease).await?;
            tx.end_step(&lease.step_run, claimed.step.claims, None, &ending).await?;
            let moves = self.advance_after_step(tx, &run, &claimed.step, StepStatus::Cancelled).await?;
            return Ok(ClaimOutcome::Ended(Box::new((run, moves))));
        }
        // A process runs at most one step that was left by a crash, so that innocents do not share its fate.
        let suspect = match claimed.step.crashes {
            0 => None,
            _ => match self.suspects.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let due_at = clock::now_millis() + SUSPECT_RETRY_DELAY.as_millis() as i64;
                    self.queue.reschedule_job(tx, lease, due_at).await?;
                    tx.end_step(&lease.step_run, claimed.step.claims, None, &AttemptEnd::Park { due_at }).await?;
                    return Ok(ClaimOutcome::NotReady);
                }
            },
        };
        Ok(ClaimOutcome::Claimed(Box::new(ClaimedStep { claimed, run, _suspect: suspect })))
    }

    /// Runs the step and decides how the attempt ends.
    async fn run_attempt(&self, lease: &Lease, claimed: &StepClaim, run: &RunRecord) -> (AttemptOutcome, AttemptEnd) {
        self.delete_stale_files(claimed).await;
        let stoppable = self.running_attempts.register_attempt(&claimed.step.run_id);
        let cancel = if is_finally_step(claimed) { CancellationToken::new() } else { stoppable.cancelled.clone() };
        let crashes = claimed.step.crashes;
        if crashes >= self.config.max_crashes {
            let error = Error::permanent(
                "step_quarantined",
                format!("the step took its process down {crashes} times without progress"),
            )
            .with_hint("look at the logs of the processes that died; `limits.crashes` sets the number");
            let ending = AttemptEnd::Final {
                status: StepStatus::Quarantined,
                outputs: None,
                error: Some(error_to_json(&error)),
            };
            return (AttemptOutcome::from_error(error), ending);
        }
        let (outcome, step) = match self.find_compiled_step(claimed, run).await {
            Ok((compiled, index)) => {
                match self.wait_for_rate_limit((lease, claimed, &cancel), run, &compiled, index).await {
                    Ok(None) => {
                        (self.run_step((lease, claimed, &cancel), run, &compiled, index).await, Some((compiled, index)))
                    }
                    Ok(Some(due_at)) => {
                        return (
                            AttemptOutcome::from_error(rate_limit::rate_limited_error()),
                            AttemptEnd::Park { due_at },
                        );
                    }
                    Err(error) => (AttemptOutcome::from_error(error), Some((compiled, index))),
                }
            }
            Err(error) => (AttemptOutcome::from_error(error), None),
        };
        let outcome =
            AttemptOutcome { result: outcome.result.map_err(|error| self.redactor.redact_error(error)), ..outcome };
        let ending = match &outcome.result {
            Ok(_) if outcome.fan_out.is_some() => AttemptEnd::FanOut,
            Ok(outputs) => {
                AttemptEnd::Final { status: StepStatus::Succeeded, outputs: Some(outputs.clone()), error: None }
            }
            Err(_) if cancel.is_cancelled() => cancelled_end(),
            Err(error) if crate::record_params::is_skip_error(error) => crate::record_params::skipped_end(error),
            Err(_) if outcome.wake_condition.is_some() => {
                AttemptEnd::Suspend(outcome.wake_condition.clone().unwrap_or_default())
            }
            Err(error) => {
                self.decide_failure_end(claimed, step.as_ref().map(|(compiled, index)| &compiled.steps[*index]), error)
            }
        };
        (outcome, ending)
    }

    async fn find_compiled_step(&self, claimed: &StepClaim, run: &RunRecord) -> Result<(Arc<CompiledPlan>, usize)> {
        let compiled = self.load_plan(&run.digest).await?;
        let index = compiled.step_index(claimed.step.definition_id());
        index
            .map(|index| (compiled, index))
            .ok_or_else(|| Error::permanent("definition_invalid", "the step is not in its definition"))
    }

    async fn run_step(
        &self,
        (lease, claimed, cancel): (&Lease, &StepClaim, &CancellationToken),
        run: &RunRecord,
        compiled: &CompiledPlan,
        index: usize,
    ) -> AttemptOutcome {
        let step = &claimed.step;
        let stop = self.draining.child_token();
        // A lease that is found with somebody else stops the step too.
        let (lost, stopped) = (lease.lost.clone(), stop.clone());
        let fence = async move {
            lost.cancelled().await;
            stopped.cancel();
            std::future::pending::<()>().await;
        };
        let (progress, reports) = ProgressReporter::new_channel();
        let known = &compiled.steps[index];
        let (with, scope, files) = match self.prepare_attempt(claimed, run, compiled, known).await {
            Ok(PreparedAttempt::Step(with, scope, files)) => (with, scope, files),
            Ok(PreparedAttempt::FanOut(fan)) => return AttemptOutcome::from_fan_out(fan),
            Err(error) => return AttemptOutcome::from_error(error),
        };
        let timeout = Duration::from_millis(known.step.timeout_ms.max(0) as u64);
        let bed = SuspendSlot::default();
        let ctx = StepContext {
            suspend_slot: bed.clone(),
            resumed: (step.suspend_count > 0)
                .then(|| Resumed { until: step.suspended_until, event: step.wake_event.clone() }),
            run: RunInfo {
                id: step.run_id.clone(),
                url: run_url(&self.config.base_url, &step.run_id),
                pipeline: compiled.plan.name.clone(),
            },
            step: StepInfo {
                id: step.step_id.clone(),
                attempt: step.failures + 1,
                key: format!("{}/{}", step.run_id, step.effect_key()),
                epoch: step.claims,
            },
            expr_context: scope,
            progress,
            stop: stop.clone(),
            files: files.clone(),
            links: Arc::new(crate::executor::download_links::DbFileLinks::new(self, &step.run_id, &step.effect_key())),
            effect_log: Arc::new(crate::executor::effect_log::DbEffectLog::new(
                self.db.clone(),
                &step.run_id,
                &step.effect_key(),
            )),
            delivery_log: Arc::new(crate::executor::delivery_log::DbDeliveryLog::new(
                self.db.clone(),
                &step.run_id,
                &step.effect_key(),
            )),
        };
        failpoint!("step.start", &step.step_id);
        let before: Option<ProgressView> = step.progress.clone().and_then(|view| serde_json::from_value(view).ok());
        let gauge = ProgressTracker::new(before.as_ref());
        // A task of its own: a panic of the step ends there, and it can be aborted.
        #[expect(clippy::disallowed_methods, reason = "`supervise` waits for it or aborts it")]
        let run = match self.steps.iter().find(|known| known.kind.name() == step.uses) {
            Some(registered) => tokio::spawn(registered.run(with, ctx).in_current_span()),
            None => {
                let error = Error::permanent("not_supported_yet", format!("this version does not run `{}`", step.uses));
                return AttemptOutcome::from_error(error);
            }
        };
        let ended = CancellationToken::new();
        let store = self.store_progress(claimed, &gauge, reports.clone(), &stop, &ended);
        let supervised = async {
            let result = self.supervise_step(run, timeout, &stop, cancel).await;
            ended.cancel();
            result
        };
        let (result, ()) = tokio::select! {
            done = async { tokio::join!(supervised, store) } => done,
            () = fence => unreachable!("the fence only stops the step"),
        };
        let last = reports.borrow().clone();
        let progress = (last != ProgressUpdate::default()).then(|| gauge.to_view(&last));
        let sleep = bed.request().filter(|_| result.is_err()).map(|wanted| Self::wake_condition(&wanted));
        AttemptOutcome { result, progress, produced: files.snapshot(), wake_condition: sleep, fan_out: None }
    }

    /// Resolves what the step is given, or finds out its items.
    async fn prepare_attempt(
        &self,
        claimed: &StepClaim,
        run: &RunRecord,
        compiled: &CompiledPlan,
        known: &CompiledStep,
    ) -> Result<PreparedAttempt> {
        let step = &claimed.step;
        let scope = self.step_expr_context(run, compiled, known, step).await?;
        if let Some(for_each) = known.fan_out_spec(step) {
            return Ok(PreparedAttempt::FanOut(FanOut::new(for_each, &scope)?));
        }
        let scope = self.with_records(scope, run, &compiled.plan, &known.step).await?;
        let registered = self.steps.iter().find(|known| known.kind.name() == step.uses);
        let with = pipeline::resolve_except(
            &known.step.with,
            &scope,
            registered.map_or(&[], |known| known.kind.deferred_fields()),
        )?;
        let files = self.new_step_files(claimed, known.step.output.as_ref(), scope.clone());
        Ok(PreparedAttempt::Step(with, scope, files))
    }

    fn new_step_files(&self, claimed: &StepClaim, output: Option<&OutputTarget>, scope: ExprContext) -> StepFiles {
        let step = &claimed.step;
        let prefix = format!("{}{}/", artifacts_prefix(step), step.claims);
        let destination = output.cloned().map(|OutputTarget { bucket, key, cache_control }| {
            let key = move |file: &Value| pipeline::resolve_to_text(&key, &scope.clone().with_file(file));
            OutputDestination { bucket, key: Arc::new(key), cache_control }
        });
        let place = (self.config.artifacts.clone(), prefix);
        StepFiles::new(self.objects.clone(), place, self.config.base_url.clone(), step.step_id.clone(), destination)
    }

    /// Stores what the step reports until it has ended. Stops the step when the claim is lost.
    async fn store_progress(
        &self,
        claimed: &StepClaim,
        gauge: &ProgressTracker,
        mut reports: watch::Receiver<ProgressUpdate>,
        stop: &CancellationToken,
        ended: &CancellationToken,
    ) {
        let mut pace = tokio::time::interval(PROGRESS_STORE_INTERVAL);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                () = ended.cancelled() => return,
            }
            tokio::select! {
                _ = pace.tick() => {}
                () = ended.cancelled() => return,
            }
            let view = gauge.to_view(&reports.borrow_and_update().clone());
            match self.try_store_progress(claimed, &json!(view), gauge.has_advanced(&view)).await {
                Ok(true) => {}
                Ok(false) => {
                    warn!("the step's lease is lost; stopping it");
                    stop.cancel();
                    return;
                }
                // The next report tries again; the end stores the last one in any case.
                Err(error) => warn!(error.code = error.code(), "progress was not stored: {error}"),
            }
        }
    }

    async fn try_store_progress(&self, claimed: &StepClaim, view: &Value, moved: bool) -> Result<bool> {
        let stored = self.db.with_tx(async |tx| {
            if !tx.record_progress(&claimed.step.id, claimed.step.claims, view, moved).await? {
                return Ok(TxOutcome::Rollback(None));
            }
            let run = tx.bump_revision(&claimed.step.run_id).await?;
            failpoint!("progress.before_commit");
            Ok(TxOutcome::Commit(Some(run)))
        });
        let run = stored.await?;
        failpoint!("progress.after_commit");
        run.iter().for_each(|run| self.publish_run_change(run));
        Ok(run.is_some())
    }
}
