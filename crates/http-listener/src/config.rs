//! The settings of the listeners.

use std::time::Duration;

use afterload_core::units::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The maximum default for the API. More needs a setting, because each connection also takes memory.
const MAX_DEFAULT_API_CONNECTIONS: u64 = 10_000;
/// The maximum default for the embedded S3 endpoint.
const MAX_DEFAULT_S3_CONNECTIONS: u64 = 2_500;

/// Limits on connections to the API and to the embedded S3 endpoint, and on slow peers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionLimits {
    /// The maximum number of connections to the API. Default: a third of the files that the process may open, at most
    /// 10000. The maximum is a half.
    #[schemars(range(min = 1))]
    pub api: Option<u32>,
    /// The maximum number of connections to the embedded S3 endpoint. Default: an eighth of the files that the process
    /// may open, at most 2500. The maximum is a quarter.
    #[schemars(range(min = 1))]
    pub s3: Option<u32>,
    /// How long a client may take to send the head of a request; default `10s`.
    pub header_timeout: HumanDuration,
    /// How long a connection may wait for its next request; default `30s`.
    pub idle_timeout: HumanDuration,
    /// The minimum number of bytes per second at which a body has to arrive; default `1kb`. `0b` sets no minimum.
    pub body_rate: ByteSize,
    /// The time over which `body_rate` is measured; default `30s`.
    pub body_window: HumanDuration,
    /// How long a client may read nothing of a response; default `30s`.
    pub write_timeout: HumanDuration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        let seconds = |seconds| HumanDuration(Duration::from_secs(seconds));
        Self {
            api: None,
            s3: None,
            header_timeout: seconds(10),
            idle_timeout: seconds(30),
            body_rate: ByteSize(1 << 10),
            body_window: seconds(30),
            write_timeout: seconds(30),
        }
    }
}

impl ConnectionLimits {
    /// The maximum number of connections to the API, if the process may open this many files.
    pub fn max_api_connections(&self, open_files: u64) -> usize {
        clamp_connections(self.api, (open_files / 3).min(MAX_DEFAULT_API_CONNECTIONS), open_files / 2)
    }

    /// The same for the embedded S3 endpoint. A connection there may need a second file, the object that it reads.
    pub fn max_s3_connections(&self, open_files: u64) -> usize {
        clamp_connections(self.s3, (open_files / 8).min(MAX_DEFAULT_S3_CONNECTIONS), open_files / 4)
    }

    /// The timeouts.
    pub fn timeouts(&self) -> HttpTimeouts {
        HttpTimeouts {
            header: self.header_timeout.0,
            idle: self.idle_timeout.0,
            body_rate: self.body_rate.0,
            body_window: self.body_window.0,
            write: self.write_timeout.0,
        }
    }
}

fn clamp_connections(configured: Option<u32>, default: u64, most: u64) -> usize {
    let wanted = configured.map_or(default, u64::from).min(most).max(1);
    usize::try_from(wanted).unwrap_or(usize::MAX)
}

/// How long a listener waits for slow peers.
#[derive(Clone, Copy, Debug)]
pub struct HttpTimeouts {
    /// For the head of a request.
    pub header: Duration,
    /// For the next request of a connection.
    pub idle: Duration,
    /// The minimum number of bytes per second of a body.
    pub body_rate: u64,
    /// The time over which the rate is measured.
    pub body_window: Duration,
    /// For a client that reads nothing of its response.
    pub write: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stay_below_the_open_files() {
        let limits = ConnectionLimits::default();
        assert_eq!((limits.max_api_connections(1024), limits.max_s3_connections(1024)), (341, 128));
        assert_eq!((limits.max_api_connections(1 << 20), limits.max_s3_connections(1 << 20)), (10_000, 2_500));
        let limits = ConnectionLimits { api: Some(100_000), s3: Some(7), ..limits };
        assert_eq!((limits.max_api_connections(1024), limits.max_s3_connections(1024)), (512, 7));
        assert_eq!(limits.max_api_connections(0), 1);
    }
}
