//! The settings of the engine.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::keyring::Keyring;
use afterload_core::secret::Secret;
use afterload_core::units::HumanDuration;

/// The settings of the engine. The binary builds them from the configuration file.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The address of this service, without a slash at the end.
    pub base_url: String,
    /// Signs the links to runs and files, and seals the files of runs.
    pub keyring: Keyring,
    /// The bucket of uploads and artifacts.
    pub artifacts: String,
    /// Queues with their own settings, by name.
    pub queues: BTreeMap<String, QueueConfig>,
    /// The number of crashes without progress after which a step is quarantined.
    pub max_crashes: u32,
    /// How many runs may come before a run in its chain, so that pipelines that start each other come to an end.
    pub max_hops: u32,
    /// How long a lease is valid without renewal. Then other processes may take over the steps.
    pub lease: std::time::Duration,
    /// How long a process that shuts down waits for its steps to park.
    pub drain: std::time::Duration,
    /// How long runs and files are kept.
    pub retention: RetentionConfig,
    /// True if params of type `email` may have a mailbox outside ASCII.
    pub smtputf8: bool,
    /// Values for `${{ secrets.NAME }}`.
    pub secrets: BTreeMap<String, Secret>,
}

/// How long runs and their files are kept, from the end of the run on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Runs; default `90d`. A run is kept at least as long as its files.
    pub runs: HumanDuration,
    /// Files; default `30d`. What another run or a link still needs is kept longer.
    pub artifacts: HumanDuration,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let days = |days: u64| HumanDuration(std::time::Duration::from_secs(days * 86_400));
        Self { runs: days(90), artifacts: days(30) }
    }
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
