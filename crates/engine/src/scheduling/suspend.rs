//! Suspends steps until a time or an event, and wakes them when the event is published.

use afterload_core::failpoint;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use crate::Engine;
use crate::run_watch::RunWatches;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_state::queue::{JobQueue, NewJob};
use afterload_state::{AwaitedEvent, Db, DbTx, EventRecord, StepRecord, WakeCondition};
use afterload_step_api::SuspendRequest;

/// How long an event is kept for steps that suspend after it was published.
pub(crate) const EVENT_RETENTION_MS: UnixMillis = 24 * 3_600_000;
/// The number of events per page.
const EVENT_PAGE_ROWS: u32 = 100;
/// The maximum number of attempts to publish an event when transactions conflict.
const MAX_PUBLISH_ATTEMPTS: u32 = 5;
/// Separates the names of fields.
const FIELD_SEPARATOR: char = '\n';

/// The result of publishing an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventReceipt {
    /// The id of the event.
    pub id: String,
    /// The number of steps that it woke.
    pub woken_steps: usize,
}

impl Engine {
    /// Stores an event, wakes the steps that wait for it, and returns after the commit. An event with a key that was
    /// used before wakes no step.
    pub async fn publish_event(
        &self,
        name: &str,
        key: Option<String>,
        body: Value,
    ) -> Result<(EventReceipt, EventRecord)> {
        self.0.suspensions.publish_event(name, key, body).await
    }
}

#[derive(Clone)]
pub(crate) struct Suspensions {
    pub(crate) db: Db,
    pub(crate) queue: Arc<JobQueue>,
    pub(crate) watches: Arc<RunWatches>,
}

impl Suspensions {
    async fn publish_event(&self, name: &str, key: Option<String>, body: Value) -> Result<(EventReceipt, EventRecord)> {
        let id = Ulid::generate().to_string();
        let event = EventRecord { id, name: name.to_owned(), key, body, received_at: self.db.now() };
        let mut tries = 1;
        loop {
            match self.try_publish_event(&event).await {
                Err(error) if error.is_transient() && tries < MAX_PUBLISH_ATTEMPTS => tries += 1,
                told => {
                    return Ok(
                        told?.unwrap_or_else(|known| (EventReceipt { id: known.id.clone(), woken_steps: 0 }, known))
                    );
                }
            }
        }
    }

    /// The inner error is the earlier event with the same key.
    async fn try_publish_event(
        &self,
        event: &EventRecord,
    ) -> Result<std::result::Result<(EventReceipt, EventRecord), EventRecord>> {
        let name = &event.name;
        let mut tx = self.db.begin().await?;
        tx.events().lock_name(name).await?;
        if let Some(known) = tx.events().insert(event).await? {
            return Ok(Err(known));
        }
        let mut sleepers = Vec::new();
        for fields in tx.suspensions().list_awaited_fields(name).await? {
            if let Some(awaited) = awaited_from_body(name, &fields, &event.body) {
                sleepers.extend(tx.suspensions().list_steps(&awaited).await?);
            }
        }
        sleepers.sort_by(|one, other| one.id.cmp(&other.id));
        // Locks have the same order as at a claim: jobs, steps, runs. The sweep may have enqueued a job already.
        let ids: Vec<String> = sleepers.iter().map(|step| step.id.clone()).collect();
        self.queue.lock_jobs(&mut tx, &ids).await?;
        let (mut wake, mut runs) = (Vec::new(), Vec::new());
        for step in sleepers {
            if tx.suspensions().wake(&step.id, &event.body).await? {
                let push = NewJob { step_run: &step.id, queue: &step.queue, priority: step.priority, due_at: None };
                self.queue.delete_job(&mut tx, &step.id).await?;
                self.queue.enqueue_jobs(&mut tx, &[push]).await?;
                wake.push(step.queue);
                runs.push(step.run_id);
            }
        }
        // Sorted, so that concurrent events lock runs in the same order.
        runs.sort();
        let woken = runs.len();
        runs.dedup();
        let mut touched = Vec::new();
        for run in &runs {
            touched.push(tx.runs().bump_revision(run).await?);
        }
        failpoint!("tell.before_commit");
        tx.commit().await?;
        failpoint!("tell.after_commit");
        wake.iter().for_each(|queue| self.queue.announce_jobs(queue));
        touched.iter().for_each(|run| self.watches.publish_run_change(run));
        tracing::info!(event.id = event.id, event.name = name, woken, "event published");
        Ok(Ok((EventReceipt { id: event.id.clone(), woken_steps: woken }, event.clone())))
    }
}

