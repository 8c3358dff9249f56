//! Retries that a step kind schedules itself. The step is suspended between them: it holds no worker, and no timeout runs.

use std::time::Duration;

use serde_json::json;

use super::context::{EffectState, StepContext, SuspendRequest};
use afterload_core::error::{Error, Result};

/// The effect log stores the number of suspensions under this key.
const RETRY_EFFECT_KEY: &str = "retry_schedule";

impl StepContext {
    /// True if nothing of this step was tried before, or if a person retried its run.
    pub fn is_first_attempt(&self) -> bool {
        self.resumed.is_none() && self.step.attempt == 1
    }

    /// Suspends the step for the next of `delays`. The step must return the error. `None`: all delays are used.
    ///
    /// # Errors
    /// The effect log cannot be read or written.
    pub async fn suspend_for_retry(&self, delays: &[Duration]) -> Result<Option<Error>> {
        let used = match self.effect_log.begin_effect(RETRY_EFFECT_KEY).await? {
            EffectState::Done(detail) if !self.is_first_attempt() => detail["suspensions"].as_u64().unwrap_or_default(),
            _ => 0,
        };
        let Some(delay) = usize::try_from(used).ok().and_then(|used| delays.get(used)) else { return Ok(None) };
        self.effect_log.mark_done(RETRY_EFFECT_KEY, json!({ "suspensions": used + 1 })).await?;
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let until = Some(self.clock.now().saturating_add(delay_ms));
        Ok(Some(self.suspend_step(SuspendRequest { until, event: None })))
    }
}
