//! One attempt of one step: claim, run, end. What the lease does not cover is never written.

use afterload_core::failpoint;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, warn};

use super::advance::Moves;
use super::compiled::{Compiled, CompiledStep};
use super::end::{Outcome, cancelled, error_json, files_prefix};
use super::fan_out::Fan;
use super::progress::{Gauge, PACE, ProgressView};
use super::view::run_url;
use super::{Inner, rate};
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_pipeline::plan::Output;
use afterload_pipeline::{self as pipeline, Scope, Section};
use afterload_state::queue::Lease;
use afterload_state::{Claimed, Ending, RunRecord, StepStatus, Tx, Verdict};
use afterload_step_api::{Bed, Context, Destination, Files, Progress, Report, RunFacts, Slept, StepFacts};

/// How long a step that was left by a crash waits while another one is being tried.
const SUSPECT_PAUSE: Duration = Duration::from_secs(1);

/// A step that is taken for an attempt.
struct Taken {
    claimed: Claimed,
    /// Its run, as of the claim.
    run: RunRecord,
    /// The right to work on a suspect, if it is one.
    _suspect: Option<OwnedSemaphorePermit>,
}

/// What came of a claim.
enum Claim {
    /// The lease is lost; nothing may be written.
    Lost,
    /// It is not this step's turn: its job is given back, or was left over.
    Dropped,
    /// The run was asked to stop, and so the step has ended.
    Ended(Box<(RunRecord, Moves)>),
    /// The step is taken.
    Taken(Box<Taken>),
}

/// What there is to do in an attempt.
enum Prepared {
    /// To run the step.
    Step(Value, Scope, Files),
    /// To write its items.
    Fan(Fan),
}

/// Works on a job until its lease has been given back or lost.
pub(super) async fn work_on(engine: Arc<Inner>, lease: Lease) {
    let Some(Taken { claimed, run, _suspect }) = engine.claim(&lease).await else { return };
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
        let (outcome, ending) = engine.attempt(&lease, &claimed, &run).await;
        engine.end(&lease, &claimed, outcome, ending, started).await;
    }
    .instrument(span)
    .await;
}

/// Whether the step runs whatever becomes of its run.
fn cleans_up(claimed: &Claimed) -> bool {
    claimed.step.section == Section::Finally.field()
}

/// Whether the run was asked to stop, and the step has to end with it.
fn is_called_off(claimed: &Claimed, run: &RunRecord) -> bool {
    run.cancel_requested_at.is_some() && !cleans_up(claimed)
}

impl Inner {
    /// Takes the step for this attempt, and with a suspect the right to work on one. `None`: the wake-up was stale, the
    /// lease is lost, or it is not this step's turn.
    async fn claim(&self, lease: &Lease) -> Option<Taken> {
        loop {
            match self.try_claim(lease).await {
                Ok(claimed) => return claimed,
                Err(error) if error.is_transient() => self.pause(&error, "claiming a step").await,
                Err(error) => {
                    // Out of hand, the job is freed by the sweep and fetched again.
                    warn!(error.code = error.code(), "claiming a step failed: {error}");
                    return None;
                }
            }
        }
    }

    async fn try_claim(&self, lease: &Lease) -> Result<Option<Taken>> {
        let alone = self.chain.claim_alone(lease).await?;
        let claim = match alone.filter(|(claimed, run)| !is_called_off(claimed, run)) {
            Some((claimed, run)) => Claim::Taken(Box::new(Taken { claimed, run, _suspect: None })),
            None => {
                let written = self.db.write(async |tx| {
                    let claim = self.write_claim(tx, lease).await?;
                    failpoint!("claim.before_commit");
                    Ok(match claim {
                        Claim::Lost => Verdict::Undo(Claim::Lost),
                        claim => Verdict::Keep(claim),
                    })
                });
                written.await?
            }
        };
        failpoint!("claim.after_commit");
        Ok(match claim {
            Claim::Lost | Claim::Dropped => None,
            Claim::Ended(ended) => {
                self.moved(&ended.0, &ended.1);
                None
            }
            Claim::Taken(taken) => {
                self.changed(&taken.run);
                Some(*taken)
            }
        })
    }

