//! Decides how an attempt ends, from its outcome.

use std::time::Duration;

use crate::codes;
use rand::Rng;

use crate::attempt::AttemptContext;
use crate::lifecycle::finish::{AttemptOutcome, stopped_end};
use crate::plan_cache::{CompiledStep, backoff_delay};
use crate::record_params::{is_skip_error, skipped_end};
use crate::run_errors::error_to_json;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Retryability};
use afterload_state::{AttemptEnd, RunStop, StepClaim, StepStatus};

/// How long a step waits for a resource that the machine lacks.
const MIN_SHORTAGE_DELAY: Duration = Duration::from_millis(500);
const MAX_SHORTAGE_DELAY: Duration = Duration::from_secs(30);

/// Decides how the attempt ends. `step` is `None` if its definition could not be read.
pub(super) fn decide_end(
    attempt: AttemptContext<'_>,
    step: Option<&CompiledStep>,
    outcome: &AttemptOutcome,
    draining: bool,
    now: UnixMillis,
) -> AttemptEnd {
    match &outcome.result {
        Ok(_) if outcome.fan_out.is_some() => AttemptEnd::FanOut,
        Ok(outputs) => AttemptEnd::Final { status: StepStatus::Succeeded, outputs: Some(outputs.clone()), error: None },
        Err(_) if attempt.cancel.is_cancelled() => {
            stopped_end(attempt.stop_reason.get().copied().unwrap_or(RunStop::Cancelled))
        }
        Err(error) if is_skip_error(error) => skipped_end(error),
        Err(_) if outcome.wake_condition.is_some() => {
            AttemptEnd::Suspend(outcome.wake_condition.clone().unwrap_or_default())
        }
        Err(error) => decide_failure_end(attempt.claimed, step, error, draining, now),
    }
}

/// The error of a step that is quarantined after this many crashes.
pub(super) fn quarantine_error(crashes: u32) -> Error {
    Error::new(codes::STEP_QUARANTINED, format!("the step took its process down {crashes} times without progress"))
        .with_hint("look at the logs of the processes that died; `limits.crashes` sets the number")
}

/// How long a step is parked that has been claimed this many times: twice as long each time.
fn shortage_delay(claims: i64) -> Duration {
    let doublings = u32::try_from(claims.clamp(1, 16) - 1).unwrap_or_default();
    (MIN_SHORTAGE_DELAY * 2_u32.pow(doublings)).min(MAX_SHORTAGE_DELAY)
}

fn decide_failure_end(
    claimed: &StepClaim,
    step: Option<&CompiledStep>,
    error: &Error,
    draining: bool,
    now: UnixMillis,
) -> AttemptEnd {
    if error.retryability() == Retryability::Stopped && draining {
        return AttemptEnd::Park { due_at: now, error: None };
    }
    // Nothing is wrong with the step: it waits for the resource, however long that takes.
    if error.is_shortage() {
        let due_at = now + shortage_delay(claimed.step.claims).as_millis() as i64;
        return AttemptEnd::Park { due_at, error: Some(error_to_json(error)) };
    }
    let failures = claimed.step.failures + 1;
    let again = error.retryability() != Retryability::Permanent;
    match step.map(|known| &known.step.retry) {
        Some(retry) if again && failures < retry.attempts => {
            let wait =
                error.retry_after().unwrap_or_default().max(backoff_delay(retry, failures, rand::rng().random()));
            AttemptEnd::Retry { error: error_to_json(error), due_at: now + wait.as_millis() as i64 }
        }
        // Without its definition the retry policy is unknown, so a transient error parks the step.
        None if again => AttemptEnd::Park { due_at: now + 1000, error: None },
        _ => AttemptEnd::Final { status: StepStatus::Failed, outputs: None, error: Some(error_to_json(error)) },
    }
}
