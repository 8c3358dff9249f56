//! The configuration of the server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use afterload_core::keyring::Keyring;
use afterload_core::units::ByteSize;
use afterload_egress::WebhooksConfig;

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
    /// How long a response waits for `inline` steps.
    pub inline_wait: Duration,
    /// How long a response waits for the end of a run with `Prefer: wait`.
    pub max_wait: Duration,
    /// The secrets of the senders that may publish events by signed webhook.
    pub webhooks: WebhooksConfig,
}
