//! `concurrency` and `rate_limit` as written in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many runs may be under way at the same time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyAst {
    /// Runs of the pipeline with the same key count together; without it all of them. It may name params and the event.
    #[serde(default)]
    pub key: Option<String>,
    /// How many; default 1.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<u32>,
    /// What happens to one too many; default `queue`.
    #[serde(default)]
    pub on_conflict: Option<OnRunConflict>,
}

/// What happens to a run too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRunConflict {
    /// It waits until there is room; who came first goes first.
    #[default]
    Queue,
    /// It is recorded as cancelled and does nothing.
    Skip,
    /// The earliest ones are asked to stop, and it begins when they have.
    CancelPrevious,
}

/// How often a step may start.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitAst {
    /// Steps with the same key count together, in whichever pipeline; default `PIPELINE/STEP`.
    #[serde(default)]
    pub key: Option<String>,
    /// Starts per second, evenly spaced: 0.2 is one in 5 seconds.
    #[schemars(range(min = 0.000_001, max = 1000.0))]
    pub per_second: f64,
}

/// How the pause between attempts grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// It doubles each time.
    #[default]
    Exponential,
    /// It stays the same.
    Constant,
}
