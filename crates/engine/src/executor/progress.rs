//! From what a step reports to the record that the API shows, and on to the database, at most twice a second.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::progress_view::{ProgressView, percent_done};
use crate::run_watch::RunWatches;
use afterload_core::error::Result;
use afterload_core::failpoint;
use afterload_state::{Db, StepClaim, TxOutcome};
use afterload_step_api::ProgressUpdate;

/// The shortest time between two stored progresses of a step.
pub const PROGRESS_STORE_INTERVAL: Duration = Duration::from_millis(500);

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

/// Stores the progress of steps.
pub(crate) struct ProgressStore {
    pub(crate) db: Db,
    pub(crate) watches: Arc<RunWatches>,
}

impl ProgressStore {
    /// Stores what the step reports until it has ended. Stops the step when the claim is lost.
    pub(super) async fn store_progress(
        &self,
        claimed: &StepClaim,
        gauge: &ProgressTracker,
        mut reports: watch::Receiver<ProgressUpdate>,
        stop: &CancellationToken,
        ended: &CancellationToken,
    ) {
        let mut pace = tokio::time::interval(PROGRESS_STORE_INTERVAL);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                () = ended.cancelled() => return,
            }
            tokio::select! {
                _ = pace.tick() => {}
                () = ended.cancelled() => return,
            }
            let view = gauge.to_view(&reports.borrow_and_update().clone());
            match self.try_store_progress(claimed, &json!(view), gauge.has_advanced(&view)).await {
                Ok(true) => {}
                Ok(false) => {
                    warn!("the step's lease is lost; stopping it");
                    stop.cancel();
                    return;
                }
                // The next report tries again; the end stores the last one in any case.
                Err(error) => warn!(error.code = error.code().name(), "progress was not stored: {error}"),
            }
        }
    }

    async fn try_store_progress(&self, claimed: &StepClaim, view: &Value, moved: bool) -> Result<bool> {
        let stored = self.db.with_tx(async |tx| {
            if !tx.claims().record_progress(&claimed.step.id, claimed.step.claims, view, moved).await? {
                return Ok(TxOutcome::Rollback(None));
            }
            let run = tx.runs().bump_revision(&claimed.step.run_id).await?;
            failpoint!("progress.before_commit");
            Ok(TxOutcome::Commit(Some(run)))
        });
        let run = stored.await?;
        failpoint!("progress.after_commit");
        run.iter().for_each(|run| self.watches.publish_run_change(run));
        Ok(run.is_some())
    }
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