impl Suspensions {
    /// Makes sure that a newly suspended step wakes: at its time, or at once if its event was published since the run
    /// was created.
    pub(crate) async fn arm_wakeup(
        &self,
        tx: &mut DbTx,
        step: &StepRecord,
        sleep: &WakeCondition,
        since: UnixMillis,
    ) -> Result<()> {
        let known = match &sleep.event {
            Some(event) => find_past_event(tx, event, since).await?,
            None => None,
        };
        let due = match &known {
            Some(body) => {
                tx.suspensions().wake(&step.id, body).await?;
                None
            }
            None if sleep.until.is_none() => return Ok(()),
            None => sleep.until,
        };
        let push = NewJob { step_run: &step.id, queue: &step.queue, priority: step.priority, due_at: due };
        self.queue.enqueue_jobs(tx, &[push]).await
    }
}

/// The stored form of a suspend request.
pub(crate) fn wake_condition(wanted: &SuspendRequest) -> WakeCondition {
    WakeCondition {
        until: wanted.until,
        event: wanted.event.as_ref().map(|(name, fields)| awaited_from_fields(name, fields)),
    }
}

async fn find_past_event(tx: &mut DbTx, event: &AwaitedEvent, since: UnixMillis) -> Result<Option<Value>> {
    let fits = |known: &EventRecord| awaited_from_body(&event.name, &event.fields, &known.body).as_ref() == Some(event);
    let (mut time, mut id) = (since.max(tx.now() - EVENT_RETENTION_MS), String::new());
    loop {
        let page = tx.events().list_after(&event.name, time, &id, EVENT_PAGE_ROWS).await?;
        let Some(last) = page.last() else { return Ok(None) };
        (time, id) = (last.received_at, last.id.clone());
        if let Some(known) = page.into_iter().find(fits) {
            return Ok(Some(known.body));
        }
    }
}

/// The stored form of the awaited fields, which is compared with events.
fn awaited_from_fields(name: &str, fields: &Map<String, Value>) -> AwaitedEvent {
    // Objects and lists never match an event, so their JSON text serves as the value.
    let fields = fields
        .iter()
        .map(|(field, value)| (field.as_str(), scalar_to_text(value).unwrap_or_else(|| value.to_string())));
    digest_awaited_event(name, fields.collect())
}

/// The awaited event that this event would match, for these fields. `None`: the event lacks a field.
fn awaited_from_body(name: &str, fields: &str, body: &Value) -> Option<AwaitedEvent> {
    let names = fields.split(FIELD_SEPARATOR).filter(|field| !field.is_empty());
    let values: Option<BTreeMap<&str, String>> =
        names.map(|field| Some((field, scalar_to_text(value_at_path(body, field)?)?))).collect();
    values.map(|values| digest_awaited_event(name, values))
}

/// The value at a path such as `order.id`.
fn value_at_path<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    match body.get(path) {
        Some(value) => Some(value),
        None => path.split('.').try_fold(body, |value, field| value.get(field)),
    }
}

/// A number equals its text, because some senders write numbers as text.
fn scalar_to_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn digest_awaited_event(name: &str, fields: BTreeMap<&str, String>) -> AwaitedEvent {
    let mut digest = Sha256::new();
    for (field, value) in &fields {
        for part in [*field, value] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
    }
    let between = String::from(FIELD_SEPARATOR);
    let fields = fields.into_keys().collect::<Vec<_>>().join(&between);
    AwaitedEvent { name: name.to_owned(), fields, digest: hex::encode(digest.finalize()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wakes(wanted: Value, body: Value) -> bool {
        let wanted = awaited_from_fields("order.accepted", wanted.as_object().expect("fields"));
        awaited_from_body("order.accepted", &wanted.fields, &body) == Some(wanted)
    }

    #[test]
    fn event_wakes_steps_whose_fields_all_match() {
        let body = json!({ "order_id": 7, "shop": { "id": "a" }, "note": "n" });
        assert!(wakes(json!({}), body.clone()));
        assert!(wakes(json!({ "order_id": 7 }), body.clone()));
        assert!(wakes(json!({ "order_id": "7", "shop.id": "a" }), body.clone()));
        assert!(!wakes(json!({ "order_id": 8 }), body.clone()));
        assert!(!wakes(json!({ "order_id": 7, "shop.id": "b" }), body.clone()));
        assert!(!wakes(json!({ "shop": "a" }), body.clone()), "an object is no value");
        assert!(!wakes(json!({ "missing": null }), body));
        assert!(!wakes(json!({ "order_id": 7 }), json!([7])));
    }
}
