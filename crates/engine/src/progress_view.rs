//! The progress of a run or a step, as the API returns it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_step_api::ProgressCounts;

/// How far a step is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProgressView {
    /// Units done, never falling.
    pub done: u64,
    /// Units in all; null while unknown.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: String,
    /// 0 to 100; null while the total is unknown.
    pub percent: Option<f64>,
    /// Units per second in this attempt.
    pub rate: Option<f64>,
    /// Seconds to go at this rate.
    pub eta_seconds: Option<u64>,
    /// What is going on.
    pub message: Option<String>,
    /// Further counts.
    pub counts: ProgressCounts,
}

/// A percentage with one decimal. A total of zero counts as done.
pub fn percent_done(done: u64, total: u64) -> f64 {
    if total == 0 { 100.0 } else { (done as f64 / total as f64 * 1000.0).floor() / 10.0 }
}
