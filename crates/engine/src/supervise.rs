//! Watches the task of a step: its end, its timeout, the end of the drain, a panic.

use std::time::Duration;

use serde_json::Value;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Inner;
use afterload_core::error::{Error, Result};

/// How long a step that was asked to stop may take before its task is aborted.
const GRACE: Duration = Duration::from_secs(5);
/// The same for a step whose run was cancelled: people wait for that.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

impl Inner {
    /// Waits for the step's task. A timeout asks it to stop, the end of the drain does not even ask; then it is aborted.
    pub(super) async fn supervise(
        &self,
        mut run: JoinHandle<Result<Value>>,
        timeout: Duration,
        stop: &CancellationToken,
        cancel: &CancellationToken,
    ) -> Result<Value> {
        let drained = async {
            self.draining.cancelled().await;
            tokio::time::sleep(self.config.drain.saturating_sub(GRACE)).await;
        };
        let error = tokio::select! {
            ended = &mut run => return outcome_of(ended),
            () = tokio::time::sleep(timeout) => {
                stop.cancel();
                let message = format!("the step took longer than its timeout of {}", afterload_core::units::Duration(timeout));
                let error = Error::transient("step_timeout", message).hint("raise `timeout`");
                match tokio::time::timeout(GRACE, &mut run).await {
                    // What it finished all the same counts.
                    Ok(Ok(Ok(outputs))) => return Ok(outputs),
                    Ok(_) => return Err(error),
                    Err(_) => error,
                }
            }
            () = cancel.cancelled() => {
                stop.cancel();
                let error = Error::stopped("run_cancelled", "the run was cancelled");
                match tokio::time::timeout(CANCEL_GRACE, &mut run).await {
                    Ok(Ok(Ok(outputs))) => return Ok(outputs),
                    Ok(_) => return Err(error),
                    Err(_) => error,
                }
            }
            () = drained => Error::stopped("step_stopped", "the process is going down"),
        };
        run.abort();
        // What the task holds is dropped before anybody looks at what it made.
        drop(tokio::time::timeout(GRACE, run).await);
        Err(error)
    }
}

/// What a step's task came to.
fn outcome_of(ended: std::result::Result<Result<Value>, JoinError>) -> Result<Value> {
    ended.unwrap_or_else(|error| {
        let what = if error.is_panic() { panic_text(error.into_panic()) } else { "its task was aborted".to_owned() };
        Err(Error::transient("step_panicked", format!("the step broke down: {what}")))
    })
}

fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".into())
}
