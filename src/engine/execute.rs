//! One attempt of one step: claim, run, end. What the lease does not cover is never written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};

use super::Inner;
use super::chain::Lease;
use super::compiled::{Compiled, CompiledStep, backoff};
use super::progress::{Gauge, PACE, ProgressView};
use super::view::{artifact_link, run_url};
use crate::clock;
use crate::error::{Class, Error, Result};
use crate::objects::File;
use crate::pipeline;
use crate::steps::{Context, FileLinks, Files, Progress, Report, RunFacts, StepFacts};
use crate::store::{Claimed, Ending, RunRecord, StepStatus};

/// How long a step that was left by a crash waits while another one is being tried.
const SUSPECT_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait before trying a database that failed us again.
const DATABASE_PAUSE: Duration = Duration::from_millis(500);

/// What an attempt left behind.
struct Outcome {
    result: Result<Value>,
    progress: Option<ProgressView>,
    files: Vec<File>,
}

/// Works on a job until its lease has been given back or lost.
pub(super) async fn work_on(engine: Arc<Inner>, lease: Lease) {
    let Some((claimed, _suspect)) = engine.claim(&lease).await else { return };
    let step = &claimed.step;
    let span = tracing::info_span!("step", run.id = step.run_id, step.id = step.step_id, step.uses = step.uses);
    async {
        let started = Instant::now();
        let (outcome, ending) = engine.attempt(&lease, &claimed).await;
        engine.end(&lease, &claimed, outcome, ending, started).await;
    }
    .instrument(span)
    .await;
}

