//! Applies what the machine says: in the transaction that ends a step, or that accepts a run.

use serde_json::json;

use super::Inner;
use super::chain::Push;
use super::compiled::Compiled;
use super::end::error_json;
use super::machine::{self, Change, Node};
use crate::clock;
use crate::error::Result;
use crate::store::{RunRecord, StepRecord, StepStatus, Tx};

impl Inner {
    /// Moves what can move in a run and gives the queues to wake after the commit.
    pub(super) async fn advance(&self, tx: &mut Tx, run: &RunRecord) -> Result<Vec<String>> {
        let compiled = self.compiled_in(tx, &run.digest).await?;
        let mut steps = tx.steps(&run.id).await?;
        let mut nodes = nodes(&compiled, &steps);
        let advance = machine::advance(&mut nodes, run.cancel_requested_at.is_some(), |index, nodes| {
            let step = &compiled.steps[index];
            let Some(condition) = &step.condition else { return Ok(true) };
            let statuses: Vec<_> = nodes.iter().map(|node| node.status).collect();
            condition.holds(&self.scope_of(run, &compiled, &steps, &statuses, step.section))
        });
        let mut wake = Vec::new();
        for (index, change) in &advance.changes {
            let error = if let Change::Fail(error) = change { Some(error_json(error)) } else { None };
            let step = &mut steps[*index];
            // Only the first steps of a run can have to wait for its time; later ones come after it.
            let due_at = run.run_at.filter(|due| matches!(change, Change::Queue) && *due > clock::now());
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
        if let Some(status) = advance.ended {
            tx.finish_run(&run.id, status).await?;
        }
        Ok(wake)
    }
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
