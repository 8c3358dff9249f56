//! The stores of a process, and the embedded one beside them.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::codes;
use crate::config::Config;
use afterload_core::error::{Error, Result};
use afterload_object_store::ObjectStore;
use afterload_s3_server::{self as embedded, EmbeddedStore};

/// Who answers for the embedded store that a process opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmbeddedStoreMode {
    /// This process, at the configured address, which is noted for the clients of the store.
    Serve,
    /// The `serve` whose folder it is.
    Attach,
}

/// The stores as a process has opened them.
pub(super) struct OpenedStores {
    pub objects: ObjectStore,
    /// The embedded store, unless the bucket of the artifacts lies elsewhere.
    pub embedded: Option<EmbeddedStore>,
    /// Where others reach the embedded store.
    pub address: Option<String>,
}

/// True if the service itself keeps its files in the embedded store.
fn artifacts_are_embedded(config: &Config) -> bool {
    config.objects.store_for_bucket(&config.objects.artifacts).is_none()
}

/// Refuses to work where the files of the service are not: its embedded store lies in another folder, or on another
/// machine, and every step would fail.
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

/// Opens the stores, with the embedded one beside them unless every bucket that the service itself needs lies elsewhere.
pub(super) async fn open_stores(
    config: &Config,
    endpoint: EmbeddedStoreMode,
    close: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<OpenedStores> {
    let mut opened = None;
    if artifacts_are_embedded(config) {
        opened = Some(open_embedded_store(config, endpoint, close, tasks).await?);
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
    close: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(EmbeddedStore, String)> {
    let credentials = embedded::load_or_create_credentials(&config.data)?;
    let public = config.objects.buckets.iter().filter(|(_, bucket)| bucket.public).map(|(name, _)| name.clone());
    let store = EmbeddedStore::open(&config.data.join("objects"), credentials)?.with_public_buckets(public);
    let endpoint = match endpoint {
        EmbeddedStoreMode::Serve => {
            let listener = embedded::bind_listener(config.objects.listen).await?;
            let here = format!("http://{}", listener.local_addr()?);
            embedded::save_endpoint(&config.data, &here).await?;
            tasks.spawn(store.serve(listener, close.clone()));
            here
        }
        EmbeddedStoreMode::Attach => embedded::load_endpoint(&config.data, config.objects.listen),
    };
    Ok((store, endpoint))
}
