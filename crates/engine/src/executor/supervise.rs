//! Watches the task of a step: its end, its timeout, the end of the drain, a panic.

use crate::codes;
use std::time::Duration;

use serde_json::Value;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use afterload_core::error::{Error, Result};

/// How long a step that was asked to stop may take before its task is aborted.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(5);
/// The same for a step whose run was cancelled: people wait for that.
const CANCEL_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// Watches the tasks of steps.
pub(crate) struct Supervisor {
    /// How long a stopping process waits for its steps to park.
    pub(crate) drain: Duration,
    /// Cancelled once the process goes down.
    pub(crate) draining: CancellationToken,
}

impl Supervisor {
    /// Waits for the step's task. A timeout asks it to stop, the end of the drain does not even ask; then it is aborted.
    pub(super) async fn supervise_step(
        &self,
        mut run: JoinHandle<Result<Value>>,
        timeout: Duration,
        stop: &CancellationToken,
        cancel: &CancellationToken,
    ) -> Result<Value> {
        let drained = async {
            self.draining.cancelled().await;
            tokio::time::sleep(self.drain.saturating_sub(STOP_GRACE_PERIOD)).await;
        };
        let error = tokio::select! {
            ended = &mut run => return task_result(ended),
            () = tokio::time::sleep(timeout) => {
                stop.cancel();
                let message = format!("the step took longer than its timeout of {}", afterload_core::units::HumanDuration(timeout));
                let error = Error::new(codes::STEP_TIMEOUT, message);
                match tokio::time::timeout(STOP_GRACE_PERIOD, &mut run).await {
                    // What it finished all the same counts.
                    Ok(Ok(Ok(outputs))) => return Ok(outputs),
                    Ok(_) => return Err(error),
                    Err(_) => error,
                }
            }
            () = cancel.cancelled() => {
                stop.cancel();
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
        // What the task holds is dropped before anybody looks at what it made.
        drop(tokio::time::timeout(STOP_GRACE_PERIOD, run).await);
        Err(error)
    }
}

/// What a step's task came to.
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
