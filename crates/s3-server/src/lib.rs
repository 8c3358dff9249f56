//! The S3 endpoint inside the process: bodies are files, everything else is in one SQLite file beside them.
//!
//! ```text
//! data/objects/
//!   index.db         buckets, objects, parts, uploads, events
//!   bodies/XX/ID     one file per body; a multipart object has one per part
//!   incoming/ID      bodies on their way in
//! ```
//! Several processes may open the same folder. A body is synced and moved to its place before the transaction that
//! makes it visible, and removed after the transaction that forgets it, so a crash leaves at most a file that nothing
//! names; the sweep removes those. Keys never become paths.

mod access;
mod api;
mod blobs;
mod buckets;
pub mod codes;
mod copy;
mod cors;
mod credentials;
mod digest;
mod error;
mod error_text;
mod gc;
mod get;
mod in_process;
mod index;
mod list;
mod lock;
mod multipart;
mod put;
mod serve;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use aws_sdk_s3::config::SharedHttpClient;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use afterload_core::error::{Error, Result, Retryability};
use afterload_core::secret::Secret;
use afterload_object_store::EmbeddedEndpoint;

pub use credentials::{S3Credentials, load_or_create_credentials};
pub use index::events::{ObjectEvent, ObjectEventKind};

use blobs::BlobDir;
use index::ObjectIndex;

/// The file of the index.
const INDEX_FILE: &str = "index.db";

/// The embedded store: a folder and the keys to it; cheap to clone.
#[derive(Clone)]
pub struct EmbeddedStore {
    backend: Arc<S3Backend>,
    credentials: S3Credentials,
    /// Buckets whose objects anybody may read.
    public_buckets: Arc<BTreeSet<String>>,
}

/// What every request works on.
struct S3Backend {
    index: ObjectIndex,
    blobs: BlobDir,
    /// Told when this process has created an object.
    changed: Notify,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, and makes it if it is not there. Leftovers of crashes are removed in the background.
    ///
    /// # Errors
    /// `object_store_error` if the folder cannot be written or was made by a newer version.
    pub fn open(dir: &Path, credentials: S3Credentials) -> Result<Self> {
        let failed = |error: error::S3ServerError| {
            Error::new(codes::OBJECT_STORE_ERROR, error.to_string())
                .context(format!("opening the object store in `{}`", dir.display()))
        };
        let bodies = BlobDir::open(dir).map_err(|error| failed(error.into()))?;
        let index = ObjectIndex::open(&dir.join(INDEX_FILE)).map_err(failed)?;
        let store = Arc::new(S3Backend { index, blobs: bodies, changed: Notify::new() });
        gc::spawn_gc(&store);
        Ok(Self { backend: store, credentials, public_buckets: Arc::default() })
    }

    /// Lets anybody read the objects of these buckets, by their address.
    #[must_use]
    pub fn with_public_buckets(mut self, buckets: impl IntoIterator<Item = String>) -> Self {
        self.public_buckets = Arc::new(buckets.into_iter().collect());
        self
    }

    /// Answers S3 requests on `listener` until `stop`, then finishes the requests under way (for at most ten seconds).
    pub fn serve(&self, listener: TcpListener, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        serve::serve(self.build_service(), listener, stop)
    }

    fn build_service(&self) -> S3Service {
        let mut builder = S3ServiceBuilder::new(api::S3Api(Arc::clone(&self.backend)));
        builder.set_auth(access::StaticAuth(self.credentials.clone()));
        builder.set_access(access::AccessPolicy(Arc::clone(&self.public_buckets)));
        builder.build()
    }

    /// The keys to it.
    pub fn credentials(&self) -> &S3Credentials {
        &self.credentials
    }

    /// What clients in this process need to reach the store without a socket. `public_endpoint` is the address for others.
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

    /// What happened to objects after event `seq`, oldest first, at most `limit` of it.
    ///
    /// # Errors
    /// `object_store_error`.
    pub async fn events_after(&self, seq: i64, limit: u32) -> Result<Vec<ObjectEvent>> {
        let read =
            self.backend.read_index(move |connection| index::events::list_events_after(connection, seq, limit)).await;
        read.map_err(|error| {
            Error::new(codes::OBJECT_STORE_ERROR, format!("reading the events: {error}"))
                .with_retryability(Retryability::Transient)
        })
    }

    /// Returns once this process has created an object since the last call. What other processes of the folder create is
    /// seen only by looking.
    pub async fn wait_for_change(&self) {
        self.backend.changed.notified().await;
    }

    /// Forgets the events up to and including `seq`, once they have been dealt with.
    ///
    /// # Errors
    /// `object_store_error`.
    pub async fn delete_events(&self, seq: i64) -> Result<()> {
        let done = self.backend.write_index(move |tx| index::events::delete_events_through(&tx.sql, seq)).await;
        done.map_err(|error| {
            Error::new(codes::OBJECT_STORE_ERROR, format!("forgetting events: {error}"))
                .with_retryability(Retryability::Transient)
        })
    }
}

/// True if a store has been made in `dir`.
pub fn store_exists(dir: &Path) -> bool {
    dir.join(INDEX_FILE).exists()
}

/// The file that says where the store listens, which `afterload key s3` prints.
const ENDPOINT_FILE: &str = "s3-endpoint";

/// Notes where the store of this folder listens.
///
/// # Errors
/// `io_error`
pub async fn save_endpoint(data: &Path, endpoint: &str) -> Result<()> {
    afterload_core::secrets::write_secret(&data.join(ENDPOINT_FILE), endpoint).await
}

/// Where the store of this folder listens, or will if its port is free.
pub fn load_endpoint(data: &Path, configured: SocketAddr) -> String {
    let noted = std::fs::read_to_string(data.join(ENDPOINT_FILE)).ok();
    let noted = noted.map(|text| text.trim().to_owned()).filter(|text| text.starts_with("http://"));
    noted.unwrap_or_else(|| format!("http://{configured}")).replacen("//0.0.0.0:", "//127.0.0.1:", 1)
}

/// Listens on the configured address or, if that is taken, on a free port of the same IP.
///
/// # Errors
/// `listen_failed`.
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
