//! Steps with `for_each`: one row and one job per item, a few at a time, and the join.
//!
//! The attempt of the step itself only finds out its items. With its end their rows are written and the first are pushed;
//! from then on nobody works on the step: each end of an item pushes the next one, and the last one ends the step, in its
//! own transaction. All of it happens under the lock of the run's row, so that no two ends miss one another.

use serde_json::{Value, json};
use ulid::Ulid;

use super::Inner;
use super::advance::Moves;
use afterload_core::error::{Error, Result};
use afterload_pipeline::plan::ForEach;
use afterload_pipeline::{self as pipeline, Scope, Section};
use afterload_state::queue::Push;
use afterload_state::{EndedItem, NewItem, RunRecord, StepRecord, StepStatus, Tx};

/// So many failed items the error of a step names.
const NAMED: usize = 10;

/// What a step fans out to.
#[derive(Clone, Debug)]
pub(super) struct Fan {
    items: Vec<Value>,
    side_by_side: u32,
}

impl Fan {
    /// Finds out the items.
    ///
    /// # Errors
    /// `expression_failed`; `items_invalid` for what is no list, `too_many_items` for a list that is too long.
    pub fn new(for_each: &ForEach, scope: &Scope) -> Result<Self> {
        let most = ForEach::MOST_ITEMS;
        match pipeline::resolve(&for_each.items, scope)? {
            Value::Array(items) if items.len() <= most => Ok(Self { items, side_by_side: for_each.max_concurrency }),
            Value::Array(items) => {
                let message = format!("`for_each` has {} items, more than {most}", items.len());
                Err(Error::permanent("too_many_items", message)
                    .hint("what is larger is one step that works in chunks, such as `notify.fanout` or `sql.batch`"))
            }
            other => Err(Error::permanent("items_invalid", "the `items` of `for_each` are no list")
                .hint(format!("the expression gave {}", kind_of(&other)))),
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Inner {
    /// Writes the items of a step, whose attempt ends in this transaction, and pushes the first of them. In a run that goes
    /// on after a failure, items that had succeeded stay as they are.
    pub(super) async fn fan_out(&self, tx: &mut Tx, run: &RunRecord, step: &StepRecord, fan: &Fan) -> Result<Moves> {
        let known = tx.items(&step.id).await?;
        let (mut new, mut done) = (Vec::new(), 0);
        for (index, item) in (0..).zip(&fan.items) {
            let round = match known.get(index as usize) {
                Some(known) if known.item.as_ref() == Some(item) => {
                    match is_good(known.status) {
                        true => done += 1,
                        false => tx.reset_step(&known.id).await?,
                    }
                    continue;
                }
                Some(known) => {
                    tx.delete_item(&known.id).await?;
                    known.round + 1
                }
                None => step.round,
            };
            new.push(NewItem { id: Ulid::generate().to_string(), index, item, round });
        }
        for gone in known.iter().skip(fan.items.len()) {
            tx.delete_item(&gone.id).await?;
        }
        tx.insert_items(step, &new).await?;
        tx.begin_items(&step.id, fan.items.len() as i64, done).await?;
        self.go_on(tx, run, (&step.id, &step.section), fan.side_by_side).await
    }

    /// Counts an item that has ended, and pushes the next, or ends its step with the last.
    pub(super) async fn join(
        &self,
        tx: &mut Tx,
        run: &RunRecord,
        (item, parent): (&StepRecord, &str),
        status: StepStatus,
    ) -> Result<Moves> {
        tx.count_item(parent, !is_good(status)).await?;
        self.go_on(tx, run, (parent, &item.section), 1).await
    }

    /// Pushes the next items of a step. If none is left and none is under way, the step ends, and the run goes on. In a run
    /// that is asked to stop nothing is begun.
    pub(super) async fn go_on(
        &self,
        tx: &mut Tx,
        run: &RunRecord,
        (parent, section): (&str, &str),
        most: u32,
    ) -> Result<Moves> {
        let stopping = run.cancel_requested_at.is_some() && section != Section::Finally.field();
        if stopping {
            tx.cancel_waiting_items(parent).await?;
        }
        let next = tx.waiting_items(parent, most).await?;
        let mut wake = Vec::new();
        for item in next {
            tx.release_step(&item.id, StepStatus::Queued, None, None).await?;
            let push = Push { step_run: &item.id, queue: &item.queue, priority: item.priority, due_at: None };
            self.chain.push(tx, &[push]).await?;
            wake.push(item.queue);
        }
        if !wake.is_empty() || tx.has_open_items(parent).await? {
            return Ok(Moves { wake, ..Moves::default() });
        }
        let items = tx.ended_items(parent).await?;
        let outputs: Vec<_> = items.iter().map(|item| item.outputs.clone().unwrap_or_default()).collect();
        let error = failed(&items);
        let status = match (&error, stopping) {
            (None, _) => StepStatus::Succeeded,
            (Some(_), true) => StepStatus::Cancelled,
            (Some(_), false) => StepStatus::Failed,
        };
        tx.join_step(parent, status, &json!({ ForEach::OUTPUT: outputs }), error.as_ref()).await?;
        self.advance(tx, run).await
    }
}

/// An item that was skipped, such as for a row that is gone, is no failure.
fn is_good(status: StepStatus) -> bool {
    matches!(status, StepStatus::Succeeded | StepStatus::Skipped)
}

/// What a step says of the items that did not succeed; `None` if all did.
fn failed(items: &[EndedItem]) -> Option<Value> {
    let failed: Vec<_> = items.iter().filter(|item| !is_good(item.status)).collect();
    let first = failed.first()?;
    let text = |item: &EndedItem, field: &str| item.error.as_ref().and_then(|error| error.get(field)).cloned();
    let why = text(first, "message").unwrap_or_else(|| first.status.as_str().into());
    let message = format!(
        "{} of {} items did not succeed; the first is item {}: {}",
        failed.len(),
        items.len(),
        first.index,
        why.as_str().unwrap_or_default()
    );
    let named = failed.iter().take(NAMED).map(|item| {
        json!({ "index": item.index, "status": item.status.as_str(), "code": text(item, "code"), "message": text(item, "message") })
    });
    Some(json!({ "code": "items_failed", "message": message, "details": { "items": named.collect::<Vec<_>>() } }))
}
