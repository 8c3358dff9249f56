//! The configuration from `afterload.yaml` and `AFTERLOAD_…` variables. Every setting has a default.

mod check;
mod environment;
mod limits;
mod load;

pub use limits::Limits;
pub use load::DEFAULT_CONFIG_FILE;

pub use afterload_core::secret::Secret;
pub use afterload_egress::{EgressRule, HttpConfig, HttpLimits, WebhooksConfig};
pub use afterload_engine::{EngineConfig, QueueConfig, RetentionConfig};
pub use afterload_geoip::{GeoConfig, GeoHttpConfig};
pub use afterload_http_listener::ConnectionLimits;
pub use afterload_image_resize::ImageLimits;
pub use afterload_mailer::{DkimConfig, MailConfig, MailLimits, SmtpConfig, SmtpTls};
pub use afterload_object_store::{BucketConfig, ObjectStoreConfig, ObjectsConfig, RequestChecksumMode};
pub use afterload_server::api::WatcherLimits;
pub use afterload_target_db::{CheckpointMode, ConnectionConfig};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::keyring::Keyring;
use afterload_core::redactor::Redactor;
use afterload_core::units::listen_address;
use afterload_egress::WebhookSigner;
use afterload_geoip::GeoOptions;
use afterload_mailer::MailerOptions;
use afterload_server::api::{ServerConfig, TrustedProxies};

/// The configuration. By default everything is embedded under `data/`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address that the API listens on.
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// The public URL of this service, for links in mails and responses; default `http://{listen}`.
    pub public_url: Option<String>,
    /// The origins whose pages may read responses to a token in the URL, such as `https://shop.example`; default: all.
    pub cors: Option<Vec<String>>,
    /// The reverse proxies in front, as addresses or networks such as `10.0.0.0/8`: what they report in `Forwarded` or
    /// `X-Forwarded-For` is the address of the client; default: none.
    pub trusted_proxies: Vec<String>,
    /// The key from which the tokens of links are derived. Created in `data/` by default; required with PostgreSQL.
    pub secret_key: Option<Secret>,
    /// Earlier values of `secret_key`. They sign nothing new, but what they signed stays valid: links, tokens, and the files
    /// of runs under way.
    pub previous_secret_keys: Vec<Secret>,
    /// The folder of all embedded data.
    pub data: PathBuf,
    /// State and queue: `sqlite://PATH` or `postgres://…`; default a SQLite file under `data/`.
    pub database: Option<Secret>,
    /// The folder of the pipelines.
    pub pipelines: PathBuf,
    /// How changes of the pipelines and templates are detected while the service runs.
    pub watch: WatchMode,
    /// The folder of the mail templates.
    pub templates: PathBuf,
    /// Where files are stored.
    pub objects: ObjectsConfig,
    /// Outgoing mail.
    pub mail: MailConfig,
    /// Outgoing HTTP calls.
    pub http: HttpConfig,
    /// Signed outgoing calls.
    pub webhooks: WebhooksConfig,
    /// The target databases of pipelines; default `app`, a SQLite file under `data/`.
    pub connections: BTreeMap<String, ConnectionConfig>,
    /// The providers of geo lookups.
    pub geo: GeoConfig,
    /// Queues with settings of their own; other queues use the defaults.
    pub queues: BTreeMap<String, QueueConfig>,
    /// Limits on input and on failures.
    pub limits: Limits,
    /// How long runs and their files are kept, unless the pipeline sets it.
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
            previous_secret_keys: Vec::new(),
            data: "data".into(),
            cors: None,
            trusted_proxies: Vec::new(),
            database: None,
            pipelines: "pipelines".into(),
            watch: WatchMode::default(),
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

/// How changes of the pipelines are detected while the service runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchMode {
    /// By file system events, and by scans twice a second for mounts without events.
    #[default]
    Auto,
    /// By scans twice a second only.
    Poll,
    /// Never: the folder is read only at the start.
    Off,
}

