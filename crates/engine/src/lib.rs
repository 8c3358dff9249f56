//! Runs and their steps: what starts, what comes next, what happens when something fails.
//!
//! The way of a run: [`Engine::start`] writes it with its first jobs; a worker claims a job, runs the step and ends it
//! (`execute`), and in the same transaction `advance` applies what the `machine` says comes next. `chain` is the queue
//! underneath.

mod config;
mod executor;
mod expr_context;
mod lifecycle;
mod maintenance;
mod plan_cache;
mod record_params;
pub mod registry;
mod run_view;
mod run_watch;
mod scheduling;
mod state_machine;

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use self::lifecycle::cancel::RunningAttempts;
use self::plan_cache::PlanCache;
use self::run_watch::RunWatches;
use self::scheduling::pauses::PauseSignals;
use self::scheduling::queue_depth::QueueDepthCache;
use self::scheduling::rate_limit::KeyedLocks;
use afterload_core::error::Result;
use afterload_core::redactor::Redactor;
use afterload_core::secrets::Signer;
use afterload_egress::EgressClient;
use afterload_metrics::Metrics;
use afterload_object_store::ObjectStore;
use afterload_pipeline::StepCatalog;
use afterload_state::Db;
use afterload_state::queue::JobQueue;
use afterload_step_api::RegisteredStep;

pub use config::{EngineConfig, QueueConfig, RetentionConfig};
pub use executor::progress::ProgressView;
pub use executor::queue_workers::{QueueSelection, QueueState};
pub use lifecycle::run_notifications::NotificationView;
pub use lifecycle::start::{DedupKey, NewRun, StartOutcome};
pub use plan_cache::LivePlan;
pub use record_params::RecordSource;
pub use run_view::{
    ArtifactView, ItemView, RunView, StepView, artifact_url, download_link_url, run_url, signed_artifact_url,
};
pub use run_watch::RunWatch;
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

struct EngineCore {
    db: Db,
    config: EngineConfig,
    signer: Signer,
    objects: ObjectStore,
    records: Arc<dyn RecordSource>,
    http: EgressClient,
    steps: Vec<RegisteredStep>,
    kinds: StepCatalog,
    queue: Arc<JobQueue>,
    plan_cache: PlanCache,
    run_watches: RunWatches,
    running_attempts: Arc<RunningAttempts>,
    metrics: Metrics,
    depth_cache: QueueDepthCache,
    pause_signals: PauseSignals,
    redactor: Redactor,
    /// Told when a run has ended in this process of whose end somebody wants to know.
    notification_due: Notify,
    start_locks: KeyedLocks,
    /// At most one step that was left by a crash runs at a time.
    suspects: Arc<Semaphore>,
    /// Cancelled once the process goes down: steps in hand stop at their next checkpoint.
    draining: CancellationToken,
}

impl Engine {
    /// Makes an engine and prepares its queue.
    ///
    /// # Errors
    /// `database_extension_missing`, `queue_unsupported`, or those of the database.
    pub async fn open(parts: EngineDeps) -> Result<Self> {
        let EngineDeps { db, config, objects, records, http, redactor, metrics, steps } = parts;
        let inner = EngineCore {
            metrics,
            depth_cache: QueueDepthCache::default(),
            pause_signals: PauseSignals::default(),
            redactor,
            start_locks: KeyedLocks::default(),
            queue: JobQueue::open(db.clone()).await?,
            signer: Signer::new(config.signing_key.expose_secret()),
            kinds: StepCatalog(steps.iter().map(|step| step.kind.clone()).collect()),
            plan_cache: PlanCache::default(),
            run_watches: RunWatches::default(),
            running_attempts: Arc::default(),
            notification_due: Notify::new(),
            suspects: Arc::new(Semaphore::new(1)),
            draining: CancellationToken::new(),
            db,
            config,
            objects,
            records,
            http,
            steps,
        };
        Ok(Self(Arc::new(inner)))
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
