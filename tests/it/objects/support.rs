//! A store on a free port, and a proxy that cuts connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use afterload::config::{BucketConfig, ObjectStoreConfig, ObjectsConfig, Secret};
use afterload_core::clock::Clock;
use afterload_object_store::ObjectStore;
use afterload_s3_server::{EmbeddedStore, S3Credentials, bind_listener, load_or_create_credentials};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Builder, Region};
use bytes::Bytes;
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

pub const BUCKET: &str = "uploads";

/// An embedded store that serves until it is dropped.
pub struct Store {
    pub dir: TempDir,
    pub embedded: EmbeddedStore,
    pub endpoint: String,
    pub credentials: S3Credentials,
    /// The in-process client, as the service uses its own store.
    pub objects: ObjectStore,
    pub stop: CancellationToken,
    _stop: DropGuard,
}

impl Store {
    /// Creates a store with one bucket.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let credentials = load_or_create_credentials(dir.path()).unwrap();
        let embedded = EmbeddedStore::open(&dir.path().join("objects"), credentials.clone(), Clock::system()).unwrap();
        let embedded = embedded.with_public_buckets(["public".to_owned()]);
        let stop = CancellationToken::new();
        let endpoint = serve(&embedded, &stop).await;
        let access = embedded.access(endpoint.clone());
        let objects = ObjectStore::connect(&ObjectsConfig::default(), Some(access)).await.unwrap();
        objects.ensure_bucket(BUCKET).await.unwrap();
        let _stop = stop.clone().drop_guard();
        Self { dir, embedded, endpoint, credentials, objects, stop, _stop }
    }

    /// Returns an AWS SDK client without any code of ours.
    pub fn sdk(&self) -> Client {
        sdk(&self.endpoint, &self.credentials.access_key, self.credentials.secret_key.expose_secret())
    }

    /// Lists all object files on disk.
    pub fn bodies(&self) -> Vec<PathBuf> {
        let objects = self.dir.path().join("objects");
        let shards = files(&objects.join("bodies"));
        shards.iter().flat_map(|shard| files(shard)).chain(files(&objects.join("incoming"))).collect()
    }

    /// Waits until there are this many object files on disk.
    pub async fn until_bodies(&self, count: usize) {
        until(|| self.bodies().len() == count, || format!("{count} bodies, not {:?}", self.bodies())).await;
    }
}

/// Waits for a condition.
pub async fn until(condition: impl Fn() -> bool, what: impl Fn() -> String) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("waited for {}", what());
}

pub async fn serve(embedded: &EmbeddedStore, stop: &CancellationToken) -> String {
    let listener = bind_listener(([127, 0, 0, 1], 0).into()).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(embedded.serve(listener, stop.clone()));
    endpoint
}

pub fn sdk(endpoint: &str, access_key: &str, secret_key: &str) -> Client {
    let credentials = aws_sdk_s3::config::Credentials::new(access_key, secret_key, None, None, "test");
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials)
        .force_path_style(true)
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

/// Connects over HTTP, as for any other store.
pub async fn connect(endpoint: &str, credentials: &S3Credentials) -> ObjectStore {
    connect_named(named(endpoint, credentials)).await
}

/// Connects to the same store under a name, with its own settings.
pub async fn connect_named(config: ObjectStoreConfig) -> ObjectStore {
    let mut objects = ObjectsConfig::default();
    objects.stores.insert("named".to_owned(), config);
    objects
        .buckets
        .insert(BUCKET.to_owned(), BucketConfig { store: Some("named".to_owned()), ..BucketConfig::default() });
    ObjectStore::connect(&objects, None).await.unwrap()
}

pub fn named(endpoint: &str, credentials: &S3Credentials) -> ObjectStoreConfig {
    ObjectStoreConfig {
        endpoint: Some(endpoint.to_owned()),
        access_key: Some(Secret::new(credentials.access_key.clone())),
        secret_key: Some(credentials.secret_key.clone()),
        path_style: true,
        ..ObjectStoreConfig::default()
    }
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

pub async fn all(body: afterload_object_store::ObjectBody) -> Vec<u8> {
    let parts: Vec<Bytes> = body.stream.try_collect().await.unwrap();
    parts.concat()
}

/// Returns pseudo-random bytes without repetition.
pub fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A proxy that cuts each of the first connections after this many bytes of the response.
pub struct Cutter {
    pub endpoint: String,
    pub cuts: Arc<AtomicUsize>,
}

impl Cutter {
    pub async fn start(to: &str, cuts: usize, after: usize) -> Self {
        let to = to.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let left = Arc::new(AtomicUsize::new(cuts));
        let cuts = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, TcpStream::connect(to.clone()).await.unwrap(), Arc::clone(&left), after));
            }
        });
        Self { endpoint, cuts }
    }
}

async fn relay(client: TcpStream, server: TcpStream, left: Arc<AtomicUsize>, after: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let (mut sent, mut buffer) = (0, vec![0; 16 << 10]);
    while let Ok(count) = from_server.read(&mut buffer).await {
        sent += count;
        let cut =
            sent > after && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if count == 0 || cut || to_client.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    up.abort();
}
