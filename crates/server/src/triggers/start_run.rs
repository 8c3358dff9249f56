//! Starts a run from a trigger and its event.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::TriggerDeps;
use super::cron::CRON_SOURCE;
use super::trigger_event::TriggerEvent;
use crate::codes;
use afterload_core::error::{ErrorCode, Result};
use afterload_engine::{DedupKey, NewRun, StartOutcome, run_url};
use afterload_pipeline::{ExprContext, referenced_names, resolve};

/// Error codes that are the fault of the event, not of the service.
const EVENT_ERRORS: [ErrorCode; 4] =
    [codes::PARAMS_INVALID, codes::FILE_NOT_AUTHORIZED, codes::CONCURRENCY_KEY_INVALID, codes::HOPS_EXCEEDED];

impl TriggerDeps {
    /// Starts a run of a pipeline. The trigger's `with` fills its params from the event.
    ///
    /// # Errors
    /// `pipeline_not_found`. An invalid event becomes a failed run.
    pub async fn start_run(
        &self,
        pipeline: &str,
        with: &Map<String, Value>,
        event: &TriggerEvent,
        dedup_key: DedupKey,
    ) -> Result<StartOutcome> {
        let id = Ulid::generate().to_string();
        let run = json!({
            "id": id,
            "url": run_url(&self.engine.config().base_url, &id),
            "pipeline": pipeline,
        });
        let scope = ExprContext::new().with_event(&event.data).with_run(&run).with_clock(self.engine.clock());
        let origin = dedup_key.source;
        let mut data = event.data.clone();
        if let Some(object) = &event.object {
            self.engine.seal_file(&id, object).write_into(&mut data);
        }
        // A schedule brings no data of others, and a value that names nothing comes from the author alone.
        let by_author = with.iter().filter(|(_, value)| origin == CRON_SOURCE || referenced_names(value).is_empty());
        let author_params: BTreeSet<_> = by_author.map(|(name, _)| name.clone()).collect();
        let new = |params: Map<String, Value>| NewRun {
            id: id.clone(),
            pipeline: pipeline.to_owned(),
            params,
            origin,
            event: Some(data.clone()),
            hops: event.hops,
            author_params: author_params.clone(),
            dedup_key: Some(dedup_key.clone()),
            ..NewRun::default()
        };
        let params = match resolve(&Value::Object(with.clone()), &scope) {
            Ok(params) => params.as_object().cloned().unwrap_or_default(),
            Err(error) => return self.engine.record_rejected_run(new(Map::new()), &error).await,
        };
        match self.engine.start_run(new(params.clone())).await {
            // No caller waits for this error, so a failed run records it.
            Err(error) if EVENT_ERRORS.contains(&error.code()) => {
                self.engine.record_rejected_run(new(params), &error).await
            }
            started => started,
        }
    }
}
