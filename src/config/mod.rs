//! `afterload.yaml` and the `AFTERLOAD_…` environment: what a team may set, with the defaults that need nothing.

mod check;
mod environment;
mod geo;
mod hidden;
mod http;
mod limits;
mod load;

pub use geo::{GeoConfig, GeoHttpConfig, GeoPreset};
pub use hidden::Hidden;
pub use http::{Allowed, Hosts, HttpConfig, WebhooksConfig};
pub use limits::{HttpLimits, ImageLimits, Limits, MailLimits, RetentionConfig};
pub use load::DEFAULT_FILE;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::Duration;

/// A value that is never shown: not in logs, errors, pages or records.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `value` from being shown by accident.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// The whole configuration. Absent file and environment: everything embedded under `data/`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API listens.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// How others reach this service, for links in mails and answers; default `http://{listen}`.
    pub public_url: Option<String>,
    /// The origins whose pages may read what the token of an address shows, such as `https://shop.example`; default: all.
    pub cors: Option<Vec<String>>,
    /// Derives the tokens of links; made in `data/` when absent, required with PostgreSQL.
    pub secret_key: Option<Secret>,
    /// The folder of everything embedded.
    pub data: PathBuf,
    /// State and queue: `sqlite://PATH` or `postgres://…`; default a SQLite file under `data/`.
    pub database: Option<Secret>,
    /// The folder of the pipelines.
    pub pipelines: PathBuf,
    /// How changes of the pipelines and templates are noticed while the service runs.
    pub watch: Watch,
    /// The folder of the mail templates.
    pub templates: PathBuf,
    /// Where files are kept.
    pub objects: ObjectsConfig,
    /// How mail leaves.
    pub mail: MailConfig,
    /// Outgoing calls.
    pub http: HttpConfig,
    /// Outgoing calls that are signed.
    pub webhooks: WebhooksConfig,
    /// The databases that pipelines work on; default `app`, a SQLite file under `data/`.
    pub connections: BTreeMap<String, ConnectionConfig>,
    /// Who can be asked where an address is.
    pub geo: GeoConfig,
    /// Queues with settings of their own; other queues run with the defaults.
    pub queues: BTreeMap<String, QueueConfig>,
    /// Limits on what comes in and on what may go wrong.
    pub limits: Limits,
    /// How long runs and their files are kept where the pipeline does not say so.
    pub retention: RetentionConfig,
    /// Values for `${{ secrets.NAME }}`.
    pub secrets: BTreeMap<String, Secret>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            secret_key: None,
            data: "data".into(),
            cors: None,
            database: None,
            pipelines: "pipelines".into(),
            watch: Watch::default(),
            templates: "templates".into(),
            objects: ObjectsConfig::default(),
            mail: MailConfig::default(),
            http: HttpConfig::default(),
            webhooks: WebhooksConfig::default(),
            connections: BTreeMap::new(),
            geo: GeoConfig::default(),
            queues: BTreeMap::new(),
            limits: Limits::default(),
            retention: RetentionConfig::default(),
            secrets: BTreeMap::new(),
        }
    }
}

/// How changes of the pipelines are noticed while the service runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// The system says so; a look twice a second covers mounts on which it does not.
    #[default]
    Auto,
    /// A look twice a second alone.
    Poll,
    /// Not at all: the folder is read at the start.
    Off,
}

/// Where files are kept. A bucket that names no store lies in the embedded one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectsConfig {
    /// Where the embedded S3 endpoint listens; when the port is taken, a free one is used.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// S3 stores by name.
    pub stores: BTreeMap<String, StoreConfig>,
    /// Buckets and the store that holds each.
    pub buckets: BTreeMap<String, BucketConfig>,
    /// The bucket of uploads and results.
    pub artifacts: String,
}

impl Default for ObjectsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            stores: BTreeMap::new(),
            buckets: BTreeMap::new(),
            artifacts: "artifacts".into(),
        }
    }
}

/// An S3 store: AWS, MinIO, SeaweedFS, R2, Garage, Ceph.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The address of the store; absent for AWS.
    pub endpoint: Option<String>,
    /// The address at which browsers reach the store, for direct uploads; default `endpoint`.
    pub public_endpoint: Option<String>,
    /// The region; default `us-east-1`.
    pub region: Option<String>,
    /// The access key; absent: the AWS credential chain (environment, profile, instance role).
    pub access_key: Option<Secret>,
    /// The secret key that goes with it.
    pub secret_key: Option<Secret>,
    /// `http://host/bucket/key` rather than `http://bucket.host/key`; what most stores but AWS want.
    pub path_style: bool,
    /// When request checksums are sent; some stores refuse the SDK's streamed ones.
    pub checksums: Checksums,
}

