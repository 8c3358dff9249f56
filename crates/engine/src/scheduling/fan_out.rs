//! Fan-outs of `for_each`: one step row and one job per item, limited concurrency, and the join.
//!
//! The attempt of the step only creates the items. Its end stores them and enqueues the first ones. Each item that ends
//! enqueues the next one, and the last one ends the step in its own transaction. All of this holds the lock of the run
//! row, so that two items that end at once see each other.

use crate::codes;
use std::sync::Arc;

use serde_json::{Value, json};
use ulid::Ulid;

use afterload_core::error::{Error, Result};
use afterload_core::file_seals::FileSeals;
use afterload_core::redactor::Redactor;
use afterload_pipeline::plan::ForEach;
use afterload_pipeline::{self as pipeline, ExprContext};
use afterload_state::queue::{JobQueue, NewJob};
use afterload_state::{DbTx, EndedItem, NewItem, RunRecord, StepRecord, StepStatus};

/// The maximum number of failed items in the error of a step.
const MAX_NAMED_ITEMS: usize = 10;

/// The items of a step and their concurrency.
#[derive(Clone, Debug)]
pub(crate) struct FanOut {
    items: Vec<Value>,
    /// The seals of the files in the items.
    file_seals: FileSeals,
    max_concurrency: u32,
}

impl FanOut {
    /// Evaluates the items. `file_seals` are those of the files that the expression can read.
    ///
    /// # Errors
    /// `expression_failed`; `items_invalid` if the value is not a list or holds a secret; `too_many_items` if it is too
    /// long.
    pub fn new(for_each: &ForEach, scope: &ExprContext, file_seals: FileSeals, redactor: &Redactor) -> Result<Self> {
        let most = ForEach::MAX_ITEMS;
        match pipeline::resolve(&for_each.items, scope)? {
            // Items are stored, and a step that works on stars instead of the value would do harm.
            items if redactor.finds_secret(&items) => {
                Err(Error::new(codes::ITEMS_INVALID, "the `items` of `for_each` hold a secret, and items are stored")
                    .with_hint("name the secret in `with`, as `${{ secrets.NAME }}`"))
            }
            Value::Array(items) if items.len() <= most => {
                Ok(Self { items, file_seals, max_concurrency: for_each.max_concurrency })
            }
            Value::Array(items) => {
                let message = format!("`for_each` has {} items, more than {most}", items.len());
                Err(Error::new(codes::TOO_MANY_ITEMS, message))
            }
            other => Err(Error::new(codes::ITEMS_INVALID, "the `items` of `for_each` are no list")
                .with_hint(format!("the expression gave {}", json_type_name(&other)))),
        }
    }
}

fn json_type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The state of a fan-out after items were enqueued.
pub(crate) struct EnqueuedItems {
    /// The queues that got new jobs.
    pub(crate) queues_to_wake: Vec<String>,
    /// True if the last item has ended, and the step with it.
    pub(crate) step_ended: bool,
}

/// The step that items belong to.
#[derive(Clone, Copy)]
pub(crate) struct FanOutStep<'a> {
    pub(crate) id: &'a str,
    pub(crate) section: &'a str,
}

impl<'a> FanOutStep<'a> {
    pub(crate) fn from_record(step: &'a StepRecord) -> Self {
        Self { id: &step.id, section: &step.section }
    }
}

/// Stores the items of steps and enqueues them with limited concurrency.
#[derive(Clone)]
pub(crate) struct ItemScheduler {
    pub(crate) queue: Arc<JobQueue>,
}

