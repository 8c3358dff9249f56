//! From a trigger and its event to a run.

use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::Inner;
use crate::engine::{Inbox, NewRun, Started, run_url};
use crate::error::Result;
use crate::pipeline::{Scope, resolve};

impl Inner {
    /// Starts the run of a pipeline whose trigger fills its params from the event by `with`.
    ///
    /// # Errors
    /// `pipeline_not_found`, those of the database. What is wrong with the event becomes a failed run.
    pub async fn begin(
        &self,
        pipeline: &str,
        with: &Map<String, Value>,
        event: &Value,
        inbox: Inbox,
    ) -> Result<Started> {
        let id = Ulid::generate().to_string();
        let run = json!({
            "id": id,
            "url": run_url(&self.engine.config().base_url(), &id),
            "pipeline": pipeline,
        });
        let scope = Scope::new().event(event).run(&run);
        let origin = inbox.source;
        let new = |params: Map<String, Value>| NewRun {
            id: id.clone(),
            pipeline: pipeline.to_owned(),
            params,
            origin,
            event: Some(event.clone()),
            inbox: Some(inbox.clone()),
            ..NewRun::default()
        };
        let params = match resolve(&Value::Object(with.clone()), &scope) {
            Ok(params) => params.as_object().cloned().unwrap_or_default(),
            Err(error) => return self.engine.refuse(new(Map::new()), &error).await,
        };
        match self.engine.start(new(params.clone())).await {
            // Nobody waits for an answer that could say what is wrong with the event, so a run does.
            Err(error) if error.code() == "params_invalid" => self.engine.refuse(new(params), &error).await,
            started => started,
        }
    }
}
