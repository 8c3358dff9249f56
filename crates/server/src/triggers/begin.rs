//! From a trigger and its event to a run.

use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::{Inner, tell};
use afterload_core::error::{Error, Result};
use afterload_engine::{Inbox, NewRun, Started, run_url};
use afterload_pipeline::{Scope, resolve};

/// What is wrong with the event, not with the service.
const UNFIT: [&str; 2] = ["params_invalid", "concurrency_key_invalid"];

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
            "url": run_url(&self.engine.config().base_url, &id),
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
        // Who tells of an event need not have the right to read a file; what a store tells of is there.
        if origin == tell::SOURCE && (names_object(event) || params.values().any(holds_file)) {
            let error = Error::permanent("params_invalid", "an event of the application cannot bring a file")
                .hint("start the run through the API, with a key that may name the bucket");
            return self.engine.refuse(new(params), &error).await;
        }
        match self.engine.start(new(params.clone())).await {
            // Nobody waits for an answer that could say what is wrong with the event, so a run does.
            Err(error) if UNFIT.contains(&error.code()) => self.engine.refuse(new(params), &error).await,
            started => started,
        }
    }
}

/// True for what names an object of a store, wherever in the value.
fn holds_file(value: &Value) -> bool {
    match value {
        Value::String(text) => text.starts_with("s3://"),
        Value::Array(items) => items.iter().any(holds_file),
        Value::Object(fields) => names_object(value) || fields.values().any(holds_file),
        _ => false,
    }
}

/// True for the shape of a file, wherever in the value: steps may read it from `event`.
fn names_object(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(names_object),
        Value::Object(fields) => {
            fields.contains_key("bucket") && fields.contains_key("key") || fields.values().any(names_object)
        }
        _ => false,
    }
}
