//! Supervises the task of a step: its end, its timeout, a cancel, a shutdown and a panic.

use crate::codes;
use std::time::Duration;

use serde_json::Value;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::attempt_worker::WaitMeter;
use afterload_core::error::{Error, Result};

/// How long a step may take to stop before its task is aborted.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(5);
/// The same for a cancelled run. It is shorter because a user waits for it.
const CANCEL_GRACE_PERIOD: Duration = Duration::from_secs(1);

pub(crate) struct Supervisor {
    /// How long a process that shuts down waits for its steps to park.
    pub(crate) drain: Duration,
    /// Cancelled when the process shuts down.
    pub(crate) draining: CancellationToken,
}

impl Supervisor {
    /// Waits for the task of the step. What it waits without a worker does not count against the timeout. After a timeout
    /// or a cancel both tokens are cancelled. The step gets a grace period and is then aborted. The end of the drain
    /// aborts it at once.
    pub(super) async fn supervise_step(
        &self,
        mut run: JoinHandle<Result<Value>>,
        (timeout, waits): (Duration, &WaitMeter),
        (stop, abort): (&CancellationToken, &CancellationToken),
        cancel: &CancellationToken,
    ) -> Result<Value> {
        let drained = async {
            self.draining.cancelled().await;
            tokio::time::sleep(self.drain.saturating_sub(STOP_GRACE_PERIOD)).await;
        };
        let error = tokio::select! {
            ended = &mut run => return task_result(ended),
            () = waits.wait_for_timeout(timeout) => {
                stop.cancel();
                abort.cancel();
                let message = format!("the step took longer than its timeout of {}", afterload_core::units::HumanDuration(timeout));
                let error = Error::new(codes::STEP_TIMEOUT, message);
                match tokio::time::timeout(STOP_GRACE_PERIOD, &mut run).await {
                    // A result within the grace period still counts.
                    Ok(Ok(Ok(outputs))) => return Ok(outputs),
                    Ok(_) => return Err(error),
                    Err(_) => error,
                }
            }
            () = cancel.cancelled() => {
                stop.cancel();
                abort.cancel();
                let error = Error::new(codes::RUN_CANCELLED, "the run was cancelled");
                match tokio::time::timeout(CANCEL_GRACE_PERIOD, &mut run).await {
                    Ok(Ok(Ok(outputs))) => return Ok(outputs),
                    Ok(_) => return Err(error),
                    Err(_) => error,
                }
            }
            () = drained => Error::new(codes::STEP_STOPPED, "the process is going down"),
        };
        run.abort();
        // The aborted task must drop its resources before its files are cleaned up.
        drop(tokio::time::timeout(STOP_GRACE_PERIOD, run).await);
        Err(error)
    }
}

/// The result of the task; a panic becomes an error.
fn task_result(ended: std::result::Result<Result<Value>, JoinError>) -> Result<Value> {
    ended.unwrap_or_else(|error| {
        let what = if error.is_panic() { panic_message(error.into_panic()) } else { "its task was aborted".to_owned() };
        Err(Error::new(codes::STEP_PANICKED, format!("the step broke down: {what}")))
    })
}

fn panic_message(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn timeout_and_cancel_abort_what_the_step_waits_for() {
        for (timeout, cancels, code) in [
            (Duration::from_millis(1), false, codes::STEP_TIMEOUT),
            (Duration::from_secs(3600), true, codes::RUN_CANCELLED),
        ] {
            let supervisor = Supervisor { drain: Duration::from_secs(3600), draining: CancellationToken::new() };
            let (stop, abort, cancel) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
            if cancels {
                cancel.cancel();
            }
            let (aborted, seen) = (abort.clone(), CancellationToken::new());
            let ended = seen.clone();
            #[expect(clippy::disallowed_methods, reason = "`supervise_step` waits for it")]
            let run = tokio::spawn(async move {
                aborted.cancelled().await;
                ended.cancel();
                Err(Error::new(codes::STEP_STOPPED, "aborted"))
            });
            let timeout = (timeout, &WaitMeter::default());
            let error = supervisor.supervise_step(run, timeout, (&stop, &abort), &cancel).await.unwrap_err();
            assert_eq!(error.code(), code);
            assert!(seen.is_cancelled() && stop.is_cancelled(), "the step ended by itself");
        }
    }
}
