//! Parts of the language that are read and checked, but not executed by this version.

use schemars::JsonSchema;
use serde::Deserialize;

/// How many runs may go on at the same time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// Runs with the same key count together; without it all runs of the pipeline.
    #[serde(default)]
    pub key: Option<String>,
    /// How many; default 1.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<u32>,
    /// What happens to one too many; default `queue`.
    #[serde(default)]
    pub on_conflict: Option<OnConflict>,
}

/// What happens to a run too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It waits.
    Queue,
    /// It is not started.
    Skip,
    /// The earlier one is cancelled.
    CancelPrevious,
}

/// How often a step may start.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Steps with the same key count together.
    #[serde(default)]
    pub key: Option<String>,
    /// Starts per second.
    pub per_second: f64,
}
