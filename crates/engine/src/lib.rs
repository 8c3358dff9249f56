//! The engine: starts runs, executes their steps and handles failures.
//!
//! [`Engine::start_run`] stores a run with its first jobs. A worker fetches a job, runs the step and ends it
//! (`executor`). The same transaction applies the next transitions of the `state_machine` (`lifecycle`).
//!
//! The modules from bottom to top: `scheduling` decides when a step may start, `lifecycle` moves runs, `executor` runs
//! steps, `maintenance` holds the periodic tasks, `components` builds the parts.

mod attempt;
pub mod codes;
mod components;
mod config;
mod db_retry;
mod executor;
mod expr_context;
mod lifecycle;
pub mod maintenance;
mod plan_cache;
mod progress_view;
mod record_params;
pub mod registry;
mod run_errors;
mod run_view;
mod run_watch;
mod scheduling;
mod state_machine;
mod workers;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::components::EngineCore;
use afterload_core::clock::Clock;
use afterload_core::error::Result;
use afterload_core::redactor::Redactor;
use afterload_egress::EgressClient;
use afterload_metrics::Metrics;
use afterload_object_store::ObjectStore;
use afterload_state::Db;
use afterload_step_api::RegisteredStep;

pub use config::{EngineConfig, QueueConfig, RetentionConfig};
pub use lifecycle::retry::RetryDefinition;
pub use lifecycle::start::{DedupKey, NewRun, StartOutcome};
pub use plan_cache::LivePlan;
pub use progress_view::ProgressView;
pub use record_params::RecordSource;
pub use run_view::{
    ArtifactView, ItemView, NotificationView, RunView, StepView, artifact_url, download_link_url, run_url,
    signed_artifact_url,
};
pub use run_watch::RunWatch;
pub use scheduling::queues::{QueueSelection, QueueState};
pub use scheduling::suspend::EventReceipt;

/// The engine of one process. Clones share the same state.
#[derive(Clone)]
pub struct Engine(Arc<EngineCore>);

/// The dependencies of an engine.
pub struct EngineDeps {
    /// The state database. Its clock is that of the engine.
    pub db: Db,
    /// The settings.
    pub config: EngineConfig,
    /// The object store.
    pub objects: ObjectStore,
    /// Reads the rows that `record` params refer to.
    pub records: Arc<dyn RecordSource>,
    /// The client for run notifications.
    pub http: EgressClient,
    /// Removes secrets from errors.
    pub redactor: Redactor,
    /// The metrics of this process.
    pub metrics: Metrics,
    /// The step kinds that this process can run.
    pub steps: Vec<RegisteredStep>,
}

impl Engine {
    /// Creates an engine and opens its queue.
    ///
    /// # Errors
    /// `database_extension_missing`, `queue_unsupported`, or a database error.
    pub async fn open(deps: EngineDeps) -> Result<Self> {
        EngineCore::open(deps).await.map(|core| Self(Arc::new(core)))
    }

    /// The state database, for reading.
    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// The clock of the process.
    pub fn clock(&self) -> &Clock {
        self.0.db.clock()
    }

    /// The object store.
    pub fn objects(&self) -> &ObjectStore {
        &self.0.objects
    }

    /// Cancelled when the process shuts down.
    pub fn shutdown_token(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        &self.0.config
    }

    /// The metrics of this process.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The number of jobs, waiting or running.
    pub async fn count_jobs(&self) -> Result<i64> {
        self.0.queue.count_jobs().await
    }
}
