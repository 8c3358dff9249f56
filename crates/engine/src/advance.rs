//! Applies what the machine says: in the transaction that ends a step, or that accepts a run.

use std::collections::HashMap;

use serde_json::json;

use super::Inner;
use super::compiled::Compiled;
use super::end::error_json;
use super::machine::{self, Change, Node};
use afterload_core::clock::{self, Millis};
use afterload_core::error::{Error, Result};
use afterload_core::units::Duration;
use afterload_pipeline::{Scope, resolve_to_text};
use afterload_state::queue::Push;
use afterload_state::{RunRecord, RunStatus, StepRecord, StepStatus, Tx};

/// What has moved in a run; [`Inner::moved`] tells of it after the commit.
#[derive(Default)]
pub(super) struct Moves {
    /// The queues with new jobs.
    pub wake: Vec<String>,
    /// How the run has ended, if it has.
    pub ended: Option<RunStatus>,
    /// Whether somebody has to be told of that.
    pub notify: bool,
    /// Runs that waited for room and begin now, with what has moved in each.
    pub released: Vec<(RunRecord, Moves)>,
}

impl Moves {
    /// What has moved in the same run after this.
    pub fn add(&mut self, more: Self) {
        let Self { wake, ended, notify, released } = more;
        self.wake.extend(wake);
        self.ended = self.ended.or(ended);
        self.notify |= notify;
        self.released.extend(released);
    }
}

impl Inner {
    /// Tells those who wait for it what a commit has moved.
    pub(super) fn moved(&self, run: &RunRecord, moves: &Moves) {
        self.changed(run);
        moves.wake.iter().for_each(|queue| self.chain.wake(queue));
        if moves.notify {
            self.ended.notify_one();
        }
        if let Some(status) = moves.ended {
            self.metrics.run_ended(&run.pipeline, status.as_str());
            tracing::info!(run.id = run.id, pipeline.name = run.pipeline, run.status = status.as_str(), "run ended");
        }
        moves.released.iter().for_each(|(run, moves)| self.moved(run, moves));
    }

    /// Moves what can move in a run that is under way, without a look at those that wait for its end: `advance` has it.
    pub(super) async fn advance_alone(&self, tx: &mut Tx, run: &RunRecord) -> Result<Moves> {
        let compiled = self.compiled_in(tx, &run.digest).await?;
        let mut steps = tx.steps(&run.id).await?;
        let mut nodes = nodes(&compiled, &steps);
        let mut delays = HashMap::new();
        let advance = machine::advance(&mut nodes, run.cancel_requested_at.is_some(), |index, nodes| {
            let step = &compiled.steps[index];
            if step.condition.is_none() && step.step.delay.is_none() {
                return Ok(true);
            }
            let statuses: Vec<_> = nodes.iter().map(|node| node.status).collect();
            let scope = self.scope_of(run, &compiled, &steps, &statuses, step.section);
            let holds = step.condition.as_ref().map_or(Ok(true), |condition| condition.holds(&scope))?;
            if let Some(delay) = step.step.delay.as_ref().filter(|_| holds) {
                delays.insert(index, length(delay, &scope)?);
            }
            Ok(holds)
        });
        let mut wake = Vec::new();
        for (index, change) in &advance.changes {
            let error = match change {
                Change::Fail(error) => Some(error_json(&self.redactor.redact_error(error.clone()))),
                _ => None,
            };
            let step = &mut steps[*index];
            let due_at = matches!(change, Change::Queue).then(|| due(run, delays.get(index).copied())).flatten();
            tx.release_step(&step.id, change.status(), error.as_ref(), due_at).await?;
            step.status = change.status();
            step.error = error;
            if let Change::Queue = change {
                let push = Push { step_run: &step.id, queue: &step.queue, priority: step.priority, due_at };
                self.chain.push(tx, &[push]).await?;
                wake.push(step.queue.clone());
            }
        }
        if let Some(blame) = blame(&compiled, &steps).filter(|_| run.cancel_requested_at.is_none()) {
            tx.blame_run(&run.id, &blame).await?;
        }
        let notify = match advance.ended {
            Some(status) => tx.finish_run(&run.id, status).await?,
            None => false,
        };
        Ok(Moves { wake, ended: advance.ended, notify, released: Vec::new() })
    }
}

/// When a step that is ready now may start; `None`: at once. Only the first steps of a run can have to wait for its time:
/// later ones come after it.
fn due(run: &RunRecord, delay: Option<Millis>) -> Option<Millis> {
    let now = clock::now();
    let due = run.run_at.unwrap_or(now).max(now).saturating_add(delay.unwrap_or(0));
    (due > now).then_some(due)
}

/// A `delay` in milliseconds.
fn length(delay: &str, scope: &Scope) -> Result<Millis> {
    let text = resolve_to_text(delay, scope)?;
    let length = text.parse::<Duration>().map_err(|why| Error::permanent("delay_invalid", why))?;
    Ok(length.millis())
}

/// The steps as the machine sees them. Both lists are in the order of the definition.
fn nodes<'a>(compiled: &'a Compiled, steps: &[StepRecord]) -> Vec<Node<'a>> {
    let pairs = compiled.steps.iter().zip(steps);
    pairs
        .map(|(known, step)| Node {
            id: &known.step.id,
            section: known.section,
            needs: &known.step.needs,
            continue_on_error: known.step.continue_on_error,
            status: step.status,
        })
        .collect()
}

/// Why the run fails: the error of the first step that failed and is not forgiven.
pub(super) fn blame(compiled: &Compiled, steps: &[StepRecord]) -> Option<serde_json::Value> {
    let failed = |status| matches!(status, StepStatus::Failed | StepStatus::Quarantined);
    let pairs = compiled.steps.iter().zip(steps);
    let (_, step) = pairs.into_iter().find(|(known, step)| failed(step.status) && !known.step.continue_on_error)?;
    let mut error = step.error.clone().unwrap_or_else(|| json!({}));
    error["step"] = step.step_id.clone().into();
    Some(error)
}
