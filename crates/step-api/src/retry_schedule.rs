//! Retries that a step kind schedules itself, and turns under its rate limits. The step is suspended until then: it holds
//! no worker, and no timeout runs.

use std::time::Duration;

use serde_json::{Value, json};

use super::context::{EffectState, StepContext};
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};

/// The effect log stores the number of suspensions under this key.
const RETRY_EFFECT_KEY: &str = "retry_schedule";
/// The effect log stores the turns that the step has reserved under this key.
const TURNS_EFFECT_KEY: &str = "reserved_turns";
/// The resolution of the queue, in milliseconds.
const QUEUE_RESOLUTION_MS: UnixMillis = 1_000;

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
        Ok(Some(self.suspend_until(self.clock.now().saturating_add(to_millis(*delay)))))
    }

    /// Returns the turns that the attempt before has reserved with [`Self::suspend_for_turn`]; null without any.
    ///
    /// # Errors
    /// The effect log cannot be read.
    pub async fn reserved_turns(&self) -> Result<Value> {
        if self.is_first_attempt() {
            return Ok(Value::Null);
        }
        match self.effect_log.effect_state(TURNS_EFFECT_KEY).await? {
            EffectState::Done(turns) => Ok(turns),
            EffectState::New | EffectState::Uncertain => Ok(Value::Null),
        }
    }

    /// Suspends the step until its turn under a rate limit. The step must return the error. This is no retry. `turns` are
    /// those that it has reserved. `deferred` is the shortest time after which work that was deferred may be tried again.
    ///
    /// # Errors
    /// The effect log cannot be read or written.
    pub async fn suspend_for_turn(&self, turn: UnixMillis, deferred: Option<Duration>, turns: Value) -> Result<Error> {
        // The next attempt is not the first one any more. After a retry by a person it must not find the old count.
        if self.is_first_attempt() && self.effect_log.effect_state(RETRY_EFFECT_KEY).await? != EffectState::New {
            self.effect_log.mark_done(RETRY_EFFECT_KEY, json!({ "suspensions": 0 })).await?;
        }
        self.effect_log.begin_effect(TURNS_EFFECT_KEY).await?;
        self.effect_log.mark_done(TURNS_EFFECT_KEY, turns).await?;
        let now = self.clock.now();
        let earliest = deferred.map_or(now, |delay| now.saturating_add(to_millis(delay)));
        // The queue wakes steps at full seconds. The step waits for the rest in memory.
        let wake_at = turn - 1 - (turn - 1).rem_euclid(QUEUE_RESOLUTION_MS);
        Ok(self.suspend_until(wake_at.max(earliest)))
    }
}

fn to_millis(delay: Duration) -> UnixMillis {
    UnixMillis::try_from(delay.as_millis()).unwrap_or(UnixMillis::MAX)
}
