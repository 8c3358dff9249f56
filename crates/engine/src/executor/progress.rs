//! From what a step reports to the record that the API shows, and on to the database, at most twice a second.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_step_api::{ProgressCounts, ProgressUpdate};

/// The shortest time between two stored progresses of a step.
pub const PROGRESS_STORE_INTERVAL: Duration = Duration::from_millis(500);

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

/// Turns one attempt's reports into views that never fall, not even below what an attempt before it had stored.
pub struct ProgressTracker {
    /// What was stored before this attempt.
    stored: u64,
    /// Where this attempt began to gain: at 0 with its start, or, resumed, with its first report, for the cursor may be
    /// ahead of what was stored.
    base: OnceLock<(Instant, u64)>,
}

impl ProgressTracker {
    /// Starts with an attempt; `before` is what was stored until now.
    pub fn new(before: Option<&ProgressView>) -> Self {
        match before {
            None => Self { stored: 0, base: OnceLock::from((Instant::now(), 0)) },
            Some(view) => Self { stored: view.done, base: OnceLock::new() },
        }
    }

    /// True if the view shows more than the attempts before had stored: work that a crash did not undo.
    pub fn has_advanced(&self, view: &ProgressView) -> bool {
        view.done > self.stored
    }

    /// The view of a report.
    pub fn to_view(&self, report: &ProgressUpdate) -> ProgressView {
        let done = report.done.max(self.stored);
        let done = report.total.map_or(done, |total| done.min(total));
        let (since, base) = self.base.get_or_init(|| (Instant::now(), done));
        let (elapsed, gained) = (since.elapsed().as_secs_f64(), done.saturating_sub(*base));
        let exact = (gained > 0 && elapsed > 0.0).then(|| gained as f64 / elapsed);
        let left = report.total.map(|total| total - done);
        let eta = left.zip(exact).map(|(left, rate)| (left as f64 / rate).ceil() as u64);
        ProgressView {
            done,
            total: report.total,
            unit: report.unit.clone(),
            percent: report.total.map(|total| percent_done(done, total)),
            rate: exact.map(round_rate),
            eta_seconds: eta,
            message: report.message.clone(),
            counts: report.counts.clone(),
        }
    }
}

/// A share in percent with one decimal; of nothing, everything is done.
pub fn percent_done(done: u64, total: u64) -> f64 {
    if total == 0 { 100.0 } else { (done as f64 / total as f64 * 1000.0).floor() / 10.0 }
}

fn round_rate(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(done: u64, total: Option<u64>) -> ProgressUpdate {
        ProgressUpdate { done, total, unit: "rows".into(), ..ProgressUpdate::default() }
    }

    #[test]
    fn progress_never_falls_below_what_was_stored_nor_rises_above_the_total() {
        let before = ProgressView { done: 50, ..ProgressView::default() };
        let gauge = ProgressTracker::new(Some(&before));
        assert_eq!(gauge.to_view(&report(10, Some(100))).done, 50);
        assert_eq!(gauge.to_view(&report(70, Some(100))).percent, Some(70.0));
        assert_eq!(gauge.to_view(&report(170, Some(100))).done, 100);
    }

    #[test]
    fn what_an_earlier_attempt_did_is_no_gain_of_this_one() {
        let before = ProgressView { done: 50, ..ProgressView::default() };
        let gauge = ProgressTracker::new(Some(&before));
        assert_eq!(gauge.to_view(&report(900, Some(1000))).rate, None);
        assert!(gauge.to_view(&report(901, Some(1000))).rate.is_some());
    }

    #[test]
    fn an_unknown_total_has_no_percent_and_no_eta() {
        let view = ProgressTracker::new(None).to_view(&report(10, None));
        assert_eq!((view.percent, view.eta_seconds), (None, None));
    }
}
