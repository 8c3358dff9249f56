//! From a trigger and its event to a run.

use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::{TriggerDeps, publish_event};
use crate::codes;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_engine::{DedupKey, NewRun, StartOutcome, run_url};
use afterload_pipeline::{ExprContext, resolve};

/// What is wrong with the event, not with the service.
const EVENT_ERRORS: [ErrorCode; 2] = [codes::PARAMS_INVALID, codes::CONCURRENCY_KEY_INVALID];

impl TriggerDeps {
    /// Starts the run of a pipeline whose trigger fills its params from the event by `with`.
    ///
    /// # Errors
    /// `pipeline_not_found`, those of the database. What is wrong with the event becomes a failed run.
    pub async fn start_run(
        &self,
        pipeline: &str,
        with: &Map<String, Value>,
        event: &Value,
        inbox: DedupKey,
    ) -> Result<StartOutcome> {
        let id = Ulid::generate().to_string();
        let run = json!({
            "id": id,
            "url": run_url(&self.engine.config().base_url, &id),
            "pipeline": pipeline,
        });
        let scope = ExprContext::new().with_event(event).with_run(&run);
        let origin = inbox.source;
        let new = |params: Map<String, Value>| NewRun {
            id: id.clone(),
            pipeline: pipeline.to_owned(),
            params,
            origin,
            event: Some(event.clone()),
            dedup_key: Some(inbox.clone()),
            ..NewRun::default()
        };
        let params = match resolve(&Value::Object(with.clone()), &scope) {
            Ok(params) => params.as_object().cloned().unwrap_or_default(),
            Err(error) => return self.engine.record_rejected_run(new(Map::new()), &error).await,
        };
        // Who tells of an event need not have the right to read a file; what a store tells of is there.
        if origin == publish_event::EVENT_SOURCE
            && (contains_object_shape(event) || params.values().any(contains_file_reference))
        {
            let error = Error::new(codes::PARAMS_INVALID, "an event of the application cannot bring a file")
                .with_hint("start the run through the API, with a key that may name the bucket");
            return self.engine.record_rejected_run(new(params), &error).await;
        }
        match self.engine.start_run(new(params.clone())).await {
            // Nobody waits for an answer that could say what is wrong with the event, so a run does.
            Err(error) if EVENT_ERRORS.contains(&error.code()) => {
                self.engine.record_rejected_run(new(params), &error).await
            }
            started => started,
        }
    }
}

/// True for what names an object of a store, wherever in the value.
fn contains_file_reference(value: &Value) -> bool {
    match value {
        Value::String(text) => text.starts_with("s3://"),
        Value::Array(items) => items.iter().any(contains_file_reference),
        Value::Object(fields) => contains_object_shape(value) || fields.values().any(contains_file_reference),
        _ => false,
    }
}

/// True for the shape of a file, wherever in the value: steps may read it from `event`.
fn contains_object_shape(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(contains_object_shape),
        Value::Object(fields) => {
            fields.contains_key("bucket") && fields.contains_key("key") || fields.values().any(contains_object_shape)
        }
        _ => false,
    }
}
