//! The state that handlers share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::attempt_limiter::AttemptLimiter;
use super::config::ServerConfig;
use crate::codes;
use crate::triggers::Triggers;
use afterload_core::error::{Error, Result};
use afterload_core::secrets::Signer;
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
    signer: Signer,
    start: StartRun,
    registry: PipelineRegistry,
    schema: Value,
    form_permits: Semaphore,
    attempts: AttemptLimiter,
    triggers: Triggers,
}

/// How many forms are read in parallel. Each may buffer about 24 MiB on its way to the store.
pub(super) const MAX_PARALLEL_FORMS: usize = 64;

impl ApiState {
    /// Creates the state. `schema` is the response of `GET /v1/schema`.
    ///
    /// # Errors
    /// `secret_key_missing` without a key in the configuration: it signs the links of runs.
    pub fn new(engine: Engine, config: ServerConfig, live: PipelineRegistry, schema: Value) -> Result<Self> {
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
        schema: Value,
    ) -> Result<Self> {
        if config.signing_key.expose_secret().is_empty() {
            return Err(Error::new(codes::SECRET_KEY_MISSING, "the configuration holds no `secret_key`"));
        }
        let signer = Signer::new(config.signing_key.expose_secret());
        let forms = Semaphore::new(MAX_PARALLEL_FORMS);
        let attempts = AttemptLimiter::new(config.max_wrong_keys);
        let triggers = Triggers::new(engine.clone(), None);
        Ok(Self(Arc::new(ApiDeps {
            engine,
            config,
            signer,
            start,
            registry: live,
            schema,
            form_permits: forms,
            attempts,
            triggers,
        })))
    }

    pub(super) fn db(&self) -> &Db {
        self.0.engine.db()
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn objects(&self) -> &ObjectStore {
        self.0.engine.objects()
    }

    pub(super) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    /// A permit to read one more form, if one is free.
    pub(super) fn try_form_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.0.form_permits.try_acquire().ok()
    }

    /// Counts wrong keys and tokens.
    pub(super) fn attempts(&self) -> &AttemptLimiter {
        &self.0.attempts
    }

    pub(super) fn base_url(&self) -> &str {
        &self.0.config.base_url
    }

    pub(super) fn pipeline_registry(&self) -> &PipelineRegistry {
        &self.0.registry
    }

    /// The JSON Schema of the pipeline language.
    pub(super) fn pipeline_schema(&self) -> &Value {
        &self.0.schema
    }

    pub(super) fn triggers(&self) -> &Triggers {
        &self.0.triggers
    }

    pub(super) fn signer(&self) -> &Signer {
        &self.0.signer
    }

    pub(super) async fn start_run(&self, run: NewRun) -> Result<StartOutcome> {
        (self.0.start)(run).await
    }
}
