//! Applies the state machine to a run, in the transaction that ends a step or accepts the run.

use crate::codes;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::expr_context::ContextBuilder;
use crate::plan_cache::{CompiledPlan, PlanCache};
use crate::run_errors::{error_to_json, run_error};
use crate::run_watch::RunWatches;
use crate::state_machine::{self, StepChange, StepNode};
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::redactor::Redactor;
use afterload_core::units::HumanDuration;
use afterload_metrics::Metrics;
use afterload_pipeline::{ExprContext, resolve_to_text};
use afterload_state::queue::{HandedStep, JobQueue, Lease, NewJob};
use afterload_state::{DbTx, RunRecord, RunStatus, StepRecord, StepStatus};

/// The effects of a transaction on a run. [`TransitionPublisher`] publishes them after the commit.
#[derive(Default)]
pub(crate) struct Transition {
    /// The queues that got new jobs.
    pub queues_to_wake: Vec<String>,
    /// The final status, if the run has ended.
    pub ended: Option<RunStatus>,
    /// True if a notification about the end of the run is due.
    pub notify: bool,
    /// Runs that waited for a slot and start now, each with its own transition.
    pub admitted: Vec<(RunRecord, Transition)>,
    /// The step that the worker of the ended one has taken over.
    pub handed: Option<HandedStep>,
}

impl Transition {
    /// Adds a later transition of the same run.
    pub fn merge(&mut self, more: Self) {
        let Self { queues_to_wake: wake, ended, notify, admitted: released, handed } = more;
        self.queues_to_wake.extend(wake);
        self.ended = self.ended.or(ended);
        self.notify |= notify;
        self.admitted.extend(released);
        self.handed = self.handed.take().or(handed);
    }
}

/// Publishes transitions to watchers, workers and metrics.
#[derive(Clone)]
pub(crate) struct TransitionPublisher {
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) watches: Arc<RunWatches>,
    pub(crate) metrics: Metrics,
    /// Wakes the notifier when a notification is due.
    pub(crate) notification_due: Arc<Notify>,
}

impl TransitionPublisher {
    /// Publishes a transition. Call it after the commit, so that nobody sees uncommitted state.
    pub(crate) fn after_commit(&self, run: &RunRecord, moves: &Transition) {
        self.watches.publish_run_change(run);
        moves.queues_to_wake.iter().for_each(|queue| self.queue.announce_jobs(queue));
        if moves.notify {
            self.notification_due.notify_one();
        }
        if let Some(status) = moves.ended {
            self.metrics.count_ended_run(&run.pipeline, status.as_str());
            tracing::info!(run.id = run.id, pipeline.name = run.pipeline, run.status = status.as_str(), "run ended");
        }
        moves.admitted.iter().for_each(|(run, moves)| self.after_commit(run, moves));
    }
}

#[derive(Clone)]
pub(crate) struct StepAdvancer {
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) contexts: ContextBuilder,
    pub(crate) redactor: Redactor,
}

impl StepAdvancer {
    /// Advances the steps of an active run. Waiting runs are admitted by [`crate::lifecycle::admit::Admission`]. `heir` is
    /// the lease of a step that ends in this transaction, if its worker may take over the next step.
    pub(crate) async fn advance_steps(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        heir: Option<&Lease>,
    ) -> Result<Transition> {
        let compiled = self.plans.load_plan_in(tx, &run.digest).await?;
        let mut steps = tx.steps().list(&run.id).await?;
        let mut nodes = step_nodes(&compiled, &steps);
        let mut delays = HashMap::new();
        let advance = state_machine::advance_nodes(&mut nodes, run.stop(), |index, nodes| {
            let step = &compiled.steps[index];
            // Without a condition or delay the context is not needed, so it is not built.
            if step.condition.is_none() && step.step.delay.is_none() {
                return Ok(true);
            }
            let statuses: Vec<_> = nodes.iter().map(|node| node.status).collect();
            let scope = self.contexts.build_expr_context(run, &compiled, &steps, &statuses, step.section);
            let holds = step.condition.as_ref().map_or(Ok(true), |condition| condition.is_met(&scope))?;
            if let Some(delay) = step.step.delay.as_ref().filter(|_| holds) {
                delays.insert(index, parse_delay(delay, &scope)?);
            }
            Ok(holds)
        });
        let (mut wake, mut handed, now) = (Vec::new(), None, tx.now());
        for (index, change) in &advance.changes {
            let error = match change {
                StepChange::Fail(error) => Some(error_to_json(&self.redactor.redact_error(error.clone()))),
                _ => None,
            };
            let step = &mut steps[*index];
            let due_at = matches!(change, StepChange::Queue)
                .then(|| step_due_at(run, delays.get(index).copied(), now))
                .flatten();
            let starts_now = matches!(change, StepChange::Queue)
                && due_at.is_none()
                && compiled.steps[*index].step.rate_limit.is_none();
            if let Some(lease) = heir.filter(|_| starts_now && handed.is_none()) {
                handed = self.queue.hand_over(tx, lease, step).await?;
                if handed.is_some() {
                    step.status = StepStatus::Running;
                    continue;
                }
            }
            tx.steps().release(&step.id, change.target_status(), error.as_ref(), due_at).await?;
            step.status = change.target_status();
            step.error = error;
            if let StepChange::Queue = change {
                let push = NewJob { step_run: &step.id, queue: &step.queue, priority: step.priority, due_at };
                self.queue.enqueue_jobs(tx, &[push]).await?;
                wake.push(step.queue.clone());
            }
        }
        // A timeout has stored its error, whatever fails before or after it.
        if let Some(blame) = run_error(&compiled, &steps).filter(|_| run.stop().is_none()) {
            tx.runs().set_error(&run.id, &blame).await?;
        }
        let notify = match advance.ended {
            Some(status) => tx.runs().finish(&run.id, status).await?,
            None => false,
        };
        Ok(Transition { queues_to_wake: wake, ended: advance.ended, notify, admitted: Vec::new(), handed })
    }
}

/// When a step that is ready may start; `None`: at once. Only the first steps of a run can be ready before its
/// `run_at`.
fn step_due_at(run: &RunRecord, delay: Option<UnixMillis>, now: UnixMillis) -> Option<UnixMillis> {
    let due = run.run_at.unwrap_or(now).max(now).saturating_add(delay.unwrap_or(0));
    (due > now).then_some(due)
}

/// Evaluates a `delay` to milliseconds.
fn parse_delay(delay: &str, scope: &ExprContext) -> Result<UnixMillis> {
    let text = resolve_to_text(delay, scope)?;
    let length = text
        .parse::<HumanDuration>()
        .map_err(|fault| Error::new(codes::DELAY_INVALID, format!("the `delay` of the step: {fault}")))?;
    Ok(length.as_millis())
}

/// The nodes of the state machine. Both lists are in the order of the definition.
fn step_nodes<'a>(compiled: &'a CompiledPlan, steps: &[StepRecord]) -> Vec<StepNode<'a>> {
    let pairs = compiled.steps.iter().zip(steps);
    pairs
        .map(|(known, step)| StepNode {
            id: &known.step.id,
            section: known.section,
            needs: &known.step.needs,
            continue_on_error: known.step.continue_on_error,
            status: step.status,
        })
        .collect()
}
