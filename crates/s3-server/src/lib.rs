//! The embedded S3 endpoint: blobs are files, and one SQLite file beside them holds everything else.
//!
//! ```text
//! data/objects/
//!   index.db         buckets, objects, parts, uploads, events
//!   bodies/XX/ID     one file per blob; a multipart object has one per part
//!   incoming/ID      blobs that are being written
//! ```
//! Several processes may open the same directory. A blob is synced and moved to its place before the transaction that
//! makes it visible, and removed after the transaction that drops it. A crash therefore leaves at most files that the
//! index does not name, and garbage collection removes those. Keys never become paths.

mod access;
mod admission;
mod api;
mod blobs;
mod body_fault;
mod buckets;
mod chunk_limit;
pub mod codes;
mod copy;
mod cors;
mod credentials;
mod digest;
mod dispatch;
mod error;
mod error_text;
mod gc;
mod get;
mod in_process;
mod index;
mod list;
mod lock;
mod multipart;
mod operations;
mod put;
mod query;
mod safe_headers;
mod serve;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use aws_sdk_s3::config::SharedHttpClient;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result, Retryability};
use afterload_core::secret::Secret;
use afterload_http_listener::{ConnectionLimits, HttpTimeouts};
use afterload_object_store::EmbeddedEndpoint;

pub use credentials::{
    S3Credentials, S3KeyPair, forget_previous_credentials, load_or_create_credentials, rotate_credentials,
};
pub use index::events::{ObjectEvent, ObjectEventKind};

use blobs::BlobDir;
use index::ObjectIndex;

/// The maximum number of connections unless the owner of the store sets it.
const DEFAULT_MAX_CONNECTIONS: usize = 128;
/// The maximum size of an XML body, which is held in memory. A list of 1,000 keys to delete, or of 10,000 parts, fits.
const MAX_XML_BYTES: usize = 4 << 20;
/// The file name of the index.
const INDEX_FILE: &str = "index.db";

/// The embedded store: a directory and its keys. It is cheap to clone.
#[derive(Clone)]
pub struct EmbeddedStore {
    backend: Arc<S3Backend>,
    credentials: S3Credentials,
    /// Buckets whose objects can be read without a signature.
    public_buckets: Arc<BTreeSet<String>>,
    max_connections: usize,
    timeouts: HttpTimeouts,
}

/// The state that all requests share.
struct S3Backend {
    index: ObjectIndex,
    blobs: BlobDir,
    clock: Clock,
    /// Notified when this process has created an object.
    changed: Notify,
    /// Limits the bodies that are collected and written at the same time. The others wait in their sockets.
    body_writes: Semaphore,
}

impl S3Backend {
    fn new(index: ObjectIndex, blobs: BlobDir, clock: Clock) -> Self {
        let body_writes = Semaphore::new(put::MAX_PARALLEL_WRITES);
        Self { index, blobs, clock, changed: Notify::new(), body_writes }
    }
}

impl EmbeddedStore {
    /// Opens the store in `dir`, and creates it if needed. Leftovers of crashes are removed in the background.
    ///
    /// # Errors
    /// `object_store_error` if the directory cannot be written, or if a newer version created it.
    pub fn open(dir: &Path, credentials: S3Credentials, clock: Clock) -> Result<Self> {
        let failed = |error: error::S3ServerError| {
            Error::new(codes::OBJECT_STORE_ERROR, error.to_string())
                .context(format!("opening the object store in `{}`", dir.display()))
        };
        let bodies = BlobDir::open(dir).map_err(|error| failed(error.into()))?;
        let index = ObjectIndex::open(&dir.join(INDEX_FILE)).map_err(failed)?;
        let store = Arc::new(S3Backend::new(index, bodies, clock));
        gc::spawn_gc(&store);
        let timeouts = ConnectionLimits::default().timeouts();
        let public_buckets = Arc::default();
        Ok(Self { backend: store, credentials, public_buckets, max_connections: DEFAULT_MAX_CONNECTIONS, timeouts })
    }

    /// Allows unsigned reads of the objects in these buckets.
    #[must_use]
    pub fn with_public_buckets(mut self, buckets: impl IntoIterator<Item = String>) -> Self {
        self.public_buckets = Arc::new(buckets.into_iter().collect());
        self
    }

    /// Sets the maximum number of connections and the limits on slow clients.
    #[must_use]
    pub fn with_connection_limits(mut self, max_connections: usize, timeouts: HttpTimeouts) -> Self {
        (self.max_connections, self.timeouts) = (max_connections, timeouts);
        self
    }

