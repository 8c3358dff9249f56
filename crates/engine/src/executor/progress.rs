//! Turns progress reports of a step into the view of the API, and stores it at most twice a second. The first progress
//! after a claim is stored at once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::progress_view::{ProgressView, percent_done};
use crate::run_watch::RunWatches;
use afterload_core::error::Result;
use afterload_core::failpoint;
use afterload_core::redactor::Redactor;
use afterload_state::{Db, StepClaim, TxOutcome};
use afterload_step_api::ProgressUpdate;

/// The minimum time between two stored progress views of a step.
pub const PROGRESS_STORE_INTERVAL: Duration = Duration::from_millis(500);

/// Turns the reports of one attempt into views whose `done` never falls, also across attempts.
pub struct ProgressTracker {
    /// The `done` value that earlier attempts stored.
    stored: u64,
    /// The time and the `done` value from which the rate is measured. A resumed attempt sets it with its first report,
    /// because its cursor may be ahead of the stored progress.
    base: OnceLock<(Instant, u64)>,
    redactor: Redactor,
}

impl ProgressTracker {
    /// Starts with an attempt; `before` is the progress stored so far.
    pub fn new(before: Option<&ProgressView>, redactor: Redactor) -> Self {
        match before {
            None => Self { stored: 0, base: OnceLock::from((Instant::now(), 0)), redactor },
            Some(view) => Self { stored: view.done, base: OnceLock::new(), redactor },
        }
    }

    /// True if the view is ahead of the stored progress: the attempt did work that a crash would not undo.
    pub fn has_advanced(&self, view: &ProgressView) -> bool {
        view.done > self.stored
    }

    /// Converts a report to a view.
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
            message: report.message.as_deref().map(|message| self.redactor.redact_text(message)),
            counts: report.counts.clone(),
        }
    }
}

/// Decides when a report is stored.
struct ProgressPace {
    interval: Interval,
    /// True once the attempt has stored that it moved.
    has_stored_move: bool,
}

impl ProgressPace {
    fn new(period: Duration) -> Self {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, has_stored_move: false }
    }

    /// Waits until a report is to be stored. Returns `None` when the step has ended.
    ///
    /// The first progress of an attempt does not wait for the interval: a step that commits work and crashes soon after
    /// has moved, and must not be quarantined.
    async fn next_view(
        &mut self,
        gauge: &ProgressTracker,
        reports: &mut watch::Receiver<ProgressUpdate>,
        ended: &CancellationToken,
    ) -> Option<ProgressView> {
        tokio::select! {
            changed = reports.changed() => changed.ok()?,
            () = ended.cancelled() => return None,
        }
        let is_first_move =
            |report: &ProgressUpdate| !self.has_stored_move && gauge.has_advanced(&gauge.to_view(report));
        let first_move = async { reports.wait_for(is_first_move).await.is_ok() };
        tokio::select! {
            true = first_move => self.interval.reset(),
            _ = self.interval.tick() => {}
            () = ended.cancelled() => return None,
        }
        let report = reports.borrow_and_update().clone();
        Some(gauge.to_view(&report))
    }
}

pub(crate) struct ProgressStore {
    pub(crate) db: Db,
    pub(crate) watches: Arc<RunWatches>,
}

impl ProgressStore {
    /// Stores the reports of the step until it ends. Stops the step when the lease is lost.
    pub(super) async fn store_progress(
        &self,
        claimed: &StepClaim,
        gauge: &ProgressTracker,
        mut reports: watch::Receiver<ProgressUpdate>,
        stop: &CancellationToken,
        ended: &CancellationToken,
    ) {
        let mut pace = ProgressPace::new(PROGRESS_STORE_INTERVAL);
        while let Some(view) = pace.next_view(gauge, &mut reports, ended).await {
            let moved = gauge.has_advanced(&view);
            match self.try_store_progress(claimed, &json!(view), moved).await {
                Ok(true) => pace.has_stored_move |= moved,
                Ok(false) => {
                    warn!("the step's lease is lost; stopping it");
                    stop.cancel();
                    return;
                }
                // The next report tries again, and the end of the attempt stores the last view.
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
    use futures::FutureExt;

    use super::*;

    fn report(done: u64, total: Option<u64>) -> ProgressUpdate {
        ProgressUpdate { done, total, unit: "rows".into(), ..ProgressUpdate::default() }
    }

    #[tokio::test]
    async fn first_progress_of_an_attempt_does_not_wait_for_the_interval() {
        let before = ProgressView { done: 2, ..ProgressView::default() };
        let gauge = ProgressTracker::new(Some(&before), Redactor::new([]));
        let (sender, mut reports) = watch::channel(ProgressUpdate::default());
        let ended = CancellationToken::new();
        // So long that a report which waits for it never comes.
        let mut pace = ProgressPace::new(Duration::from_secs(24 * 3600));
        let send = |done| sender.send(report(done, Some(10))).expect("a receiver");
        send(0);
        assert_eq!(pace.next_view(&gauge, &mut reports, &ended).await.expect("a view").done, 2);
        // What was there before waits, until the attempt moves.
        send(2);
        let (view, ()) = tokio::join!(pace.next_view(&gauge, &mut reports, &ended), async {
            tokio::task::yield_now().await;
            send(3);
        });
        let view = view.expect("a view");
        assert_eq!((view.done, gauge.has_advanced(&view)), (3, true));
        pace.has_stored_move = true;
        send(4);
        assert!(pace.next_view(&gauge, &mut reports, &ended).now_or_never().is_none(), "the others wait");
        ended.cancel();
        assert!(pace.next_view(&gauge, &mut reports, &ended).await.is_none());
    }

    #[test]
    fn done_stays_between_stored_progress_and_total() {
        let before = ProgressView { done: 50, ..ProgressView::default() };
        let gauge = ProgressTracker::new(Some(&before), Redactor::new([]));
        assert_eq!(gauge.to_view(&report(10, Some(100))).done, 50);
        assert_eq!(gauge.to_view(&report(70, Some(100))).percent, Some(70.0));
        assert_eq!(gauge.to_view(&report(170, Some(100))).done, 100);
    }

    #[test]
    fn rate_ignores_progress_of_earlier_attempts() {
        let before = ProgressView { done: 50, ..ProgressView::default() };
        let gauge = ProgressTracker::new(Some(&before), Redactor::new([]));
        assert_eq!(gauge.to_view(&report(900, Some(1000))).rate, None);
        assert!(gauge.to_view(&report(901, Some(1000))).rate.is_some());
    }

    #[test]
    fn unknown_total_has_no_percent_and_no_eta() {
        let view = ProgressTracker::new(None, Redactor::new([])).to_view(&report(10, None));
        assert_eq!((view.percent, view.eta_seconds), (None, None));
    }
}
