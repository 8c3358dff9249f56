//! Waits of a running step that hold no worker.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::codes;
use afterload_core::clock::{Clock, UnixMillis};
use afterload_core::error::{Error, Result};

/// A step that waits for longer, in milliseconds, is suspended.
const MAX_WAIT_IN_MEMORY_MS: UnixMillis = 1_000;
/// How long a step that has waited looks for a free worker before it goes back to its queue.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);

/// The worker that runs a step.
pub trait WorkerSlot: Send + Sync {
    /// Leaves the worker to other steps for this time, and then waits for a free one, at most `patience`. Returns false
    /// if too many steps wait already (then this step has not waited), or if no worker became free.
    fn wait_without_worker(&self, wait: Duration, patience: Duration) -> Pin<Box<dyn Future<Output = bool> + Send>>;
}

/// Lets a step wait without holding a worker. Its `timeout` does not run meanwhile.
#[derive(Clone)]
pub struct StepWaits {
    /// The clock of the process.
    pub clock: Clock,
    /// The worker that runs the step.
    pub worker: Arc<dyn WorkerSlot>,
    /// Cancelled when the step should stop.
    pub stop: CancellationToken,
}

impl StepWaits {
    /// Waits for a near time. Returns false if the time is too far away or no worker is free: then the step should be
    /// suspended until that time, with [`suspend_until`](crate::StepContext::suspend_until).
    ///
    /// # Errors
    /// `step_stopped` if the step should stop.
    pub async fn wait_until(&self, until: UnixMillis) -> Result<bool> {
        let rest = until.saturating_sub(self.clock.now());
        if rest > MAX_WAIT_IN_MEMORY_MS {
            return Ok(false);
        }
        let Some(wait) = u64::try_from(rest).ok().filter(|rest| *rest > 0).map(Duration::from_millis) else {
            return Ok(true);
        };
        let waiting = self.worker.wait_without_worker(wait, WORKER_PATIENCE);
        self.stop.run_until_cancelled(waiting).await.ok_or_else(stopped_error)
    }

    /// Waits in any case, for a step that cannot be suspended at this point. If too many steps wait already, this one
    /// keeps its worker.
    ///
    /// # Errors
    /// `step_stopped` if the step should stop.
    pub async fn pause_for(&self, pause: Duration) -> Result<()> {
        let pausing = async {
            if !self.worker.wait_without_worker(pause, Duration::MAX).await {
                tokio::time::sleep(pause).await;
            }
        };
        self.stop.run_until_cancelled(pausing).await.ok_or_else(stopped_error)
    }
}

pub(crate) fn stopped_error() -> Error {
    Error::new(codes::STEP_STOPPED, "the step was asked to stop")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const START: UnixMillis = 1_700_000_000_000;

    /// Records the waits, which are over at once. `full`: no further step may wait.
    #[derive(Default)]
    struct TestWorker {
        waits: Mutex<Vec<Duration>>,
        full: bool,
    }

    impl WorkerSlot for TestWorker {
        fn wait_without_worker(&self, wait: Duration, _: Duration) -> Pin<Box<dyn Future<Output = bool> + Send>> {
            self.waits.lock().unwrap().push(wait);
            let waited = !self.full;
            Box::pin(async move { waited })
        }
    }

    fn waits_of(worker: &Arc<TestWorker>) -> StepWaits {
        StepWaits { clock: Clock::manual(START).0, worker: worker.clone(), stop: CancellationToken::new() }
    }

    #[tokio::test]
    async fn near_times_are_waited_for_and_others_suspend_the_step() {
        let worker = Arc::new(TestWorker::default());
        let waits = waits_of(&worker);
        for (until, waited) in [(START - 5, true), (START, true), (START + 1_000, true), (START + 1_001, false)] {
            assert_eq!(waits.wait_until(until).await.unwrap(), waited, "{until}");
        }
        assert_eq!(*worker.waits.lock().unwrap(), [Duration::from_secs(1)]);
        let full = waits_of(&Arc::new(TestWorker { full: true, ..TestWorker::default() }));
        assert!(!full.wait_until(START + 10).await.unwrap(), "too many steps wait already");
        full.pause_for(Duration::from_millis(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_ends_each_wait() {
        let waits = waits_of(&Arc::default());
        waits.stop.cancel();
        assert_eq!(waits.wait_until(START + 10).await.unwrap_err().code(), codes::STEP_STOPPED);
        assert_eq!(waits.pause_for(Duration::from_secs(3600)).await.unwrap_err().code(), codes::STEP_STOPPED);
    }
}
