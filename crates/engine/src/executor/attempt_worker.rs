//! The worker of an attempt. The step may leave it to others while it waits; its timeout stands still meanwhile.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use afterload_state::queue::{JobSlot, SlotWait};
use afterload_step_api::WorkerSlot;

/// The worker of an attempt, as its step sees it.
pub(super) struct AttemptWorker {
    slot: JobSlot,
    waits: Arc<WaitMeter>,
}

impl AttemptWorker {
    pub(super) fn new(slot: &JobSlot) -> Self {
        Self { slot: slot.clone(), waits: Arc::default() }
    }

    /// How long the step has waited.
    pub(super) fn waits(&self) -> Arc<WaitMeter> {
        self.waits.clone()
    }
}

impl WorkerSlot for AttemptWorker {
    fn wait_without_worker(&self, wait: Duration, patience: Duration) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let (slot, waits) = (self.slot.clone(), self.waits.clone());
        Box::pin(async move {
            let _waiting = WaitGuard::new(waits);
            let sleeping = async {
                tokio::time::sleep(wait).await;
                Ok::<_, Infallible>(())
            };
            matches!(slot.wait_without_slot(sleeping, patience).await, Ok(SlotWait::Done(())))
        })
    }
}

/// Measures how long an attempt has waited without a worker.
#[derive(Default)]
pub(super) struct WaitMeter(Mutex<WaitTimes>);

#[derive(Default)]
struct WaitTimes {
    /// The waits that are over.
    over: Duration,
    /// How many parts of the step wait.
    waiting: usize,
    /// Since when at least one of them does.
    since: Option<Instant>,
}

impl WaitMeter {
    fn times(&self) -> MutexGuard<'_, WaitTimes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn total(&self) -> Duration {
        let times = self.times();
        times.over + times.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Resolves when the step has worked for this time, its waits not counted.
    pub(super) async fn wait_for_timeout(&self, timeout: Duration) {
        let (begun, before) = (Instant::now(), self.total());
        loop {
            let waited = self.total().saturating_sub(before);
            let worked = begun.elapsed().saturating_sub(waited);
            let rest = timeout.saturating_sub(worked);
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }
}

/// A wait, until dropped.
struct WaitGuard(Arc<WaitMeter>);

impl WaitGuard {
    fn new(meter: Arc<WaitMeter>) -> Self {
        {
            let mut times = meter.times();
            times.waiting += 1;
            times.since.get_or_insert_with(Instant::now);
        }
        Self(meter)
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        let mut times = self.0.times();
        times.waiting -= 1;
        if times.waiting == 0
            && let Some(since) = times.since.take()
        {
            times.over += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timeout_does_not_run_while_the_step_waits() {
        let waits = Arc::new(WaitMeter::default());
        let (one, two) = (WaitGuard::new(waits.clone()), WaitGuard::new(waits.clone()));
        let timeout = Duration::from_millis(50);
        let within = Duration::from_millis(200);
        assert!(tokio::time::timeout(within, waits.wait_for_timeout(timeout)).await.is_err(), "both wait");
        drop(one);
        assert!(tokio::time::timeout(within, waits.wait_for_timeout(timeout)).await.is_err(), "one still waits");
        drop(two);
        let before = waits.total();
        assert!(before >= within * 2, "{before:?}");
        waits.wait_for_timeout(timeout).await;
        assert_eq!(waits.total(), before);
    }
}
