//! What the handlers share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::ServerConfig;
use crate::codes;
use crate::triggers::Triggers;
use afterload_core::error::{Error, Result};
use afterload_core::secrets::Signer;
use afterload_engine::registry::PipelineRegistry;
use afterload_engine::{Engine, NewRun, StartOutcome};
use afterload_object_store::ObjectStore;
use afterload_state::Db;

/// Accepts a run: when it returns one, that is on disk. [`Engine::start`], as the handlers see it.
pub type StartRun = Arc<dyn Fn(NewRun) -> Pin<Box<dyn Future<Output = Result<StartOutcome>> + Send>> + Send + Sync>;

/// What the handlers share. Cheap to clone.
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
    triggers: Triggers,
}

/// So many forms are read at once: each may hold some 24 MiB on its way to the store.
pub(super) const MAX_PARALLEL_FORMS: usize = 64;

impl ApiState {
    /// An application over an engine. `schema` is what `GET /v1/schema` answers.
    ///
    /// # Errors
    /// `secret_key_missing` if the configuration holds none: the links of runs are signed with it.
    pub fn new(engine: Engine, config: ServerConfig, live: PipelineRegistry, schema: Value) -> Result<Self> {
        let starter = engine.clone();
        let start: StartRun = Arc::new(move |run| {
            let engine = starter.clone();
            Box::pin(async move { engine.start_run(run).await })
        });
        Self::with_start(engine, config, start, live, schema)
    }

    /// The same with another way to accept runs.
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
        let triggers = Triggers::new(engine.clone(), None);
        Ok(Self(Arc::new(ApiDeps {
            engine,
            config,
            signer,
            start,
            registry: live,
            schema,
            form_permits: forms,
            triggers,
        })))
    }

    /// The service's database.
    pub(super) fn db(&self) -> &Db {
        self.0.engine.db()
    }

    /// The engine.
    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The files.
    pub(super) fn objects(&self) -> &ObjectStore {
        self.0.engine.objects()
    }

    /// The configuration.
    pub(super) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    /// Room for one more form, if there is any.
    pub(super) fn try_form_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.0.form_permits.try_acquire().ok()
    }

    /// How others reach this service.
    pub(super) fn base_url(&self) -> &str {
        &self.0.config.base_url
    }

    /// The pipelines that are live.
    pub(super) fn pipeline_registry(&self) -> &PipelineRegistry {
        &self.0.registry
    }

    /// The JSON Schema of the language.
    pub(super) fn pipeline_schema(&self) -> &Value {
        &self.0.schema
    }

    /// What starts runs beside the API.
    pub(super) fn triggers(&self) -> &Triggers {
        &self.0.triggers
    }

    /// Signs links, and knows its own again.
    pub(super) fn signer(&self) -> &Signer {
        &self.0.signer
    }

    /// Accepts a run.
    pub(super) async fn start_run(&self, run: NewRun) -> Result<StartOutcome> {
        (self.0.start)(run).await
    }
}
