//! Opens the object stores of a process, including the embedded one.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::codes;
use crate::config::Config;
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_object_store::ObjectStore;
use afterload_s3_server::{self as embedded, EmbeddedStore};

/// Which process serves the embedded store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmbeddedStoreMode {
    /// This process serves it at the configured address, and saves that address for its clients.
    Serve {
        /// How many files the process may open.
        open_files: u64,
    },
    /// The `serve` process of the same folder serves it.
    Attach,
}

pub(super) struct OpenedStores {
    pub objects: ObjectStore,
    /// The embedded store, unless the artifacts bucket is in another store.
    pub embedded: Option<EmbeddedStore>,
    /// The URL of the embedded store.
    pub address: Option<String>,
}

/// True if the artifacts bucket is in the embedded store.
fn artifacts_are_embedded(config: &Config) -> bool {
    config.objects.store_for_bucket(&config.objects.artifacts).is_none()
}

/// Fails if the artifacts bucket is embedded but the embedded store is in another folder or on another machine. Every
/// step would fail.
///
/// # Errors
/// `object_store_missing`
pub(super) fn ensure_store_exists(config: &Config) -> Result<()> {
    let folder = config.data.join("objects");
    if !artifacts_are_embedded(config) || embedded::store_exists(&folder) {
        return Ok(());
    }
    let artifacts = &config.objects.artifacts;
    let message =
        format!("the files of the service lie in its embedded store, and there is none in `{}`", folder.display());
    Err(Error::new(codes::OBJECT_STORE_MISSING, message).with_hint(format!(
        "start the worker in the folder of `afterload serve`, once that has been up; on another machine, name under \
         `objects` an S3 store for the bucket `{artifacts}` that all processes reach"
    )))
}

/// Opens the stores. The embedded store is opened unless the artifacts bucket is in another store.
pub(super) async fn open_stores(
    config: &Config,
    endpoint: EmbeddedStoreMode,
    clock: &Clock,
    close: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<OpenedStores> {
    let mut opened = None;
    if artifacts_are_embedded(config) {
        opened = Some(open_embedded_store(config, endpoint, clock, close, tasks).await?);
    }
    let (embedded, address) = opened.unzip();
    let access = embedded.as_ref().zip(address.clone()).map(|(store, address)| store.access(address));
    let objects = ObjectStore::connect(&config.objects, access).await?;
    objects.ensure_bucket(&config.objects.artifacts).await?;
    for bucket in config.objects.buckets.keys().filter(|bucket| objects.is_embedded(bucket)) {
        objects.ensure_bucket(bucket).await?;
    }
    Ok(OpenedStores { objects, embedded, address })
}

async fn open_embedded_store(
    config: &Config,
    endpoint: EmbeddedStoreMode,
    clock: &Clock,
    close: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(EmbeddedStore, String)> {
    let credentials = embedded::load_or_create_credentials(&config.data)?;
    let public = config.objects.buckets.iter().filter(|(_, bucket)| bucket.public).map(|(name, _)| name.clone());
    let store = EmbeddedStore::open(&config.data.join("objects"), credentials, clock.clone())?;
    let store = store.with_public_buckets(public);
    let endpoint = match endpoint {
        EmbeddedStoreMode::Serve { open_files } => {
            let limits = &config.limits.connections;
            let store = store.clone().with_connection_limits(limits.max_s3_connections(open_files), limits.timeouts());
            let listener = embedded::bind_listener(config.objects.listen).await?;
            let url = format!("http://{}", listener.local_addr()?);
            embedded::save_endpoint(&config.data, &url).await?;
            tasks.spawn(store.serve(listener, close.clone()));
            url
        }
        EmbeddedStoreMode::Attach => embedded::load_endpoint(&config.data, config.objects.listen),
    };
    Ok((store, endpoint))
}