impl Inner {
    /// Takes the step for this attempt, and with a suspect the right to work on one. `None`: the wake-up was stale, the
    /// lease is lost, or it is not this step's turn.
    async fn claim(&self, lease: &Lease) -> Option<(Claimed, Option<OwnedSemaphorePermit>)> {
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

    async fn try_claim(&self, lease: &Lease) -> Result<Option<(Claimed, Option<OwnedSemaphorePermit>)>> {
        let mut tx = self.db.begin().await?;
        if !self.chain.hold(&mut tx, lease).await? {
            return Ok(None);
        }
        let Some(claimed) = tx.claim_step(&lease.step_run).await? else {
            // The step has ended without its job: the job is left over.
            self.chain.acknowledge(&mut tx, lease).await?;
            tx.commit().await?;
            return Ok(None);
        };
        tx.touch_run(&claimed.step.run_id).await?;
        // A process runs at most one step that was left by a crash, so that innocents do not share its fate.
        let suspect = match claimed.step.crashes {
            0 => None,
            _ => match self.suspects.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let due_at = clock::now() + SUSPECT_PAUSE.as_millis() as i64;
                    self.chain.postpone(&mut tx, lease, due_at).await?;
                    tx.end_step(&lease.step_run, claimed.step.claims, None, &Ending::Park { due_at }).await?;
                    tx.commit().await?;
                    return Ok(None);
                }
            },
        };
        tx.start_run(&claimed.step.run_id).await?;
        tx.commit().await?;
        Ok(Some((claimed, suspect)))
    }

    /// Runs the step and decides how the attempt ends.
    async fn attempt(&self, lease: &Lease, claimed: &Claimed) -> (Outcome, Ending) {
        self.clean_up(claimed).await;
        let crashes = claimed.step.crashes;
        if crashes >= self.config.limits.crashes {
            let error = Error::permanent(
                "step_quarantined",
                format!("the step took its process down {crashes} times without progress"),
            )
            .hint("look at the logs of the processes that died; `limits.crashes` sets the number");
            let ending =
                Ending::Final { status: StepStatus::Quarantined, outputs: None, error: Some(error_json(&error)) };
            return (Outcome { result: Err(error), progress: None, files: Vec::new() }, ending);
        }
        let (outcome, step) = match self.compiled_step(claimed).await {
            Ok((run, compiled, index)) => {
                (self.run_step(lease, claimed, &run, &compiled, index).await, Some((compiled, index)))
            }
            Err(error) => (Outcome { result: Err(error), progress: None, files: Vec::new() }, None),
        };
        let ending = match &outcome.result {
            Ok(outputs) => Ending::Final { status: StepStatus::Succeeded, outputs: Some(outputs.clone()), error: None },
            Err(error) => {
                self.after_failure(claimed, step.as_ref().map(|(compiled, index)| &compiled.steps[*index]), error)
            }
        };
        (outcome, ending)
    }

    async fn compiled_step(&self, claimed: &Claimed) -> Result<(RunRecord, Arc<Compiled>, usize)> {
        let step = &claimed.step;
        let run =
            self.db.run(&step.run_id).await?.ok_or_else(|| Error::permanent("run_not_found", "the run is gone"))?;
        let compiled = self.compiled(&run.digest).await?;
        let index = compiled.position(&step.step_id);
        index
            .map(|index| (run, compiled, index))
            .ok_or_else(|| Error::permanent("definition_invalid", "the step is not in its definition"))
    }

    async fn run_step(
        &self,
        lease: &Lease,
        claimed: &Claimed,
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
        let files = self.files(claimed);
        let prepared = async {
            let known = &compiled.steps[index];
            let scope = self.scope(run, compiled, known.section).await?;
            pipeline::resolve(&known.step.with, &scope)
        };
        let with = match prepared.await {
            Ok(with) => with,
            Err(error) => return Outcome { result: Err(error), progress: None, files: Vec::new() },
        };
        let timeout = Duration::from_millis(compiled.steps[index].step.timeout_ms.max(0) as u64);
        let ctx = Context {
            run: RunFacts {
                id: step.run_id.clone(),
                url: run_url(&self.base_url, &step.run_id),
                pipeline: compiled.plan.name.clone(),
            },
            step: StepFacts {
                id: step.step_id.clone(),
                attempt: step.failures + 1,
                key: format!("{}/{}", step.run_id, step.step_id),
                epoch: step.claims,
            },
            progress,
            stop: stop.clone(),
            objects: self.objects.clone(),
            files: files.clone(),
            connections: self.connections.clone(),
            mail: self.mail.clone(),
            links: self.links(),
            effects: Arc::new(super::effects::Journal::new(self.db.clone(), &step.run_id, &step.step_id)),
        };
        let before: Option<ProgressView> = step.progress.clone().and_then(|view| serde_json::from_value(view).ok());
        let gauge = Gauge::new(before.as_ref());
        // A task of its own: a panic of the step ends there, and it can be aborted.
        #[expect(clippy::disallowed_methods, reason = "`supervise` waits for it or aborts it")]
        let run = match self.steps.iter().find(|kind| kind.name() == step.uses) {
            Some(kind) => tokio::spawn(kind.run(with, ctx).in_current_span()),
            None => {
                let error = Error::permanent("not_supported_yet", format!("this version does not run `{}`", step.uses));
                return Outcome { result: Err(error), progress: None, files: Vec::new() };
            }
        };
        let ended = CancellationToken::new();
        let store = self.store_progress(claimed, &gauge, reports.clone(), &stop, &ended);
        let supervised = async {
            let result = self.supervise(run, timeout, &stop).await;
            ended.cancel();
            result
        };
        let (result, ()) = tokio::select! {
            done = async { tokio::join!(supervised, store) } => done,
            () = fence => unreachable!("the fence only stops the step"),
        };
        let last = reports.borrow().clone();
        let progress = (last != Report::default()).then(|| gauge.view(&last));
        Outcome { result, progress, files: files.made() }
    }

    /// Links that open without a key, for people.
    fn links(&self) -> FileLinks {
        let (base_url, signer) = (self.base_url.clone(), self.signer.clone());
        FileLinks::new(move |id| artifact_link(&base_url, &signer, id))
    }

    fn files(&self, claimed: &Claimed) -> Files {
        let step = &claimed.step;
        let prefix = format!("{}{}/", files_prefix(&step.run_id, &step.step_id), step.claims);
        Files::new(self.objects.clone(), self.config.objects.artifacts.clone(), prefix, self.base_url.clone())
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
        let mut tx = self.db.begin().await?;
        let held = tx.move_step(&claimed.step.id, claimed.step.claims, view, moved).await?;
        if held {
            tx.touch_run(&claimed.step.run_id).await?;
            tx.commit().await?;
        }
        Ok(held)
    }

    fn after_failure(&self, claimed: &Claimed, step: Option<&CompiledStep>, error: &Error) -> Ending {
        if error.class() == Class::Stopped && self.draining.is_cancelled() {
            return Ending::Park { due_at: clock::now() };
        }
        let failures = claimed.step.failures + 1;
        let again = error.class() != Class::Permanent;
        match step.map(|known| &known.step.retry) {
            Some(retry) if again && failures < retry.attempts => {
                let wait = error.wait().unwrap_or_default().max(backoff(retry, failures, rand::rng().random()));
                Ending::Retry { error: error_json(error), due_at: clock::now() + wait.as_millis() as i64 }
            }
            // Without its definition at hand the step cannot know its retries; a database that was away comes back.
            None if again => Ending::Park { due_at: clock::now() + 1000 },
            _ => Ending::Final { status: StepStatus::Failed, outputs: None, error: Some(error_json(error)) },
        }
    }

    /// Ends the attempt in one transaction, however long the database is away.
    async fn end(&self, lease: &Lease, claimed: &Claimed, outcome: Outcome, ending: Ending, started: Instant) {
        let mut uncertain = false;
        let held = loop {
            let tried = match self.try_end(lease, claimed, &outcome, &ending).await {
                // A commit whose answer was lost may have been ours.
                Ok(false) if uncertain => self.has_ended(claimed).await,
                tried => tried,
            };
            match tried {
                Ok(held) => break held,
                Err(error) => {
                    uncertain = true;
                    self.pause(&error, "ending a step").await;
                }
            }
        };
        if !held || outcome.result.is_err() {
            for file in &outcome.files {
                if let Err(error) = self.objects.delete(&file.bucket, &file.key).await {
                    warn!(error.code = error.code(), "a file of a failed attempt was not deleted: {error}");
                }
            }
        }
        let duration_ms = started.elapsed().as_millis() as u64;
        match (&ending, &outcome.result) {
            _ if !held => warn!(duration_ms, "the step's lease was lost; nothing of this attempt was kept"),
            (Ending::Park { .. }, _) => info!(duration_ms, "step parked"),
            (_, Ok(_)) => info!(duration_ms, "step succeeded"),
            (Ending::Retry { due_at, .. }, Err(error)) => {
                warn!(
                    duration_ms,
                    error.code = error.code(),
                    retry_at = clock::rfc3339(*due_at),
                    "step failed and will be tried again: {error}"
                );
            }
            (_, Err(error)) => warn!(duration_ms, error.code = error.code(), "step failed: {error}"),
        }
    }

    /// True if this very claim has left the step's running state.
    async fn has_ended(&self, claimed: &Claimed) -> Result<bool> {
        let now = self.db.step(&claimed.step.id).await?;
        Ok(now.is_some_and(|now| now.claims == claimed.step.claims && now.status != StepStatus::Running))
    }

    /// True: written. False: the lease is lost, nothing was written.
    async fn try_end(&self, lease: &Lease, claimed: &Claimed, outcome: &Outcome, ending: &Ending) -> Result<bool> {
        let step = &claimed.step;
        let progress = outcome.progress.as_ref().map(|view| json!(view));
        let mut tx = self.db.begin().await?;
        let held = match ending {
            Ending::Final { .. } => self.chain.acknowledge(&mut tx, lease).await?,
            Ending::Retry { due_at, .. } | Ending::Park { due_at } => {
                self.chain.postpone(&mut tx, lease, *due_at).await?
            }
        };
        if !held || !tx.end_step(&step.id, claimed.step.claims, progress.as_ref(), ending).await? {
            return Ok(false);
        }
        let run = tx.touch_run(&step.run_id).await?;
        let mut wake = vec![step.queue.clone()];
        if let Ending::Final { status, .. } = ending {
            if *status == StepStatus::Succeeded {
                for file in &outcome.files {
                    let id = file.artifact_id.as_deref().unwrap_or_default();
                    tx.insert_artifact(id, &step.run_id, Some(&step.step_id), &json!(file)).await?;
                }
            }
            match self.advance(&mut tx, &run).await {
                Ok(queues) => wake.extend(queues),
                // The step has ended all the same; of the run this version cannot say what comes next.
                Err(error) if error.code().starts_with("definition_") => {
                    tx.abandon_run(&run.id, &error_json(&error)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        tx.commit().await?;
        wake.iter().for_each(|queue| self.chain.wake(queue));
        Ok(true)
    }

    /// Removes what attempts before wrote and never published. That it fails is no reason not to work.
    async fn clean_up(&self, claimed: &Claimed) {
        let step = &claimed.step;
        if step.claims > 1 {
            let prefix = files_prefix(&step.run_id, &step.step_id);
            if let Err(error) = self.objects.delete_prefix(&self.config.objects.artifacts, &prefix).await {
                warn!(error.code = error.code(), "files of an earlier attempt were not removed: {error}");
            }
        }
    }

    async fn pause(&self, error: &Error, doing: &str) {
        warn!(error.code = error.code(), "{doing} failed and will be tried again: {error}");
        tokio::time::sleep(DATABASE_PAUSE).await;
    }
}

fn files_prefix(run: &str, step: &str) -> String {
    format!("runs/{run}/{step}/")
}

/// An error as runs and steps store it.
pub(super) fn error_json(error: &Error) -> Value {
    let mut json = json!({ "code": error.code(), "message": error.message() });
    if let Some(hint) = error.hint_text() {
        json["hint"] = hint.into();
    }
    if let Some(details) = error.facts() {
        json["details"] = details.clone();
    }
    json
}