impl ItemScheduler {
    /// Stores the items of a step whose attempt ends in this transaction, and enqueues the first ones. In a retried run
    /// items that succeeded keep their results.
    pub(crate) async fn start_fan_out(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        step: &StepRecord,
        fan: &FanOut,
    ) -> Result<EnqueuedItems> {
        let known = tx.items().list(&step.id).await?;
        let (mut new, mut done) = (Vec::new(), 0);
        for (index, item) in (0..).zip(&fan.items) {
            let round = match known.get(index as usize) {
                Some(known) if known.item.as_ref() == Some(item) => {
                    match counts_as_success(known.status) {
                        true => done += 1,
                        false => tx.steps().reset(&known.id).await?,
                    }
                    continue;
                }
                Some(known) => {
                    tx.items().delete(&known.id).await?;
                    known.round + 1
                }
                None => step.round,
            };
            new.push(NewItem { id: Ulid::generate().to_string(), index, item, round });
        }
        for gone in known.iter().skip(fan.items.len()) {
            tx.items().delete(&gone.id).await?;
        }
        tx.items().insert(step, &new, &fan.file_seals).await?;
        tx.items().init_counts(&step.id, fan.items.len() as i64, done).await?;
        self.enqueue_next_items(tx, run, FanOutStep::from_record(step), fan.max_concurrency).await
    }

    /// Counts an item that has ended. Enqueues the next one, or ends the step after the last one.
    pub(crate) async fn item_finished(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        item: &StepRecord,
        parent: &str,
        status: StepStatus,
    ) -> Result<EnqueuedItems> {
        tx.items().count_ended(parent, !counts_as_success(status)).await?;
        self.enqueue_next_items(tx, run, FanOutStep { id: parent, section: &item.section }, 1).await
    }

    /// Enqueues the next items of a step, unless the run stops its steps. The step ends if no item waits or runs.
    pub(crate) async fn enqueue_next_items(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        step: FanOutStep<'_>,
        most: u32,
    ) -> Result<EnqueuedItems> {
        let FanOutStep { id: parent, section } = step;
        let stopping = run.stop().is_some_and(|stop| stop.stops_section(section));
        if stopping {
            tx.items().cancel_waiting(parent).await?;
        }
        let next = tx.items().list_waiting(parent, most).await?;
        let mut wake = Vec::new();
        for item in next {
            tx.steps().release(&item.id, StepStatus::Queued, None, None).await?;
            let push = NewJob { step_run: &item.id, queue: &item.queue, priority: item.priority, due_at: None };
            self.queue.enqueue_jobs(tx, &[push]).await?;
            wake.push(item.queue);
        }
        if !wake.is_empty() || tx.items().has_open(parent).await? {
            return Ok(EnqueuedItems { queues_to_wake: wake, step_ended: false });
        }
        let items = tx.items().list_ended(parent).await?;
        let outputs: Vec<_> = items.iter().map(|item| item.outputs.clone().unwrap_or_default()).collect();
        let error = items_error(&items);
        let status = match (&error, stopping) {
            (None, _) => StepStatus::Succeeded,
            (Some(_), true) => StepStatus::Cancelled,
            (Some(_), false) => StepStatus::Failed,
        };
        tx.steps().finish_fan_out(parent, status, &json!({ ForEach::OUTPUT_NAME: outputs }), error.as_ref()).await?;
        Ok(EnqueuedItems { queues_to_wake: wake, step_ended: true })
    }
}

/// A skipped item is not a failure, such as one whose row no longer exists.
fn counts_as_success(status: StepStatus) -> bool {
    matches!(status, StepStatus::Succeeded | StepStatus::Skipped)
}

/// The error of a step whose items did not all succeed; `None` if all did.
fn items_error(items: &[EndedItem]) -> Option<Value> {
    let failed: Vec<_> = items.iter().filter(|item| !counts_as_success(item.status)).collect();
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
    let named = failed.iter().take(MAX_NAMED_ITEMS).map(|item| {
        json!({ "index": item.index, "status": item.status.as_str(), "code": text(item, "code"), "message": text(item, "message") })
    });
    Some(json!({ "code": "items_failed", "message": message, "details": { "items": named.collect::<Vec<_>>() } }))
}
