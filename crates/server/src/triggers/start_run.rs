//! Starts a run from a trigger and its event.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::TriggerDeps;
use super::cron::CRON_SOURCE;
use super::trigger_event::TriggerEvent;
use crate::codes;
use afterload_core::clock::format_rfc3339;
use afterload_core::error::{ErrorCode, Result};
use afterload_core::file_seals::FileSeals;
use afterload_engine::{DedupKey, NewRun, StartOutcome, run_url};
use afterload_pipeline::{ExprContext, referenced_names, resolve};

/// Error codes that are the fault of the event, not of the service.
const EVENT_ERRORS: [ErrorCode; 4] =
    [codes::PARAMS_INVALID, codes::FILE_NOT_AUTHORIZED, codes::CONCURRENCY_KEY_INVALID, codes::HOPS_EXCEEDED];

/// A run that a trigger starts.
pub struct TriggeredRun<'a> {
    /// The id of the run.
    pub id: String,
    /// The pipeline.
    pub pipeline: &'a str,
    /// The kind of trigger.
    pub origin: &'static str,
    /// The `with` of the trigger, which fills the params from the event.
    pub with: &'a Map<String, Value>,
    /// The `event` of expressions.
    pub event: &'a Value,
    /// How many runs came before it in its chain.
    pub hops: u32,
    /// The seals of the files that stores reported in it.
    pub file_seals: FileSeals,
    /// The key that keeps it from starting twice.
    pub dedup_key: DedupKey,
}

impl TriggerDeps {
    /// Starts a run of a pipeline for one event. The trigger's `with` fills its params from the event.
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
        let seals = event.object.as_ref().map(|object| self.engine.seal_file(&id, object));
        let (origin, file_seals) = (dedup_key.source, seals.unwrap_or_default());
        let TriggerEvent { data, hops, .. } = event;
        let run = TriggeredRun { id, pipeline, origin, with, event: data, hops: *hops, file_seals, dedup_key };
        self.start_triggered_run(run).await
    }

    /// Starts a run of a pipeline.
    ///
    /// # Errors
    /// `pipeline_not_found`. An invalid event becomes a failed run.
    pub async fn start_triggered_run(&self, run: TriggeredRun<'_>) -> Result<StartOutcome> {
        let TriggeredRun { id, pipeline, origin, with, event, hops, file_seals, dedup_key } = run;
        let run = json!({
            "id": id,
            "url": run_url(&self.engine.config().base_url, &id),
            "pipeline": pipeline,
            "created_at": format_rfc3339(self.engine.clock().now()),
        });
        let scope = ExprContext::new().with_event(event).with_run(&run).with_clock(self.engine.clock());
        let data = file_seals.seal_copy(event);
        // A schedule brings no data of others, and a value that names nothing comes from the author alone.
        let by_author = with.iter().filter(|(_, value)| origin == CRON_SOURCE || referenced_names(value).is_empty());
        let author_params: BTreeSet<_> = by_author.map(|(name, _)| name.clone()).collect();
        let new = |params: Map<String, Value>| NewRun {
            id: id.clone(),
            pipeline: pipeline.to_owned(),
            params,
            origin,
            event: Some(data.clone()),
            hops,
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
