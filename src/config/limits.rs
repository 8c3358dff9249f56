//! How much may come in, how much may go wrong, and how long things are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Duration};

/// How long runs and their files are kept, from the end of the run on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Runs; default `90d`. A run is kept at least as long as its files.
    pub runs: Duration,
    /// Files; default `30d`. What another run or a link still needs is kept longer.
    pub artifacts: Duration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let days = |days: u64| Duration(std::time::Duration::from_secs(days * 86_400));
        Self { runs: days(90), artifacts: days(30) }
    }
}

/// Limits on what comes in and on what may go wrong.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest upload.
    pub upload: ByteSize,
    /// The largest JSON body.
    pub body: ByteSize,
    /// Crashes without progress after which a step is quarantined.
    #[schemars(range(min = 1, max = 1000))]
    pub crashes: u32,
    /// How long a stopping process waits for its steps to park.
    pub drain: Duration,
    /// How long the answer to a request waits for `inline` steps.
    pub inline_wait: Duration,
    /// How long at most the answer to a request with `Prefer: wait=…` waits for the end of the run.
    pub wait: Duration,
    /// Limits on pictures.
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
            crashes: 3,
            drain: Duration(std::time::Duration::from_secs(25)),
            inline_wait: Duration(std::time::Duration::from_secs(10)),
            wait: Duration(std::time::Duration::from_secs(60)),
            image: ImageLimits::default(),
            http: HttpLimits::default(),
            mail: MailLimits::default(),
        }
    }
}

/// Limits on mails, because servers refuse large ones, and each is held in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MailLimits {
    /// How large the attachments of a mail may be together; default `10mb`. On their way they grow by a third.
    pub attachments: ByteSize,
}

impl Default for MailLimits {
    fn default() -> Self {
        Self { attachments: ByteSize(10 << 20) }
    }
}

/// Limits on pictures, because a few kilobytes can decode to gigabytes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageLimits {
    /// The largest file.
    pub file: ByteSize,
    /// The most pixels, width times height.
    pub pixels: u64,
    /// The longest side in pixels.
    pub side: u32,
    /// The most memory that decoding one picture may take.
    pub decode: ByteSize,
    /// The most memory that all pictures together may take while one process works on them. Files that wait to be decoded
    /// come on top, at most the same again.
    pub memory: ByteSize,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            file: ByteSize(64 << 20),
            pixels: 100_000_000,
            side: 16_384,
            decode: ByteSize(512 << 20),
            memory: ByteSize(1 << 30),
        }
    }
}

/// Limits on outgoing calls, because a server may hang, drip or flood.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpLimits {
    /// How long it may take to connect; default `5s`.
    pub connect: Duration,
    /// How long a call may take in all, where nothing else is said; default `30s`.
    pub total: Duration,
    /// The largest body of an answer that is read into memory; default `1mb`.
    pub body: ByteSize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        let seconds = |seconds: u64| Duration(std::time::Duration::from_secs(seconds));
        Self { connect: seconds(5), total: seconds(30), body: ByteSize(1 << 20) }
    }
}
