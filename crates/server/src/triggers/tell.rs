//! Events of the application: they start pipelines and wake steps that wait for them.

use serde_json::Value;

use super::{Inner, Triggers};
use afterload_core::error::Result;
use afterload_engine::{Inbox, Started};
use afterload_pipeline::Trigger;

/// Who counts events in the inbox.
pub const SOURCE: &str = "event";

/// What an event did.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Heard {
    /// The event's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The runs that it started.
    pub runs: Vec<String>,
    /// How many waiting steps it woke; none if it was told before.
    pub woken: usize,
}

impl Triggers {
    /// Takes an event. When this returns, everything that it does is on disk. The same `key` again is the same event.
    ///
    /// # Errors
    /// Those of the database: tell of it again.
    pub async fn tell(&self, name: &str, key: Option<String>, body: Value) -> Result<Heard> {
        let inner = &self.0;
        let (told, event) = inner.engine.tell(name, key, body).await?;
        let runs = inner.start_for(name, &event.id, &event.body).await?;
        Ok(Heard { id: told.id, name: name.to_owned(), runs, woken: told.woken })
    }
}

impl Inner {
    /// One run of each pipeline with a trigger of this name; also those that were started when it was told before.
    async fn start_for(&self, name: &str, id: &str, event: &Value) -> Result<Vec<String>> {
        let mut runs = Vec::new();
        for live in self.engine.live().await? {
            let triggers = live.plan.triggers.iter().filter_map(Trigger::as_event);
            let Some(trigger) = triggers.into_iter().find(|trigger| trigger.name == name) else { continue };
            let inbox = Inbox { source: SOURCE, key: id.to_owned(), fingerprint: None };
            match self.begin(&live.plan.name, &trigger.with, event, inbox).await {
                Ok(Started::New(run)) => runs.push(run.id),
                Ok(Started::Known { run_id, .. }) => runs.push(run_id),
                // It went away a moment ago.
                Err(error) if error.code() == "pipeline_not_found" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(runs)
    }
}