/// When request checksums are sent to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// With every upload.
    #[default]
    WhenSupported,
    /// Only where the operation requires one (Garage and Ceph need this).
    WhenRequired,
}

/// Where a bucket lies.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BucketConfig {
    /// The name of a store under `objects.stores`; default the embedded store.
    pub store: Option<String>,
    /// Whether anybody may read its objects from the embedded store, such as thumbnails that a site serves. Other stores
    /// have settings of their own for that.
    pub public: bool,
    /// Where the world finds its objects, such as `https://cdn.example.com`; default the store's endpoint and the bucket.
    pub public_url: Option<String>,
}

impl ObjectsConfig {
    /// The store that holds a bucket; `None`: the embedded one.
    pub fn store_of(&self, bucket: &str) -> Option<&str> {
        self.buckets.get(bucket)?.store.as_deref()
    }
}

/// How mail leaves.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MailConfig {
    /// The folder that receives `.eml` files; default `data/outbox`.
    pub outbox: Option<PathBuf>,
    /// The sender where a step names none.
    pub from: String,
    /// The server that takes our mail; without one, mail goes into the outbox.
    pub smtp: Option<SmtpConfig>,
    /// How many mails may leave in a minute, in all processes together, for the people of a domain: `gmail.com: 60`; `*`
    /// stands for each domain that is not named. What has to wait does so in its step, and holds up what the step would send
    /// after it; a step with many mails for such a domain needs a `timeout` to match.
    pub per_minute: BTreeMap<String, u32>,
}

impl MailConfig {
    /// What stands in `per_minute` for the domains that are not named.
    pub const OTHERS: &str = "*";
}

impl Default for MailConfig {
    fn default() -> Self {
        let from = "afterload <afterload@localhost>".into();
        Self { outbox: None, from, smtp: None, per_minute: BTreeMap::new() }
    }
}

/// A server that takes our mail.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// Its name, the same as in its certificate.
    pub host: String,
    /// Its port; default 587, with `tls: implicit` 465, with `tls: none` 25.
    #[serde(default)]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Who we are to the server.
    #[serde(default)]
    pub user: Option<String>,
    /// The password that goes with it.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with certificates in PEM form that are trusted beside those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How long each exchange with the server may take; default `60s`.
    #[serde(default = "smtp_timeout")]
    pub timeout: Duration,
    /// Connections at the same time; default 4.
    #[serde(default = "smtp_connections")]
    #[schemars(range(min = 1, max = 100))]
    pub connections: usize,
}

impl SmtpConfig {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            SmtpTls::None => 25,
            SmtpTls::Starttls => 587,
            SmtpTls::Implicit => 465,
        })
    }
}

fn smtp_timeout() -> Duration {
    Duration(std::time::Duration::from_secs(60))
}

fn smtp_connections() -> usize {
    4
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// TLS after a greeting in the clear; a server that does not offer it gets no mail.
    #[default]
    Starttls,
    /// TLS from the start.
    Implicit,
    /// None at all; only for a server on this machine or on a network of its own.
    None,
}

/// A database that pipelines work on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    /// `sqlite://PATH` or `postgres://…`.
    pub url: Secret,
    /// The PostgreSQL schema of unqualified tables and of `afterload_checkpoints`.
    #[serde(default)]
    pub schema: Option<String>,
    /// Refuses every step that writes.
    #[serde(default)]
    pub read_only: bool,
    /// Whether `afterload_checkpoints` may be created there.
    #[serde(default)]
    pub checkpoints: Checkpoints,
}

/// Whether chunked work may keep its cursor in the target database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checkpoints {
    /// The table is created when first needed; each row takes effect once.
    #[default]
    Table,
    /// No table; only steps that may safely repeat are allowed.
    None,
}

/// How a queue is worked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Steps that one process runs at the same time.
    #[schemars(range(min = 1, max = 1000))]
    pub concurrency: usize,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { concurrency: 4 }
    }
}

/// An address to listen on; the standard message does not say what one looks like.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let expected = "an address such as `127.0.0.1:8080`";
    text.parse().map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &expected))
}

impl Config {
    /// How others reach this service, without a slash at the end.
    pub fn base_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.listen),
        }
    }

    /// Where `.eml` files go.
    pub fn outbox(&self) -> PathBuf {
        self.mail.outbox.clone().unwrap_or_else(|| self.data.join("outbox"))
    }

    /// Where the files are that say where addresses are.
    pub fn geo_folder(&self) -> PathBuf {
        self.geo.folder.clone().unwrap_or_else(|| self.data.join("geo"))
    }

    /// The database of state and queue.
    pub fn database_url(&self) -> String {
        match &self.database {
            Some(url) => url.reveal().to_owned(),
            None => format!("sqlite://{}", self.data.join("afterload.db").display()),
        }
    }
}
