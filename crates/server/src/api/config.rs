//! The configuration of the server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::client_address::TrustedProxies;
use afterload_core::keyring::Keyring;
use afterload_core::units::{ByteSize, HumanDuration};
use afterload_egress::WebhooksConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The configuration of the server. The binary creates it from the configuration file.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address that the API listens on.
    pub listen: SocketAddr,
    /// The public URL of this service, without a slash at the end.
    pub base_url: String,
    /// Signs the links of runs and files.
    pub keyring: Keyring,
    /// The origins whose pages may read responses with open CORS; `None` for all.
    pub cors: Option<Vec<String>>,
    /// The bucket of uploads and results.
    pub artifacts: String,
    /// The buckets that the configuration names.
    pub buckets: BTreeSet<String>,
    /// The maximum size of an upload.
    pub max_upload: ByteSize,
    /// The maximum size of a JSON body.
    pub max_body: ByteSize,
    /// The maximum number of parts of a form.
    pub max_form_parts: usize,
    /// The maximum number of files of a request.
    pub max_files: usize,
    /// How long a response waits for `inline` steps.
    pub inline_wait: Duration,
    /// How long a response waits for the end of a run with `Prefer: wait`.
    pub max_wait: Duration,
    /// Limits on the clients that watch runs.
    pub watchers: WatcherLimits,
    /// The proxies whose reports about the addresses of clients count.
    pub trusted_proxies: TrustedProxies,
    /// How many wrong keys and tokens an address may send in a minute.
    pub max_wrong_keys: u32,
    /// The secrets of the senders that may publish events by signed webhook.
    pub webhooks: WebhooksConfig,
}

/// Limits on the clients that watch runs: event streams, and requests that wait for the end of a run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WatcherLimits {
    /// The maximum number of watchers of one run in a process; default 500, and at most half of `total`.
    #[schemars(range(min = 1))]
    pub per_run: u32,
    /// The maximum number of watchers in a process; default 2000, and at most half of the connections.
    #[schemars(range(min = 1))]
    pub total: u32,
    /// How often an event stream checks that its key or token is still valid; default `15s`.
    pub recheck: HumanDuration,
}

impl WatcherLimits {
    /// Leaves half of the connections to other requests, and half of the watchers to other runs.
    #[must_use]
    pub fn within_connections(mut self, max_connections: usize) -> Self {
        let half = |number: u32| (number / 2).max(1);
        self.total = self.total.min(half(u32::try_from(max_connections).unwrap_or(u32::MAX)));
        self.per_run = self.per_run.min(half(self.total));
        self
    }
}

impl Default for WatcherLimits {
    fn default() -> Self {
        Self { per_run: 500, total: 2000, recheck: HumanDuration(Duration::from_secs(15)) }
    }
}
