//! Puts the parts of one process together, from the configuration to the listening service, and takes them apart.

mod files;
mod reload;
mod view;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use reload::Reload;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, Secret};
use crate::connections::{Connections, Dialect};
use crate::engine::{Engine, Parts};
use crate::error::{Error, Result};
use crate::mail::Mailer;
use crate::objects::embedded::{self, Embedded};
use crate::objects::{EmbeddedAccess, Objects};
use crate::pipeline::catalogue::Folder;
use crate::pipeline::{self, Surroundings};
use crate::secrets;
use crate::steps::{self, AnyStep};
use crate::store::Db;
use crate::triggers::Triggers;
use crate::web;

/// A running service.
pub struct App {
    /// Its engine.
    pub engine: Engine,
    /// Where its API is.
    pub url: String,
    /// Where its embedded S3 endpoint is, if it has one.
    pub s3: Option<String>,
    /// The admin key, if this start made it. It is not stored and cannot be shown again.
    pub new_admin_key: Option<String>,
    /// The pipelines, as they were read at the start.
    pub pipelines: Folder,
    /// Ends the API and the workers.
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    /// Ends the embedded store, which the workers need to the last.
    close: CancellationToken,
    store: JoinSet<()>,
}

impl App {
    /// Starts everything that `serve` does. When this returns, the API listens.
    ///
    /// # Errors
    /// What keeps the service from starting: each part's own errors.
    pub async fn start(config: Config, admin_key: Option<String>) -> Result<Self> {
        Self::start_with(config, admin_key, steps::kinds()).await
    }

    /// The same with step kinds of the caller's choice.
    ///
    /// # Errors
    /// What keeps the service from starting: each part's own errors.
    pub async fn start_with(
        mut config: Config,
        admin_key: Option<String>,
        steps: Vec<Arc<dyn AnyStep>>,
    ) -> Result<Self> {
        let made = secrets::make_folder(&config.data);
        made.map_err(|error| Error::from(error).context(format!("making the folder `{}`", config.data.display())))?;
        let listener = listen(config.listen).await?;
        config.listen = listener.local_addr()?;
        settle_secret_key(&mut config).await?;
        let (close, mut store) = (CancellationToken::new(), JoinSet::new());
        let (objects, s3, embedded) = open_objects(&config, &close, &mut store).await?;
        let db = Db::open(&config.database_url()).await?;
        let mail = Mailer::new(&config)?;
        let connections = Connections::new(&config.connections);
        let kinds = steps::language(&steps);
        let schema = pipeline::schema(&kinds);
        let reload = Reload::open(&db, &config, kinds, &mail).await?;
        let (live, pipelines) = (reload.live(), reload.folder());
        let config = Arc::new(config);
        let engine = Engine::open(Parts { db, config: config.clone(), objects, connections, mail, steps }).await?;
        let triggers = Triggers::new(engine.clone(), embedded);
        triggers.prepare().await?;
        let app = web::App::new(engine.clone(), live, schema)?;
        // Last of all that can fail: a key that is made is shown only once.
        let new_admin_key = web::ensure_admin_key(engine.db(), config.listen, admin_key.as_deref()).await?;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (serving, working, watching, worker) = (stop.clone(), stop.clone(), stop.clone(), engine.clone());
        let triggering = stop.clone();
        let drain = config.limits.drain.0;
        tasks.spawn(async move {
            web::serve(listener, web::router(app), serving, drain).await;
            Ok(())
        });
        tasks.spawn(async move { worker.work(working).await });
        tasks.spawn(async move {
            reload.run(watching).await;
            Ok(())
        });
        tasks.spawn(async move { triggers.work(triggering).await });
        info!(url = config.base_url(), s3 = s3.as_deref(), "afterload is up");
        Ok(Self { engine, url: config.base_url(), s3, new_admin_key, pipelines, stop, tasks, close, store })
    }

    /// Waits until a part ends that should not, or for ever.
    pub async fn failed(&mut self) -> Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return Error::permanent("internal_error", error.to_string()),
                Some(Ok(Ok(()))) => {}
                None => return Error::permanent("internal_error", "every part of the service has ended"),
            }
        }
    }

    /// Stops taking work, parks or finishes the steps in hand, and closes what is open.
    pub async fn stop(mut self) {
        info!("stopping; steps in hand are parked or finished first");
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                warn!(error.code = error.code(), "a part of the service ended badly: {error}");
            }
        }
        self.close.cancel();
        while self.store.join_next().await.is_some() {}
        self.engine.db().close().await;
    }
}

/// Sees to it that there is a secret key: the configured one, or one made for this folder.
///
/// # Errors
/// `io_error`
pub async fn settle_secret_key(config: &mut Config) -> Result<()> {
    if config.secret_key.is_none() {
        secrets::make_folder(&config.data)?;
        let path = config.data.join("secret_key");
        let key = secrets::load_or_make(&path, || hex::encode(rand::random::<[u8; 32]>())).await?;
        config.secret_key = Some(Secret::new(key));
    }
    Ok(())
}

/// What the pipelines of this configuration may refer to.
pub fn surroundings(config: &Config, mail: &Mailer) -> Surroundings {
    Surroundings {
        connections: Some(config.connections.keys().cloned().collect()),
        dialects: config
            .connections
            .iter()
            .filter_map(|(name, known)| Some((name.clone(), Dialect::of(known.url.reveal())?)))
            .collect(),
        read_only: config
            .connections
            .iter()
            .filter(|(_, known)| known.read_only)
            .map(|(name, _)| name.clone())
            .collect(),
        templates: Some(mail.template_names()),
        broken_templates: mail.broken_templates(),
        secrets: Some(config.secrets.keys().cloned().collect()),
        queues: Some(config.queues.keys().cloned().collect()),
        artifacts: Some(config.objects.artifacts.clone()),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::permanent("listen_failed", format!("cannot listen on {address}: {error}"))
            .hint("set another address with `listen` in afterload.yaml or AFTERLOAD_LISTEN")
    })
}

/// Opens the stores, with the embedded one beside them unless every bucket that the service itself needs lies elsewhere.
async fn open_objects(
    config: &Config,
    close: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(Objects, Option<String>, Option<Embedded>)> {
    let artifacts = &config.objects.artifacts;
    let mut embedded = None;
    let access = if config.objects.store_of(artifacts).is_some() {
        None
    } else {
        let credentials = embedded::load_or_make_credentials(&config.data)?;
        let public = config.objects.buckets.iter().filter(|(_, bucket)| bucket.public).map(|(name, _)| name.clone());
        let store = Embedded::open(&config.data.join("objects"), credentials.clone())?.public(public);
        let listener = embedded::bind(config.objects.listen).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        embedded::note_endpoint(&config.data, &endpoint).await?;
        tasks.spawn(store.serve(listener, close.clone()));
        embedded = Some(store);
        Some(EmbeddedAccess { endpoint, access_key: credentials.access_key, secret_key: credentials.secret_key })
    };
    let s3 = access.as_ref().map(|access| access.endpoint.clone());
    let objects = Objects::connect(&config.objects, access).await?;
    objects.ensure_bucket(artifacts).await?;
    for bucket in config.objects.buckets.keys().filter(|bucket| objects.is_embedded(bucket)) {
        objects.ensure_bucket(bucket).await?;
    }
    Ok((objects, s3, embedded))
}