impl Config {
    /// The public URL of this service, without a slash at the end.
    pub fn base_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.listen),
        }
    }

    /// The folder that receives `.eml` files.
    pub fn outbox_dir(&self) -> PathBuf {
        self.mail.outbox.clone().unwrap_or_else(|| self.data.join("outbox"))
    }

    /// The folder of the files that `mmdb:NAME` names.
    pub fn geo_dir(&self) -> PathBuf {
        self.geo.folder.clone().unwrap_or_else(|| self.data.join("geo"))
    }

    /// The keys that sign and verify tokens, seals and webhooks; empty without a `secret_key`.
    pub fn keyring(&self) -> Keyring {
        let newest = self.secret_key.as_ref().map_or("", Secret::expose_secret);
        Keyring::new(newest, self.previous_secret_keys.iter().map(Secret::expose_secret))
    }

    /// The configuration of the engine.
    pub fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            base_url: self.base_url(),
            keyring: self.keyring(),
            artifacts: self.objects.artifacts.clone(),
            queues: self.queues.clone(),
            max_crashes: self.limits.crashes,
            max_hops: self.limits.hops,
            lease: self.limits.lease.0,
            drain: self.limits.drain.0,
            retention: self.retention.clone(),
            smtputf8: self.mail.smtputf8,
            secrets: self.secrets.clone(),
        }
    }

    /// The configuration of the server.
    pub fn server_config(&self) -> ServerConfig {
        ServerConfig {
            listen: self.listen,
            base_url: self.base_url(),
            keyring: self.keyring(),
            cors: self.cors.clone(),
            artifacts: self.objects.artifacts.clone(),
            buckets: self.objects.buckets.keys().cloned().collect(),
            max_upload: self.limits.upload,
            max_body: self.limits.body,
            max_form_parts: self.limits.form_parts,
            max_files: self.limits.files,
            inline_wait: self.limits.inline_wait.0,
            max_wait: self.limits.wait.0,
            watchers: self.limits.watchers.clone(),
            trusted_proxies: TrustedProxies::from_list(&self.trusted_proxies),
            max_wrong_keys: self.limits.wrong_keys,
            webhooks: self.webhooks.clone(),
        }
    }

    /// The options of the mailer.
    pub fn mailer_options(&self) -> MailerOptions {
        MailerOptions {
            mail: self.mail.clone(),
            limits: self.limits.mail.clone(),
            templates: self.templates.join("email"),
            outbox: self.outbox_dir(),
        }
    }

    /// The options of geo lookups.
    pub fn geo_options(&self) -> GeoOptions {
        GeoOptions { folder: self.geo_dir(), services: self.geo.http.clone() }
    }

    /// The signer of outgoing webhooks.
    pub fn webhook_signer(&self) -> WebhookSigner {
        WebhookSigner::new(&self.webhooks, &self.keyring())
    }

    /// A redactor for the secrets of this configuration and for `more`.
    pub fn redactor<'a>(&'a self, more: impl IntoIterator<Item = &'a Secret>) -> Redactor {
        let urls = self.connections.values().map(|connection| &connection.url).chain(&self.database);
        let others: Vec<Secret> = urls.flat_map(url_passwords).chain(more.into_iter().cloned()).collect();
        let smtp = self.mail.smtp.as_ref().and_then(|smtp| smtp.password.as_ref());
        let secrets = self
            .secrets
            .values()
            .chain(smtp)
            .chain(&self.secret_key)
            .chain(&self.previous_secret_keys)
            .chain(&self.webhooks.secret)
            .chain(self.webhooks.events.values())
            .chain(self.geo.http.values().flat_map(|service| service.headers.values()))
            .chain(self.objects.stores.values().filter_map(|store| store.secret_key.as_ref()))
            .chain(&others);
        Redactor::new(secrets)
    }

    /// The URL of the state database.
    pub fn database_url(&self) -> String {
        match &self.database {
            Some(url) => url.expose_secret().to_owned(),
            None => format!("sqlite://{}", self.data.join("afterload.db").display()),
        }
    }
}

/// The password of a database URL, as it is and as the database receives it.
fn url_passwords(url: &Secret) -> Vec<Secret> {
    let Ok(url) = url::Url::parse(url.expose_secret()) else { return Vec::new() };
    let in_query = url.query_pairs().filter(|(name, _)| name == "password").map(|(_, value)| value.into_owned());
    let written = url.password().unwrap_or_default().to_owned();
    let sent = url::form_urlencoded::parse(format!("p={}", written.replace('+', "%2B")).as_bytes())
        .map(|(_, value)| value.into_owned())
        .collect::<Vec<_>>();
    let database = url.path().trim_start_matches('/');
    let names = [url.username(), database, url.host_str().unwrap_or_default()];
    // What stands beside it in the clear is no secret, and hiding it would damage many outputs.
    let passwords = in_query.chain(sent).chain([written]).filter(|password| !names.contains(&password.as_str()));
    passwords.map(Secret::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_credentials_are_redacted() {
        let config = serde_json::json!({
            "database": "postgres://service:state%2Fpass+word@db/service",
            "connections": {
                "app": { "url": "postgres://afterload:afterload@db/afterload" },
                "other": { "url": "postgres://db/other?user=a&password=query-password" },
            },
            "objects": { "stores": { "s3": { "access_key": "access-key-id", "secret_key": "store-secret-key" } } },
            "secrets": { "TOKEN": "token-of-pipelines" },
        });
        let config: Config = serde_json::from_value(config).unwrap();
        let more = Secret::new("embedded-store-key");
        let redactor = config.redactor([&more]);
        for secret in [
            "state/pass+word",
            "state%2Fpass+word",
            "query-password",
            "store-secret-key",
            "token-of-pipelines",
            "embedded-store-key",
        ] {
            assert_eq!(redactor.redact_text(&format!("<{secret}>")), "<***>", "{secret}");
        }
        for plain in ["afterload", "access-key-id"] {
            assert_eq!(redactor.redact_text(plain), plain);
        }
    }
}
