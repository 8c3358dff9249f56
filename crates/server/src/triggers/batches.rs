//! Triggers with `debounce` or `batch`: their events wait in the database until their run starts.

use std::borrow::Cow;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::TriggerDeps;
use super::trigger_event::TriggerEvent;
use afterload_core::error::Result;
use afterload_core::failpoint;
use afterload_engine::DedupKey;
use afterload_pipeline::{EventTrigger, S3Trigger, TriggerBatching};
use afterload_state::{DedupRecord, NewEventBatch};

/// Ends the key of a trigger for events that start no run because their chain is too long.
const STOPPED_SUFFIX: &str = "-stopped";

/// A trigger whose events share runs.
pub struct BatchedTrigger<'a> {
    /// The pipeline of the trigger.
    pub pipeline: &'a str,
    /// Identifies the trigger within its pipeline.
    pub key: String,
    /// The params of the run.
    pub with: &'a Map<String, Value>,
    /// When the run starts.
    pub batching: TriggerBatching,
}

/// The run that an event will start together with others.
pub enum BatchOutcome {
    /// The event has joined the batch that becomes this run.
    Joined(String),
    /// The event has joined a batch, or started a run, before.
    Duplicate(String),
}

/// Identifies an s3 trigger within its pipeline. A trigger that matches other objects is another one.
pub fn s3_trigger_key(trigger: &S3Trigger) -> String {
    let S3Trigger { bucket, prefix, suffix, .. } = trigger;
    hex::encode(Sha256::digest(format!("s3\0{bucket}\0{prefix}\0{suffix}")))
}

/// Identifies an event trigger within its pipeline.
pub fn event_trigger_key(trigger: &EventTrigger) -> String {
    hex::encode(Sha256::digest(format!("event\0{}", trigger.name)))
}

impl TriggerDeps {
    /// Adds an event to the open batch of its trigger. The event is committed when this returns.
    pub async fn add_to_batch(
        &self,
        trigger: &BatchedTrigger<'_>,
        event: &TriggerEvent,
        dedup_key: DedupKey,
    ) -> Result<BatchOutcome> {
        let DedupKey { source, key, fingerprint } = dedup_key;
        let BatchedTrigger { pipeline, key: trigger_key, with, batching } = trigger;
        let db = self.engine.db();
        // This check is only a shortcut. The insert below decides.
        if let Some(known) = db.dedup_keys().find(pipeline, source, &key).await? {
            return Ok(BatchOutcome::Duplicate(known.run_id));
        }
        let (id, trigger_params) = (Ulid::generate().to_string(), Value::Object((*with).clone()));
        // The run of a batch has the hops of the longest chain. An event that is too far down a chain for any run has a
        // batch of its own kind, so that it does not take the others with it.
        let trigger_key: Cow<'_, str> = match event.hops > self.engine.config().max_hops {
            true => Cow::from(format!("{trigger_key}{STOPPED_SUFFIX}")),
            false => Cow::from(trigger_key),
        };
        let new = NewEventBatch {
            id: &id,
            pipeline,
            trigger_key: &trigger_key,
            source,
            trigger_params: &trigger_params,
            hops: event.hops,
            wait_ms: batching.wait_ms(),
            max_wait_ms: batching.max_wait_ms(),
        };
        let mut tx = db.begin().await?;
        let joined = tx.event_batches().join(&new).await?;
        let (pipeline, source, run_id) = ((*pipeline).to_owned(), source.to_owned(), joined.id.clone());
        let record = DedupRecord { pipeline, source, key, fingerprint, run_id };
        // The transaction is dropped, and the event is not counted.
        if let Some(known) = tx.dedup_keys().insert(&record).await? {
            return Ok(BatchOutcome::Duplicate(known.run_id));
        }
        // The batch has the id of its run, so that the seal is the one that the run needs.
        let seals = event.object.as_ref().map(|object| self.engine.seal_file(&joined.id, object));
        let stored = seals.unwrap_or_default().seal_copy(&event.data).to_string();
        let bytes = joined.bytes.saturating_add(i64::try_from(stored.len()).unwrap_or(i64::MAX));
        let is_full = joined.items >= i64::from(batching.max_events()) || bytes >= TriggerBatching::MAX_BYTES;
        tx.event_batches().insert_item(&joined, &stored, is_full).await?;
        failpoint!("batch.before_join");
        tx.commit().await?;
        failpoint!("batch.joined");
        tracing::debug!(run.id = joined.id, events = joined.items, "an event waits for a run with others");
        Ok(BatchOutcome::Joined(joined.id))
    }
}
