//! Starts and stops the service: connects its parts from the configuration to the listening API.

mod adapters;
mod folder_events;
mod folder_scan;
mod object_stores;
mod open_files;
mod pipeline_reloader;
mod pipeline_watcher;
mod process;
mod query_checks;
mod suppression_list;

use std::net::SocketAddr;

use pipeline_reloader::PipelineReloader;
use tokio::net::TcpListener;
use tracing::info;

use crate::codes;
use crate::config::{Config, Secret};
use crate::registry::{StepRegistry, step_kinds};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::secrets;
use afterload_dashboard::dashboard_router;
use afterload_engine::{Engine, QueueSelection};
use afterload_mailer::Mailer;
use afterload_pipeline::folder::PipelineFolder;
use afterload_pipeline::{self as pipeline, ValidationContext};
use afterload_server::api;
use afterload_server::triggers::Triggers;

pub use process::{Process, WorkerOptions, start_worker};
pub use query_checks::query_verifier;

use object_stores::EmbeddedStoreMode;
use process::OpenedProcess;
use query_checks::LoadedQueryChecks;

/// A running service.
pub struct RunningService {
    /// The engine.
    pub engine: Engine,
    /// The public URL of the API.
    pub url: String,
    /// The address that the API listens on.
    pub listen: SocketAddr,
    /// The URL of the embedded S3 endpoint, if there is one.
    pub s3: Option<String>,
    /// The admin key, if this start created it. It is not stored and cannot be shown again.
    pub new_admin_key: Option<String>,
    /// The pipelines, as read at the start.
    pub pipelines: PipelineFolder,
    /// The process of the service.
    pub process: Process,
}

impl RunningService {
    /// Starts everything that `serve` runs. The API listens when this returns.
    pub async fn start(config: Config, admin_key: Option<String>) -> Result<Self> {
        Self::start_with_steps(config, admin_key, step_kinds()).await
    }

    /// Same as [`Self::start`], with a choice of step kinds.
    pub async fn start_with_steps(config: Config, admin_key: Option<String>, steps: StepRegistry) -> Result<Self> {
        Self::serve(config, admin_key, WorkerOptions { queues: QueueSelection::All, steps }).await
    }

    /// Same as [`Self::start`], with a choice of step kinds and queues.
    pub async fn serve(mut config: Config, admin_key: Option<String>, work: WorkerOptions) -> Result<Self> {
        let open_files = open_files::raise_open_file_limit();
        let listener = bind_listener(config.listen).await?;
        config.listen = listener.local_addr()?;
        let kinds = work.steps.catalog();
        let described = work.steps.catalog();
        let schema = move || pipeline::pipeline_schema(&described);
        let OpenedProcess { mut process, config, mail, connections, embedded, s3 } =
            Process::open(config, EmbeddedStoreMode::Serve { open_files }, &work.steps).await?;
        let engine = process.engine.clone();
        let query_checks = LoadedQueryChecks::new(connections);
        let reload = PipelineReloader::open(engine.db(), &config, kinds, &mail, query_checks.clone()).await?;
        let (live, pipelines) = (reload.shared_registry(), reload.current_folder());
        let triggers = Triggers::new(engine.clone(), embedded);
        triggers.prepare_buckets().await?;
        let limits = &config.limits.connections;
        let (max_connections, timeouts) = (limits.max_api_connections(open_files), limits.timeouts());
        let mut server = config.server_config();
        server.watchers = server.watchers.within_connections(max_connections);
        let app = api::ApiState::new(engine.clone(), server, live, schema)?;
        // Last of all steps that can fail: a new key is shown only once.
        let new_admin_key = api::ensure_admin_key(engine.db(), config.listen, admin_key.as_deref()).await?;
        let options = api::ApiListener { max_connections, timeouts, drain: config.limits.drain.0 };
        process.spawn_task(|stop| async move {
            let pages = dashboard_router(app.clone());
            api::serve(listener, api::router_with_pages(app, pages), options, stop).await;
            Ok(())
        });
        let queues = work.queues.to_string();
        process.spawn_workers(work.queues);
        process.spawn_maintenance(triggers.maintenance_tasks());
        process.spawn_task(|stop| async move {
            reload.run(stop).await;
            Ok(())
        });
        process.spawn_task(|stop| query_checks.run(stop));
        process.spawn_task(|stop| async move { triggers.run(stop).await });
        info!(
            listen = %config.listen, url = config.base_url(), s3 = s3.as_deref(), queues, open_files, max_connections,
            "afterload is up"
        );
        Ok(Self { engine, url: config.base_url(), listen: config.listen, s3, new_admin_key, pipelines, process })
    }

    /// Waits until a task fails.
    pub async fn wait_for_failure(&mut self) -> Error {
        self.process.wait_for_failure().await
    }

    /// Stops claiming steps, suspends or finishes the running ones, and closes all connections.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}

/// Ensures that there is a secret key: the configured one, or one created in the data folder.
///
/// # Errors
/// `io_error`
pub async fn ensure_secret_key(config: &mut Config) -> Result<()> {
    if config.secret_key.is_none() {
        secrets::create_private_dir(&config.data)?;
        let path = config.data.join("secret_key");
        let key = secrets::load_or_create(&path, || hex::encode(rand::random::<[u8; 32]>())).await?;
        config.secret_key = Some(Secret::new(key));
    }
    Ok(())
}

/// The names that the pipelines of this configuration may refer to.
pub fn validation_context(config: &Config, mail: &Mailer) -> ValidationContext {
    let (templates, broken_templates) = mail.check_templates();
    ValidationContext {
        connections: Some(config.connections.keys().cloned().collect()),
        dialects: config
            .connections
            .iter()
            .filter_map(|(name, known)| Some((name.clone(), Dialect::from_url(known.url.expose_secret())?)))
            .collect(),
        read_only: config
            .connections
            .iter()
            .filter(|(_, known)| known.read_only)
            .map(|(name, _)| name.clone())
            .collect(),
        functions: config.connections.iter().map(|(name, known)| (name.clone(), known.functions.clone())).collect(),
        templates: Some(templates),
        broken_templates,
        secrets: Some(config.secrets.keys().cloned().collect()),
        queues: Some(config.queues.keys().cloned().collect()),
        artifacts_bucket: Some(config.objects.artifacts.clone()),
        smtputf8: config.mail.smtputf8,
        has_public_url: Some(config.public_url.is_some()),
        public_url: Some(config.base_url()),
        query_verifier: None,
    }
}

async fn bind_listener(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::new(codes::LISTEN_FAILED, format!("cannot listen on {address}: {error}"))
            .with_hint("set another address with `listen` in afterload.yaml or AFTERLOAD_LISTEN")
    })
}
