//! Starts the runs of batches that are due.
//!
//! A batch is closed before its events are read, so that none joins it later. Its run has the id of the batch and a dedup
//! key of its own: of several processes, and after a crash, one start counts. Then the batch is deleted.

use serde_json::{Map, Value};

use super::TriggerDeps;
use super::accept::S3_SOURCE;
use super::batches::{event_trigger_key, s3_trigger_key};
use super::publish_event::EVENT_SOURCE;
use super::start_run::TriggeredRun;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::failpoint;
use afterload_engine::{DedupKey, LivePlan};
use afterload_pipeline::Trigger;
use afterload_state::EventBatchRecord;

/// The source of the dedup keys of batches.
pub const BATCH_SOURCE: &str = "batch";
/// The maximum number of batches that are read at once.
const MAX_DUE_BATCHES: u32 = 100;
/// How long after a failed start the next one is tried, such as for a pipeline that is gone.
const RETRY_DELAY_MS: UnixMillis = 60_000;
/// How long a batch is kept whose run cannot be started.
const UNSTARTED_RETENTION_MS: UnixMillis = 7 * 86_400_000;

/// Starts the runs of all batches that are due.
pub async fn start_due_batches(deps: &TriggerDeps) -> Result<()> {
    loop {
        let due = deps.engine.db().event_batches().list_due(MAX_DUE_BATCHES).await?;
        if due.is_empty() {
            return Ok(());
        }
        let live = deps.engine.list_live_plans().await?;
        for batch in &due {
            deps.start_batch(batch, &live).await?;
        }
    }
}

impl TriggerDeps {
    /// Starts the run of a batch, unless another event has put it off.
    async fn start_batch(&self, batch: &EventBatchRecord, live: &[LivePlan]) -> Result<()> {
        let batches = self.engine.db().event_batches();
        if !batches.close_due(&batch.id).await? {
            return Ok(());
        }
        failpoint!("batch.closed");
        let (items, file_seals) = batches.list_items(&batch.id).await?;
        // Another process has just started the run.
        let Some(event) = batch_event(items) else { return batches.delete(&batch.id).await };
        let stored = batch.trigger_params.as_object().cloned().unwrap_or_default();
        let run = TriggeredRun {
            id: batch.id.clone(),
            pipeline: &batch.pipeline,
            origin: if batch.source == S3_SOURCE { S3_SOURCE } else { EVENT_SOURCE },
            with: find_live_params(batch, live).unwrap_or(&stored),
            event: &event,
            hops: batch.hops,
            file_seals,
            dedup_key: DedupKey { source: BATCH_SOURCE, key: batch.id.clone(), fingerprint: None },
        };
        match self.start_triggered_run(run).await {
            Ok(_) => {
                failpoint!("batch.started");
                batches.delete(&batch.id).await?;
                failpoint!("batch.deleted");
                Ok(())
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => self.keep_batch(batch, &error).await,
        }
    }

    /// Keeps a batch whose run cannot be started: its pipeline may come back.
    async fn keep_batch(&self, batch: &EventBatchRecord, error: &Error) -> Result<()> {
        let EventBatchRecord { id, pipeline, due_at, closed_at, .. } = batch;
        let (batches, now, code) = (self.engine.db().event_batches(), self.engine.db().now(), error.code().name());
        if closed_at.is_some_and(|closed_at| closed_at <= now - UNSTARTED_RETENTION_MS) {
            batches.delete(id).await?;
            self.engine.metrics().count_dropped_event_batch(pipeline);
            let message = "a batch of events was dropped: for days its run could not be started";
            tracing::error!(run.id = id, pipeline.name = pipeline, error.code = code, "{message}: {error}");
            return Ok(());
        }
        // Only the first failure is logged.
        if closed_at.is_none_or(|closed_at| *due_at <= closed_at) {
            let message = "the run of a batch of events cannot be started; retrying for days";
            tracing::warn!(run.id = id, pipeline.name = pipeline, error.code = code, "{message}: {error}");
        }
        batches.postpone(id, now + RETRY_DELAY_MS).await
    }
}

/// The `with` of the trigger in the live definition of its pipeline.
fn find_live_params<'a>(batch: &EventBatchRecord, live: &'a [LivePlan]) -> Option<&'a Map<String, Value>> {
    let plan = live.iter().map(|live| &live.plan).find(|plan| plan.name == batch.pipeline)?;
    plan.triggers.iter().find_map(|trigger| {
        let (key, with) = match trigger {
            Trigger::S3(trigger) => (s3_trigger_key(trigger), &trigger.with),
            Trigger::Event(trigger) => (event_trigger_key(trigger), &trigger.with),
            Trigger::Cron(_) => return None,
        };
        (key == batch.trigger_key).then_some(with)
    })
}

/// The `event` of a batch: the fields of the last one, and all of them as `items`. `None` without any.
fn batch_event(items: Vec<Value>) -> Option<Value> {
    let mut event = items.last()?.as_object().cloned().unwrap_or_default();
    event.insert("items".into(), items.into());
    Some(Value::Object(event))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn event_of_a_batch_has_the_fields_of_the_last_one_and_lists_all() {
        let items = vec![json!({ "n": 1, "only": true }), json!({ "n": 2, "items": [3] })];
        let event = batch_event(items.clone()).expect("an event");
        assert_eq!(event, json!({ "n": 2, "items": items }));
        assert_eq!(batch_event(Vec::new()), None);
    }
}
