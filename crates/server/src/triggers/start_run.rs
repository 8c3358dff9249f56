//! Starts a run from a trigger and its event.

use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::{TriggerDeps, publish_event};
use crate::codes;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_engine::{DedupKey, NewRun, StartOutcome, run_url};
use afterload_pipeline::{ExprContext, resolve};

/// Error codes that are the fault of the event, not of the service.
const EVENT_ERRORS: [ErrorCode; 2] = [codes::PARAMS_INVALID, codes::CONCURRENCY_KEY_INVALID];

impl TriggerDeps {
    /// Starts a run of a pipeline. The trigger's `with` fills its params from the event.
    ///
    /// # Errors
    /// `pipeline_not_found`. An invalid event becomes a failed run.
    pub async fn start_run(
        &self,
        pipeline: &str,
        with: &Map<String, Value>,
        event: &Value,
        dedup_key: DedupKey,
    ) -> Result<StartOutcome> {
        let id = Ulid::generate().to_string();
        let run = json!({
            "id": id,
            "url": run_url(&self.engine.config().base_url, &id),
            "pipeline": pipeline,
        });
        let scope = ExprContext::new().with_event(event).with_run(&run);
        let origin = dedup_key.source;
        let new = |params: Map<String, Value>| NewRun {
            id: id.clone(),
            pipeline: pipeline.to_owned(),
            params,
            origin,
            event: Some(event.clone()),
            dedup_key: Some(dedup_key.clone()),
            ..NewRun::default()
        };
        let params = match resolve(&Value::Object(with.clone()), &scope) {
            Ok(params) => params.as_object().cloned().unwrap_or_default(),
            Err(error) => return self.engine.record_rejected_run(new(Map::new()), &error).await,
        };
        // A publisher of events may have no right to read a file, so its events must not name one. Events of a store
        // are trusted.
        if origin == publish_event::EVENT_SOURCE
            && (contains_object_shape(event) || params.values().any(contains_file_reference))
        {
            let error = Error::new(codes::PARAMS_INVALID, "an event of the application cannot bring a file")
                .with_hint("start the run through the API, with a key that may name the bucket");
            return self.engine.record_rejected_run(new(params), &error).await;
        }
        match self.engine.start_run(new(params.clone())).await {
            // No caller waits for this error, so a failed run records it.
            Err(error) if EVENT_ERRORS.contains(&error.code()) => {
                self.engine.record_rejected_run(new(params), &error).await
            }
            started => started,
        }
    }
}

/// True if the value contains a reference to an object, at any depth.
fn contains_file_reference(value: &Value) -> bool {
    match value {
        Value::String(text) => text.starts_with("s3://"),
        Value::Array(items) => items.iter().any(contains_file_reference),
        Value::Object(fields) => contains_object_shape(value) || fields.values().any(contains_file_reference),
        _ => false,
    }
}

/// True if the value contains the JSON of a file, at any depth: steps could read the file from `event`.
fn contains_object_shape(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(contains_object_shape),
        Value::Object(fields) => {
            fields.contains_key("bucket") && fields.contains_key("key") || fields.values().any(contains_object_shape)
        }
        _ => false,
    }
}
