//! Application events: they start pipelines and wake suspended steps.

use serde_json::Value;

use super::batches::{BatchOutcome, BatchedTrigger, event_trigger_key};
use super::trigger_event::TriggerEvent;
use super::{TriggerDeps, Triggers};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_engine::{DedupKey, StartOutcome};
use afterload_pipeline::Trigger;

/// The source of the dedup keys of events.
pub const EVENT_SOURCE: &str = "event";

/// The result of an event.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct EventResult {
    /// The id of the event.
    pub id: String,
    /// The name of the event.
    pub name: String,
    /// The runs that it started.
    pub runs: Vec<String>,
    /// The runs that start later, for several events: their trigger has `debounce` or `batch`. The event is on disk.
    pub batched: Vec<String>,
    /// The number of waiting steps that it woke; 0 for a repeated delivery.
    pub woken: usize,
}

impl Triggers {
    /// Handles one event. Everything it causes is committed when this returns. The same `key` is the same event. `hops`
    /// runs came before it in its chain.
    ///
    /// # Errors
    /// `idempotency_key_reused` if the key came with another body before. After any other error the caller must send the
    /// event again.
    pub async fn publish_event(&self, name: &str, key: Option<String>, body: Value, hops: u32) -> Result<EventResult> {
        let inner = &self.0;
        let sent = key.is_some().then(|| body.clone());
        let (receipt, event) = inner.engine.publish_event(name, key, body).await?;
        if sent.is_some_and(|sent| !is_same_body(&sent, &event.body)) {
            return Err(event_key_reused());
        }
        let seen = TriggerEvent { hops, ..TriggerEvent::from(event.body) };
        let EventRuns { runs, batched } = inner.start_event_runs(name, &event.id, &seen).await?;
        Ok(EventResult { id: receipt.id, name: name.to_owned(), runs, batched, woken: receipt.woken_steps })
    }
}

/// The runs of an event, also those of an earlier delivery.
#[derive(Default)]
struct EventRuns {
    /// They exist.
    runs: Vec<String>,
    /// They start later, together with other events.
    batched: Vec<String>,
}

impl TriggerDeps {
    /// Starts one run of each pipeline with a trigger of this name, or adds the event to its batch.
    async fn start_event_runs(&self, name: &str, id: &str, event: &TriggerEvent) -> Result<EventRuns> {
        let mut all = EventRuns::default();
        for live in self.engine.list_live_plans().await? {
            let triggers = live.plan.triggers.iter().filter_map(Trigger::as_event);
            let Some(trigger) = triggers.into_iter().find(|trigger| trigger.name == name) else { continue };
            let dedup_key = DedupKey { source: EVENT_SOURCE, key: id.to_owned(), fingerprint: None };
            if let Some(batching) = trigger.batching {
                let (key, with) = (event_trigger_key(trigger), &trigger.with);
                let trigger = BatchedTrigger { pipeline: &live.plan.name, key, with, batching };
                match self.add_to_batch(&trigger, event, dedup_key).await? {
                    BatchOutcome::Joined(run) => all.batched.push(run),
                    BatchOutcome::Duplicate(run) => {
                        let has_started = self.engine.db().runs().find(&run).await?.is_some();
                        let runs = if has_started { &mut all.runs } else { &mut all.batched };
                        runs.push(run);
                    }
                }
                continue;
            }
            match self.start_run(&live.plan.name, &trigger.with, event, dedup_key).await {
                Ok(StartOutcome::Created(run)) => all.runs.push(run.id),
                Ok(StartOutcome::Duplicate { run_id, .. }) => all.runs.push(run_id),
                // The pipeline was removed a moment ago.
                Err(error) if error.code() == codes::PIPELINE_NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// Compares two bodies. The order of fields does not count. A known body was read back from its text, which can change
/// the last digit of a number, so the sent one is also compared as it would be read back.
fn is_same_body(sent: &Value, known: &Value) -> bool {
    sent == known || sent.to_string().parse::<Value>().is_ok_and(|read_back| read_back == *known)
}

/// The error for a key that was used with another event.
fn event_key_reused() -> Error {
    Error::new(codes::IDEMPOTENCY_KEY_REUSED, "the key of the event came with another body before")
        .with_hint("use a new `Idempotency-Key`, and as the sender of webhooks a new `webhook-id`, for each event")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_compared_by_their_values() {
        let body = json!({ "order": { "id": 7, "price": 1.5 }, "tags": ["a", "b"] });
        assert!(is_same_body(&body, &json!({ "tags": ["a", "b"], "order": { "price": 1.50, "id": 7 } })));
        for other in [
            json!({ "order": { "id": 8, "price": 1.5 }, "tags": ["a", "b"] }),
            json!({ "order": { "id": "7", "price": 1.5 }, "tags": ["a", "b"] }),
            json!({ "order": { "id": 7, "price": 1.5 }, "tags": ["b", "a"] }),
            json!({ "order": { "id": 7, "price": 1.5 }, "tags": ["a", "b"], "more": null }),
            json!({}),
        ] {
            assert!(!is_same_body(&body, &other), "{other}");
        }
    }
}
