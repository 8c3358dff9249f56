//! The state that handlers share.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::ServerConfig;
use super::attempt_limiter::AttemptLimiter;
use super::run_feed::RunFeeds;
use super::upload_slots::UploadSlots;
use crate::codes;
use crate::triggers::Triggers;
use afterload_core::error::{Error, Result};
use afterload_core::keyring::Keyring;
use afterload_engine::registry::PipelineRegistry;
use afterload_engine::{Engine, NewRun, StartOutcome};
use afterload_object_store::ObjectStore;
use afterload_state::Db;

/// Starts a run and returns it once it is committed: [`Engine::start_run`] in the type that handlers use.
pub type StartRun = Arc<dyn Fn(NewRun) -> Pin<Box<dyn Future<Output = Result<StartOutcome>> + Send>> + Send + Sync>;

/// The state that handlers share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<ApiDeps>);

struct ApiDeps {
    engine: Engine,
    config: ServerConfig,
    start: StartRun,
    registry: PipelineRegistry,
    /// Made for the first request.
    schema: LazyLock<Value, Box<dyn FnOnce() -> Value + Send>>,
    upload_slots: UploadSlots,
    run_feeds: RunFeeds,
    attempts: AttemptLimiter,
    triggers: Triggers,
}

impl ApiState {
    /// Creates the state. `schema` makes the response of `GET /v1/schema`.
    ///
    /// # Errors
    /// `secret_key_missing` without a key in the configuration: it signs the links of runs.
    pub fn new(
        engine: Engine,
        config: ServerConfig,
        live: PipelineRegistry,
        schema: impl FnOnce() -> Value + Send + 'static,
    ) -> Result<Self> {
        let starter = engine.clone();
        let start: StartRun = Arc::new(move |run| {
            let engine = starter.clone();
            Box::pin(async move { engine.start_run(run).await })
        });
        Self::with_start(engine, config, start, live, schema)
    }

    /// Same as [`Self::new`], with another function that starts runs.
    pub(super) fn with_start(
        engine: Engine,
        config: ServerConfig,
        start: StartRun,
        live: PipelineRegistry,
        schema: impl FnOnce() -> Value + Send + 'static,
    ) -> Result<Self> {
        if config.keyring.is_empty() {
            return Err(Error::new(codes::SECRET_KEY_MISSING, "the configuration holds no `secret_key`"));
        }
        let run_feeds = RunFeeds::new(&config.watchers);
        let attempts = AttemptLimiter::new(config.max_wrong_keys);
        let triggers = Triggers::new(engine.clone(), None);
        Ok(Self(Arc::new(ApiDeps {
            engine,
            config,
            start,
            registry: live,
            schema: LazyLock::new(Box::new(schema)),
            upload_slots: UploadSlots::new(),
            run_feeds,
            attempts,
            triggers,
        })))
    }

    /// The state database.
    pub fn db(&self) -> &Db {
        self.0.engine.db()
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn objects(&self) -> &ObjectStore {
        self.0.engine.objects()
    }

    /// The configuration of the server.
    pub fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(super) fn upload_slots(&self) -> &UploadSlots {
        &self.0.upload_slots
    }

    pub(super) fn run_feeds(&self) -> &RunFeeds {
        &self.0.run_feeds
    }

    /// Counts wrong keys and tokens.
    pub(super) fn attempts(&self) -> &AttemptLimiter {
        &self.0.attempts
    }

    /// The public URL of this service, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.0.config.base_url
    }

    /// The live pipelines.
    pub fn pipeline_registry(&self) -> &PipelineRegistry {
        &self.0.registry
    }

    /// The JSON Schema of the pipeline language.
    pub(super) fn pipeline_schema(&self) -> &Value {
        &self.0.schema
    }

    pub(super) fn triggers(&self) -> &Triggers {
        &self.0.triggers
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.0.config.keyring
    }

    pub(super) async fn start_run(&self, run: NewRun) -> Result<StartOutcome> {
        (self.0.start)(run).await
    }
}
