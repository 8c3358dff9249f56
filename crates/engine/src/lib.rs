//! Runs and their steps: what starts, what comes next, what happens when something fails.
//!
//! The way of a run: [`Engine::start_run`] writes it with its first jobs; a worker claims a job, runs the step and ends it
//! (`executor`). In the same transaction `lifecycle` applies what the `state_machine` says comes next.
//!
//! The modules from bottom to top: `scheduling` knows when something may start, `lifecycle` moves runs, `executor` runs
//! steps, `maintenance` does what is periodic, `components` puts the parts together.

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
use afterload_core::error::Result;
use afterload_core::redactor::Redactor;
use afterload_egress::EgressClient;
use afterload_metrics::Metrics;
use afterload_object_store::ObjectStore;
use afterload_state::Db;
use afterload_step_api::RegisteredStep;

pub use config::{EngineConfig, QueueConfig, RetentionConfig};
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

/// The engine of one process. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<EngineCore>);

/// What an engine is made of.
pub struct EngineDeps {
    /// The service's database.
    pub db: Db,
    /// The configuration.
    pub config: EngineConfig,
    /// The files.
    pub objects: ObjectStore,
    /// Reads the rows that params of type `record` refer to.
    pub records: Arc<dyn RecordSource>,
    /// Outgoing calls, for the notifications of runs.
    pub http: EgressClient,
    /// Removes secrets from errors.
    pub redactor: Redactor,
    /// What this process counts.
    pub metrics: Metrics,
    /// The step kinds that it can run.
    pub steps: Vec<RegisteredStep>,
}

impl Engine {
    /// Makes an engine and prepares its queue.
    ///
    /// # Errors
    /// `database_extension_missing`, `queue_unsupported`, or those of the database.
    pub async fn open(deps: EngineDeps) -> Result<Self> {
        EngineCore::open(deps).await.map(|core| Self(Arc::new(core)))
    }

    /// The service's database, for reading.
    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// The files.
    pub fn objects(&self) -> &ObjectStore {
        &self.0.objects
    }

    /// Cancelled once the process goes down.
    pub fn shutdown_token(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// The configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.0.config
    }

    /// What this process counts.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// How many jobs there are, waiting or with workers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_jobs(&self) -> Result<i64> {
        self.0.queue.count_jobs().await
    }
}
