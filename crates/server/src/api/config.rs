//! What the server takes from the configuration.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use afterload_core::secret::Secret;
use afterload_core::units::ByteSize;
use afterload_egress::WebhooksConfig;

/// What the server needs to know. The binary makes it from the configuration file.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// The address of this service, without a slash at the end.
    pub base_url: String,
    /// Signs the links of runs and files.
    pub signing_key: Secret,
    /// The origins whose pages may read answers that are open to pages; `None`: all.
    pub cors: Option<Vec<String>>,
    /// The bucket of uploads and results.
    pub artifacts: String,
    /// The buckets that the configuration names.
    pub buckets: BTreeSet<String>,
    /// The largest upload.
    pub max_upload: ByteSize,
    /// The largest JSON body.
    pub max_body: ByteSize,
    /// How long an answer waits for `inline` steps.
    pub inline_wait: Duration,
    /// How long an answer waits for the end of a run with `Prefer: wait`.
    pub max_wait: Duration,
    /// Who may publish events by a signed webhook.
    pub webhooks: WebhooksConfig,
}