    async fn write_claim(&self, tx: &mut Tx, lease: &Lease) -> Result<Claim> {
        let claimed = match self.chain.claim(tx, lease).await? {
            Some(claimed) => claimed,
            None => match self.chain.hold(tx, lease).await? {
                None => return Ok(Claim::Lost),
                Some(held) if held.paused => {
                    self.hold_back(tx, lease, &held).await?;
                    return Ok(Claim::Dropped);
                }
                // It was resumed just now, or has ended without its job, and the job is left over.
                Some(_) => match tx.claim_step(&lease.step_run).await? {
                    Some(claimed) => claimed,
                    None => {
                        self.chain.acknowledge(tx, lease).await?;
                        return Ok(Claim::Dropped);
                    }
                },
            },
        };
        let run = tx.start_run(&claimed.step.run_id, cleans_up(&claimed)).await?;
        if is_called_off(&claimed, &run) {
            let ending = cancelled();
            self.chain.acknowledge(tx, lease).await?;
            tx.end_step(&lease.step_run, claimed.step.claims, None, &ending).await?;
            let moves = self.next(tx, &run, &claimed.step, StepStatus::Cancelled).await?;
            return Ok(Claim::Ended(Box::new((run, moves))));
        }
        // A process runs at most one step that was left by a crash, so that innocents do not share its fate.
        let suspect = match claimed.step.crashes {
            0 => None,
            _ => match self.suspects.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let due_at = clock::now() + SUSPECT_PAUSE.as_millis() as i64;
                    self.chain.postpone(tx, lease, due_at).await?;
                    tx.end_step(&lease.step_run, claimed.step.claims, None, &Ending::Park { due_at }).await?;
                    return Ok(Claim::Dropped);
                }
            },
        };
        Ok(Claim::Taken(Box::new(Taken { claimed, run, _suspect: suspect })))
    }

    /// Runs the step and decides how the attempt ends.
    async fn attempt(&self, lease: &Lease, claimed: &Claimed, run: &RunRecord) -> (Outcome, Ending) {
        self.clean_up(claimed).await;
        let stoppable = self.attempts.add(&claimed.step.run_id);
        let cancel = if cleans_up(claimed) { CancellationToken::new() } else { stoppable.cancelled.clone() };
        let crashes = claimed.step.crashes;
        if crashes >= self.config.max_crashes {
            let error = Error::permanent(
                "step_quarantined",
                format!("the step took its process down {crashes} times without progress"),
            )
            .hint("look at the logs of the processes that died; `limits.crashes` sets the number");
            let ending =
                Ending::Final { status: StepStatus::Quarantined, outputs: None, error: Some(error_json(&error)) };
            return (Outcome::failed(error), ending);
        }
        let (outcome, step) = match self.compiled_step(claimed, run).await {
            Ok((compiled, index)) => match self.pace((lease, claimed, &cancel), run, &compiled, index).await {
                Ok(None) => {
                    (self.run_step((lease, claimed, &cancel), run, &compiled, index).await, Some((compiled, index)))
                }
                Ok(Some(due_at)) => return (Outcome::failed(rate::waits()), Ending::Park { due_at }),
                Err(error) => (Outcome::failed(error), Some((compiled, index))),
            },
            Err(error) => (Outcome::failed(error), None),
        };
        let outcome = Outcome { result: outcome.result.map_err(|error| self.redactor.redact_error(error)), ..outcome };
        let ending = match &outcome.result {
            Ok(_) if outcome.fan.is_some() => Ending::FanOut,
            Ok(outputs) => Ending::Final { status: StepStatus::Succeeded, outputs: Some(outputs.clone()), error: None },
            Err(_) if cancel.is_cancelled() => cancelled(),
            Err(error) if super::records::skips(error) => super::records::skipped(error),
            Err(_) if outcome.sleep.is_some() => Ending::Sleep(outcome.sleep.clone().unwrap_or_default()),
            Err(error) => {
                self.after_failure(claimed, step.as_ref().map(|(compiled, index)| &compiled.steps[*index]), error)
            }
        };
        (outcome, ending)
    }

    async fn compiled_step(&self, claimed: &Claimed, run: &RunRecord) -> Result<(Arc<Compiled>, usize)> {
        let compiled = self.compiled(&run.digest).await?;
        let index = compiled.position(claimed.step.defined_as());
        index
            .map(|index| (compiled, index))
            .ok_or_else(|| Error::permanent("definition_invalid", "the step is not in its definition"))
    }

    async fn run_step(
        &self,
        (lease, claimed, cancel): (&Lease, &Claimed, &CancellationToken),
        run: &RunRecord,
        compiled: &Compiled,
        index: usize,
    ) -> Outcome {
        let step = &claimed.step;
        let stop = self.draining.child_token();
        // A lease that is found with somebody else stops the step too.
        let (lost, stopped) = (lease.lost.clone(), stop.clone());
        let fence = async move {
            lost.cancelled().await;
            stopped.cancel();
            std::future::pending::<()>().await;
        };
        let (progress, reports) = Progress::channel();
        let known = &compiled.steps[index];
        let (with, scope, files) = match self.prepare(claimed, run, compiled, known).await {
            Ok(Prepared::Step(with, scope, files)) => (with, scope, files),
            Ok(Prepared::Fan(fan)) => return Outcome::fanned(fan),
            Err(error) => return Outcome::failed(error),
        };
        let timeout = Duration::from_millis(known.step.timeout_ms.max(0) as u64);
        let bed = Bed::default();
        let ctx = Context {
            bed: bed.clone(),
            slept: (step.sleeps > 0).then(|| Slept { until: step.sleep_until, event: step.woken.clone() }),
            run: RunFacts {
                id: step.run_id.clone(),
                url: run_url(&self.config.base_url, &step.run_id),
                pipeline: compiled.plan.name.clone(),
            },
            step: StepFacts {
                id: step.step_id.clone(),
                attempt: step.failures + 1,
                key: format!("{}/{}", step.run_id, step.key()),
                epoch: step.claims,
            },
            scope,
            progress,
            stop: stop.clone(),
            files: files.clone(),
            links: Arc::new(super::links::Links::new(self, &step.run_id, &step.key())),
            effects: Arc::new(super::effects::Journal::new(self.db.clone(), &step.run_id, &step.key())),
            deliveries: Arc::new(super::deliveries::Book::new(self.db.clone(), &step.run_id, &step.key())),
        };
        failpoint!("step.start", &step.step_id);
        let before: Option<ProgressView> = step.progress.clone().and_then(|view| serde_json::from_value(view).ok());
        let gauge = Gauge::new(before.as_ref());
        // A task of its own: a panic of the step ends there, and it can be aborted.
        #[expect(clippy::disallowed_methods, reason = "`supervise` waits for it or aborts it")]
        let run = match self.steps.iter().find(|known| known.kind.name() == step.uses) {
            Some(registered) => tokio::spawn(registered.run(with, ctx).in_current_span()),
            None => {
                let error = Error::permanent("not_supported_yet", format!("this version does not run `{}`", step.uses));
                return Outcome::failed(error);
            }
        };
        let ended = CancellationToken::new();
        let store = self.store_progress(claimed, &gauge, reports.clone(), &stop, &ended);
        let supervised = async {
            let result = self.supervise(run, timeout, &stop, cancel).await;
            ended.cancel();
            result
        };
        let (result, ()) = tokio::select! {
            done = async { tokio::join!(supervised, store) } => done,
            () = fence => unreachable!("the fence only stops the step"),
        };
        let last = reports.borrow().clone();
        let progress = (last != Report::default()).then(|| gauge.view(&last));
        let sleep = bed.taken().filter(|_| result.is_err()).map(|wanted| Self::sleep(&wanted));
        Outcome { result, progress, made: files.so_far(), sleep, fan: None }
    }

    /// Resolves what the step is given, or finds out its items.
    async fn prepare(
        &self,
        claimed: &Claimed,
        run: &RunRecord,
        compiled: &Compiled,
        known: &CompiledStep,
    ) -> Result<Prepared> {
        let step = &claimed.step;
        let scope = self.scope(run, compiled, known, step).await?;
        if let Some(for_each) = known.fans_out(step) {
            return Ok(Prepared::Fan(Fan::new(for_each, &scope)?));
        }
        let scope = self.with_records(scope, run, &compiled.plan, &known.step).await?;
        let registered = self.steps.iter().find(|known| known.kind.name() == step.uses);
        let with =
            pipeline::resolve_but(&known.step.with, &scope, registered.map_or(&[], |known| known.kind.repeated()))?;
        let files = self.files(claimed, known.step.output.as_ref(), scope.clone());
        Ok(Prepared::Step(with, scope, files))
    }

    fn files(&self, claimed: &Claimed, output: Option<&Output>, scope: Scope) -> Files {
        let step = &claimed.step;
        let prefix = format!("{}{}/", files_prefix(step), step.claims);
        let destination = output.cloned().map(|Output { bucket, key, cache_control }| {
            let key = move |file: &Value| pipeline::resolve_to_text(&key, &scope.clone().file(file));
            Destination { bucket, key: Arc::new(key), cache_control }
        });
        let place = (self.config.artifacts.clone(), prefix);
        Files::new(self.objects.clone(), place, self.config.base_url.clone(), step.step_id.clone(), destination)
    }

    /// Stores what the step reports until it has ended. Stops the step when the claim is lost.
    async fn store_progress(
        &self,
        claimed: &Claimed,
        gauge: &Gauge,
        mut reports: watch::Receiver<Report>,
        stop: &CancellationToken,
        ended: &CancellationToken,
    ) {
        let mut pace = tokio::time::interval(PACE);
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
            let view = gauge.view(&reports.borrow_and_update().clone());
            match self.try_store_progress(claimed, &json!(view), gauge.moved(&view)).await {
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

    async fn try_store_progress(&self, claimed: &Claimed, view: &Value, moved: bool) -> Result<bool> {
        let stored = self.db.write(async |tx| {
            if !tx.move_step(&claimed.step.id, claimed.step.claims, view, moved).await? {
                return Ok(Verdict::Undo(None));
            }
            let run = tx.touch_run(&claimed.step.run_id).await?;
            failpoint!("progress.before_commit");
            Ok(Verdict::Keep(Some(run)))
        });
        let run = stored.await?;
        failpoint!("progress.after_commit");
        run.iter().for_each(|run| self.changed(run));
        Ok(run.is_some())
    }
}
