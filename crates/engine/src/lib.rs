//! Runs and their steps: what starts, what comes next, what happens when something fails.
//!
//! The way of a run: [`Engine::start`] writes it with its first jobs; a worker claims a job, runs the step and ends it
//! (`execute`), and in the same transaction `advance` applies what the `machine` says comes next. `chain` is the queue
//! underneath.

mod admission;
mod advance;
mod again;
mod cancel;
mod compiled;
mod config;
mod deliveries;
mod depth;
mod effects;
mod end;
mod execute;
mod fan_out;
mod links;
mod machine;
mod notify;
mod pause;
mod progress;
mod queues;
mod rate;
mod records;
mod retention;
mod scope;
mod sleep;
mod start;
mod supervise;
mod view;
mod watch;
mod workers;

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use self::cancel::Attempts;
use self::compiled::Cache;
use self::depth::Depths;
use self::pause::Pauses;
use self::rate::Lanes;
use self::watch::Watches;
use afterload_core::error::Result;
use afterload_core::redact::Redactor;
use afterload_core::secrets::Signer;
use afterload_egress::Http;
use afterload_metrics::Metrics;
use afterload_object_store::Objects;
use afterload_pipeline::Kinds;
use afterload_state::Db;
use afterload_state::queue::Chain;
use afterload_step_api::RegisteredStep;

pub use compiled::LivePlan;
pub use config::{EngineConfig, QueueConfig, RetentionConfig};
pub use notify::NotificationView;
pub use progress::ProgressView;
pub use queues::{QueueState, Queues};
pub use records::RecordSource;
pub use sleep::Told;
pub use start::{Inbox, NewRun, Started};
pub use view::{ArtifactView, ItemView, RunView, StepView, artifact_link, artifact_url, link_url, run_url};
pub use watch::Watch;

/// The engine of one process. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

/// What an engine is made of.
pub struct Parts {
    /// The service's database.
    pub db: Db,
    /// The configuration.
    pub config: EngineConfig,
    /// The files.
    pub objects: Objects,
    /// Reads the rows that params of type `record` refer to.
    pub records: Arc<dyn RecordSource>,
    /// Outgoing calls, for the notifications of runs.
    pub http: Http,
    /// Removes secrets from errors.
    pub redactor: Redactor,
    /// What this process counts.
    pub metrics: Metrics,
    /// The step kinds that it can run.
    pub steps: Vec<RegisteredStep>,
}

struct Inner {
    db: Db,
    config: EngineConfig,
    signer: Signer,
    objects: Objects,
    records: Arc<dyn RecordSource>,
    http: Http,
    steps: Vec<RegisteredStep>,
    kinds: Kinds,
    chain: Arc<Chain>,
    cache: Cache,
    watches: Watches,
    attempts: Arc<Attempts>,
    metrics: Metrics,
    depths: Depths,
    pauses: Pauses,
    redactor: Redactor,
    /// Told when a run has ended in this process of whose end somebody wants to know.
    ended: Notify,
    lanes: Lanes,
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
    pub async fn open(parts: Parts) -> Result<Self> {
        let Parts { db, config, objects, records, http, redactor, metrics, steps } = parts;
        let inner = Inner {
            metrics,
            depths: Depths::default(),
            pauses: Pauses::default(),
            redactor,
            lanes: Lanes::default(),
            chain: Chain::open(db.clone()).await?,
            signer: Signer::new(config.signing_key.reveal()),
            kinds: Kinds(steps.iter().map(|step| step.kind.clone()).collect()),
            cache: Cache::default(),
            watches: Watches::default(),
            attempts: Arc::default(),
            ended: Notify::new(),
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
    pub fn objects(&self) -> &Objects {
        &self.0.objects
    }

    /// Cancelled once the process goes down.
    pub fn stopping(&self) -> &CancellationToken {
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
    pub async fn depth(&self) -> Result<i64> {
        self.0.chain.depth().await
    }
}
