//! What every process has: the database, the stores, an engine, and tasks that shut down in order.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::adapters::{DbAnswerCache, DbRateSlots, EgressGet, TargetRecords, clock_task, geo_cache_task};
use super::ensure_secret_key;
use super::object_stores::{self, EmbeddedStoreMode, OpenedStores};
use super::open_files;
use super::suppression_list::DbSuppressionList;
use crate::codes;
use crate::config::Config;
use crate::registry::{Services, StepRegistry, step_kinds};
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_core::secrets;
use afterload_egress::EgressClient;
use afterload_engine::maintenance::{PeriodicTask, TaskScheduler};
use afterload_engine::{Engine, EngineDeps, QueueSelection};
use afterload_geoip::GeoLocator;
use afterload_image_resize::ImagePool;
use afterload_mailer::Mailer;
use afterload_metrics::Metrics;
use afterload_s3_server::EmbeddedStore;
use afterload_state::Db;
use afterload_target_db::Connections;

/// What a worker works on.
pub struct WorkerOptions {
    /// The queues.
    pub queues: QueueSelection,
    /// The available step kinds.
    pub steps: StepRegistry,
}

impl WorkerOptions {
    /// All step kinds, on these queues.
    pub fn for_queues(queues: QueueSelection) -> Self {
        Self { queues, steps: step_kinds() }
    }
}

/// A running process.
pub struct Process {
    pub(super) engine: Engine,
    /// Stops the tasks.
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    /// Stops the embedded store, which the workers need until the end.
    close: CancellationToken,
    store: JoinSet<()>,
}

/// A process without tasks yet, and the parts beside its engine.
pub(super) struct OpenedProcess {
    pub process: Process,
    pub config: Arc<Config>,
    pub mail: Mailer,
    pub connections: Connections,
    pub embedded: Option<EmbeddedStore>,
    /// The URL of the embedded store.
    pub s3: Option<String>,
}

impl Process {
    /// Opens the database, the stores and the engine of a process.
    pub(super) async fn open(
        mut config: Config,
        endpoint: EmbeddedStoreMode,
        steps: &StepRegistry,
    ) -> Result<OpenedProcess> {
        let made = secrets::create_private_dir(&config.data);
        made.map_err(|error| Error::from(error).context(format!("making the folder `{}`", config.data.display())))?;
        ensure_secret_key(&mut config).await?;
        let clock = Clock::system();
        let (close, mut store) = (CancellationToken::new(), JoinSet::new());
        let OpenedStores { objects, embedded, address } =
            object_stores::open_stores(&config, endpoint, &clock, &close, &mut store).await?;
        let db = Db::open(&config.database_url(), clock.clone()).await?;
        db.correct_clock().await?;
        let metrics = Metrics::default();
        let mail = Mailer::new(&config.mailer_options(), clock.clone())?;
        let connections = Connections::new(&config.connections, &clock);
        let webhooks = config.webhook_signer();
        let redactor = config.redactor(embedded.as_ref().map(|store| &store.credentials().secret_key));
        let http = EgressClient::new(&config.http, &config.limits.http, webhooks, redactor.clone(), clock.clone());
        let cache = Arc::new(DbAnswerCache(db.clone()));
        let geo = GeoLocator::new(config.geo_options(), cache, &EgressGet::shared(&http), clock.clone());
        let services = Services {
            connections: connections.clone(),
            mailer: mail
                .clone()
                .with_shared(metrics.clone(), Arc::new(DbRateSlots(db.clone())))
                .with_suppressions(Arc::new(DbSuppressionList::new(db.clone(), &config))),
            http: http.clone(),
            geo,
            images: ImagePool::new(&config.limits.image),
        };
        let parts = EngineDeps {
            db,
            config: config.engine_config(),
            objects,
            records: Arc::new(TargetRecords(connections.clone())),
            http,
            redactor,
            metrics,
            steps: steps.registered(&services),
        };
        let engine = Engine::open(parts).await?;
        let process = Self { engine, stop: CancellationToken::new(), tasks: JoinSet::new(), close, store };
        Ok(OpenedProcess { process, config: Arc::new(config), mail, connections, embedded, s3: address })
    }

    /// Adds a task that runs until the process stops.
    pub(super) fn spawn_task<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.tasks.spawn(task(self.stop.clone()));
    }

    pub(super) fn spawn_workers(&mut self, queues: QueueSelection) {
        let engine = self.engine.clone();
        self.spawn_task(|stop| async move { engine.run_workers(queues, stop).await });
    }

    /// Runs the periodic tasks of this process: the engine's, those of what it keeps for others, and `more`.
    pub(super) fn spawn_maintenance(&mut self, more: Vec<PeriodicTask>) {
        let mut scheduler = TaskScheduler::default();
        scheduler.add_tasks(self.engine.maintenance_tasks());
        scheduler.add_tasks([clock_task(self.engine.db()), geo_cache_task(self.engine.db())]);
        scheduler.add_tasks(more);
        self.spawn_task(|stop| async move {
            scheduler.run(stop).await;
            Ok(())
        });
    }

    /// Waits until a task fails.
    pub async fn wait_for_failure(&mut self) -> Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return Error::new(codes::INTERNAL_ERROR, error.to_string()),
                Some(Ok(Ok(()))) => {}
                None => return Error::new(codes::INTERNAL_ERROR, "every part of the service has ended"),
            }
        }
    }

    /// Stops claiming steps, suspends or finishes the running ones, and closes all connections.
    pub async fn stop(mut self) {
        info!("stopping; running steps are suspended or finished first");
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                warn!(error.code = error.code().name(), "a task of the service failed: {error}");
            }
        }
        self.close.cancel();
        while self.store.join_next().await.is_some() {}
        self.engine.db().close().await;
    }
}

/// Starts a worker process: it answers no requests, publishes no pipelines and fires no triggers. It works on the
/// pipelines that are live in the database.
///
/// # Errors
/// `object_store_missing` if the files of the service are not on this machine.
pub async fn start_worker(config: Config, work: WorkerOptions) -> Result<Process> {
    open_files::raise_open_file_limit();
    object_stores::ensure_store_exists(&config)?;
    let OpenedProcess { mut process, s3, .. } = Process::open(config, EmbeddedStoreMode::Attach, &work.steps).await?;
    let (queues, url) = (work.queues.to_string(), process.engine.config().base_url.clone());
    process.spawn_workers(work.queues);
    process.spawn_maintenance(Vec::new());
    info!(queues, url, s3 = s3.as_deref(), "afterload is working");
    Ok(process)
}
