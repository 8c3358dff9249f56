//! Runs and their steps: what starts, what comes next, what happens when something fails.
//!
//! The way of a run: [`Engine::start`] writes it with its first jobs; a worker claims a job, runs the step and ends it
//! (`execute`), and in the same transaction `advance` applies what the `machine` says comes next. `chain` is the queue
//! underneath.

mod admission;
mod advance;
mod again;
mod cancel;
mod chain;
mod compiled;
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
use self::chain::Chain;
use self::compiled::Cache;
use self::depth::Depths;
use self::pause::Pauses;
use self::rate::Lanes;
use self::watch::Watches;
use crate::config::{Config, Hidden, Secret};
use crate::connections::Connections;
use crate::error::Result;
use crate::geo::Geo;
use crate::http::Http;
use crate::mail::Mailer;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::pipeline::Kinds;
use crate::secrets::Signer;
use crate::steps::AnyStep;
use crate::steps::image_resize::Images;
use crate::store::Db;

pub use compiled::LivePlan;
pub use notify::NotificationView;
pub use progress::ProgressView;
pub use queues::{QueueState, Queues};
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
    pub config: Arc<Config>,
    /// The files.
    pub objects: Objects,
    /// The databases that pipelines work on.
    pub connections: Connections,
    /// Outgoing mail.
    pub mail: Mailer,
    /// Outgoing calls.
    pub http: Http,
    /// The step kinds that it can run.
    pub steps: Vec<Arc<dyn AnyStep>>,
}

struct Inner {
    db: Db,
    config: Arc<Config>,
    base_url: String,
    signer: Signer,
    objects: Objects,
    connections: Connections,
    mail: Mailer,
    http: Http,
    images: Images,
    geo: Geo,
    steps: Vec<Arc<dyn AnyStep>>,
    kinds: Kinds,
    chain: Arc<Chain>,
    cache: Cache,
    watches: Watches,
    attempts: Arc<Attempts>,
    metrics: Metrics,
    depths: Depths,
    pauses: Pauses,
    hidden: Hidden,
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
        let Parts { db, config, objects, connections, mail, http, steps } = parts;
        let metrics = Metrics::default();
        let inner = Inner {
            mail: mail.counted(metrics.clone(), db.clone()),
            metrics,
            depths: Depths::default(),
            pauses: Pauses::default(),
            hidden: Hidden::new(&config),
            lanes: Lanes::default(),
            chain: Chain::open(db.clone()).await?,
            base_url: config.base_url(),
            signer: Signer::new(config.secret_key.as_ref().map_or("", Secret::reveal)),
            kinds: crate::steps::language(&steps),
            images: Images::new(&config.limits.image),
            geo: Geo::new(&config, db.clone(), &http),
            cache: Cache::default(),
            watches: Watches::default(),
            attempts: Arc::default(),
            ended: Notify::new(),
            suspects: Arc::new(Semaphore::new(1)),
            draining: CancellationToken::new(),
            db,
            config,
            objects,
            connections,
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
    pub fn config(&self) -> &Arc<Config> {
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