    /// Serves S3 requests on `listener` until `stop`. Requests in progress get at most ten seconds more.
    pub fn serve(&self, listener: TcpListener, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        serve::serve(self.build_service(), listener, self.max_connections, self.timeouts, stop)
    }

    fn build_service(&self) -> S3Service {
        let mut builder = S3ServiceBuilder::new(api::S3Api(Arc::clone(&self.backend)));
        builder.set_auth(access::StaticAuth(self.credentials.clone()));
        builder.set_access(access::AccessPolicy(Arc::clone(&self.public_buckets)));
        let mut config = S3Config::default();
        config.xml_max_body_size = MAX_XML_BYTES;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        builder.build()
    }

    /// The keys of the store.
    pub fn credentials(&self) -> &S3Credentials {
        &self.credentials
    }

    /// The settings for clients in this process, which need no socket. Other clients use `public_endpoint`.
    pub fn access(&self, public_endpoint: String) -> EmbeddedEndpoint {
        EmbeddedEndpoint {
            http: SharedHttpClient::new(in_process::InProcessConnector {
                service: self.build_service(),
                read_timeout: None,
            }),
            endpoint: in_process::IN_PROCESS_ENDPOINT.to_owned(),
            public_endpoint,
            access_key: Secret::new(self.credentials.access_key.clone()),
            secret_key: self.credentials.secret_key.clone(),
        }
    }

    /// Lists at most `limit` events after event `seq`, oldest first.
    ///
    /// # Errors
    /// `object_store_error` if the index cannot be read.
    pub async fn events_after(&self, seq: i64, limit: u32) -> Result<Vec<ObjectEvent>> {
        let read =
            self.backend.read_index(move |connection| index::events::list_events_after(connection, seq, limit)).await;
        read.map_err(|error| {
            Error::new(codes::OBJECT_STORE_ERROR, format!("reading the events: {error}"))
                .with_retryability(Retryability::Transient)
        })
    }

    /// Waits until this process has created an object since the last call. Objects of other processes
    /// are found by polling only.
    pub async fn wait_for_change(&self) {
        self.backend.changed.notified().await;
    }

    /// Deletes the events up to and including `seq`, after they have been processed.
    ///
    /// # Errors
    /// `object_store_error` if the index cannot be written.
    pub async fn delete_events(&self, seq: i64) -> Result<()> {
        let done = self.backend.write_index(move |tx| index::events::delete_events_through(&tx.sql, seq)).await;
        done.map_err(|error| {
            Error::new(codes::OBJECT_STORE_ERROR, format!("forgetting events: {error}"))
                .with_retryability(Retryability::Transient)
        })
    }
}

/// Whether `dir` contains a store.
pub fn store_exists(dir: &Path) -> bool {
    dir.join(INDEX_FILE).exists()
}

/// The file with the endpoint of the store, which `afterload key s3` prints.
const ENDPOINT_FILE: &str = "s3-endpoint";

/// Saves the endpoint on which the store of this directory listens.
///
/// # Errors
/// `io_error` if the file cannot be written.
pub async fn save_endpoint(data: &Path, endpoint: &str) -> Result<()> {
    afterload_core::secrets::write_secret(&data.join(ENDPOINT_FILE), endpoint).await
}

/// The endpoint of the store in this directory. If none is saved, the configured address is used.
pub fn load_endpoint(data: &Path, configured: SocketAddr) -> String {
    let noted = std::fs::read_to_string(data.join(ENDPOINT_FILE)).ok();
    let noted = noted.map(|text| text.trim().to_owned()).filter(|text| text.starts_with("http://"));
    noted.unwrap_or_else(|| format!("http://{configured}")).replacen("//0.0.0.0:", "//127.0.0.1:", 1)
}

/// Binds the configured address. If it is in use, binds a free port of the same IP address.
///
/// # Errors
/// `listen_failed` if no port can be bound.
pub async fn bind_listener(listen: SocketAddr) -> Result<TcpListener> {
    let bound = match TcpListener::bind(listen).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(listen.ip(), 0)).await
        }
        bound => bound,
    };
    bound.map_err(|error| {
        Error::new(codes::LISTEN_FAILED, format!("cannot listen on {listen}: {error}"))
            .with_hint("set another address at `objects.listen`")
    })
}
