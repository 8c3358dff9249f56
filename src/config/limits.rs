//! Limits on input and on failures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::units::{ByteSize, HumanDuration};
use afterload_egress::HttpLimits;
use afterload_http_listener::ConnectionLimits;
use afterload_image_resize::ImageLimits;
use afterload_mailer::MailLimits;
use afterload_server::api::WatcherLimits;

/// Limits on input and on failures.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The maximum size of an upload.
    pub upload: ByteSize,
    /// The maximum size of a JSON body.
    pub body: ByteSize,
    /// The maximum number of parts of a form; default 1000.
    pub form_parts: usize,
    /// The maximum number of files of a request, in all params together; default 100.
    pub files: usize,
    /// Crashes without progress after which a step is quarantined.
    #[schemars(range(min = 1, max = 1000))]
    pub crashes: u32,
    /// How many runs may come before a run in its chain; default 16. Each wrote an object or sent a request that started
    /// the next one. A run past it is refused, so that pipelines that start each other come to an end.
    #[schemars(range(min = 1, max = 1000))]
    pub hops: u32,
    /// The lease of a step, at least `3s`; default `15s`. If a process does not renew it, others take over the step. It
    /// must be the same in all processes of a database.
    pub lease: HumanDuration,
    /// How long a stopping process waits for its steps to suspend.
    pub drain: HumanDuration,
    /// How long the response to a request waits for `inline` steps.
    pub inline_wait: HumanDuration,
    /// How long the response to a request with `Prefer: wait=…` may wait for the end of the run.
    pub wait: HumanDuration,
    /// Limits on connections, and on clients that are slow.
    pub connections: ConnectionLimits,
    /// Limits on the clients that watch runs.
    pub watchers: WatcherLimits,
    /// How many wrong keys and tokens an address may send in a minute. Further ones get 429.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub wrong_keys: u32,
    /// Limits on images.
    pub image: ImageLimits,
    /// Limits on outgoing calls.
    pub http: HttpLimits,
    /// Limits on mails.
    pub mail: MailLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload: ByteSize(5 << 30),
            body: ByteSize(1 << 20),
            form_parts: 1000,
            files: 100,
            crashes: 3,
            hops: 16,
            lease: HumanDuration(std::time::Duration::from_secs(15)),
            drain: HumanDuration(std::time::Duration::from_secs(25)),
            inline_wait: HumanDuration(std::time::Duration::from_secs(10)),
            wait: HumanDuration(std::time::Duration::from_secs(60)),
            connections: ConnectionLimits::default(),
            watchers: WatcherLimits::default(),
            wrong_keys: 20,
            image: ImageLimits::default(),
            http: HttpLimits::default(),
            mail: MailLimits::default(),
        }
    }
}
