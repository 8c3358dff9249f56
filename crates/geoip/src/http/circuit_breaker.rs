//! Limits the calls of a service: its rate limit, its `Retry-After`, and a pause after repeated failures.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::{CallWaiter, codes};
use afterload_core::error::{Error, Result};

/// This many failures in a row open the breaker.
const FAILURE_THRESHOLD: u32 = 5;
/// How long the breaker stays open after that.
const BREAKER_OPEN_DURATION: Duration = Duration::from_secs(30);
/// A longer `Retry-After` is not waited for: the next provider is asked instead.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(20);

/// The circuit breaker of one service. Each process has its own.
pub struct CircuitBreaker {
    /// The time between two calls.
    min_interval: Duration,
    state: Mutex<BreakerState>,
}

#[derive(Default)]
struct BreakerState {
    /// When the next call may start.
    next_call_at: Option<Instant>,
    /// Until when no call may start.
    blocked_until: Option<Instant>,
    failures: u32,
}

impl CircuitBreaker {
    /// Creates a breaker that allows this many calls per minute.
    pub fn new(per_minute: Option<u32>) -> Self {
        let pace = per_minute.map_or(Duration::ZERO, |calls| Duration::from_secs(60) / calls.max(1));
        Self { min_interval: pace, state: Mutex::default() }
    }

    /// Waits until a call may start.
    ///
    /// # Errors
    /// `geo_provider_resting`, with the remaining time, if the breaker stays open longer than a step should wait;
    /// `step_stopped`.
    pub async fn acquire(&self, name: &str, waiter: &dyn CallWaiter) -> Result<()> {
        loop {
            let now = Instant::now();
            let at = self.reserve_call(now).map_err(|rest| {
                Error::new(
                    codes::GEO_PROVIDER_RESTING,
                    format!("`{name}` is not asked for now, because it failed or asked for that"),
                )
                .with_retry_after(rest)
            })?;
            if at > now {
                waiter.wait(at - now).await?;
            }
            // Another call may have received a `Retry-After` during the wait.
            if self.allows_calls(Instant::now()) {
                return Ok(());
            }
        }
    }

    /// Records a successful call. This does not close the breaker: a concurrent call may have received a `Retry-After`.
    pub fn on_success(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failures = 0;
    }

    /// Records a failed call. Returns true if the service asked for a short wait, so that the call can be repeated.
    pub fn on_failure(&self, error: &Error) -> bool {
        self.record_failure(error.retry_after(), Instant::now())
    }

    fn allows_calls(&self, now: Instant) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).blocked_until.is_none_or(|closed| closed <= now)
    }

    fn reserve_call(&self, now: Instant) -> Result<Instant, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let opens = state.blocked_until.unwrap_or(now).max(now);
        // Wait for a short `Retry-After`, but not for a service that keeps failing.
        if opens > now && (state.failures >= FAILURE_THRESHOLD || opens - now > MAX_RETRY_WAIT) {
            return Err(opens - now);
        }
        let at = state.next_call_at.unwrap_or(now).max(opens);
        state.next_call_at = Some(at + self.min_interval);
        Ok(at)
    }

    fn record_failure(&self, wanted: Option<Duration>, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures += 1;
        let rest = wanted.or((state.failures >= FAILURE_THRESHOLD).then_some(BREAKER_OPEN_DURATION));
        if let Some(rest) = rest {
            state.blocked_until = Some(state.blocked_until.unwrap_or(now).max(now + rest));
        }
        wanted.is_some_and(|wait| wait <= MAX_RETRY_WAIT) && state.failures < FAILURE_THRESHOLD
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;

    struct Sleeper;

    impl CallWaiter for Sleeper {
        fn wait(&self, pause: Duration) -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                tokio::time::sleep(pause).await;
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn calls_keep_the_rate_limit() {
        let (breaker, now) = (CircuitBreaker::new(Some(60)), Instant::now());
        let turns: Vec<_> = (0..3).map(|_| (breaker.reserve_call(now).unwrap() - now).as_secs()).collect();
        assert_eq!(turns, [0, 1, 2]);
        assert_eq!(breaker.reserve_call(now + Duration::from_secs(10)), Ok(now + Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn retry_after_pauses_the_service() {
        let (breaker, now) = (CircuitBreaker::new(None), Instant::now());
        assert!(breaker.record_failure(Some(Duration::from_secs(3)), now));
        assert_eq!(breaker.reserve_call(now), Ok(now + Duration::from_secs(3)));
        assert!(!breaker.record_failure(Some(Duration::from_secs(300)), now));
        assert_eq!(breaker.reserve_call(now), Err(Duration::from_secs(300)));
        // A concurrent call that started before the pause.
        breaker.on_success();
        assert_eq!(breaker.reserve_call(now + Duration::from_secs(4)), Err(Duration::from_secs(296)));
        assert!(breaker.reserve_call(now + Duration::from_secs(300)).is_ok());
    }

    #[tokio::test]
    async fn a_waiting_call_sees_a_pause_that_begins_later() {
        let (breaker, now) = (CircuitBreaker::new(None), Instant::now());
        breaker.record_failure(Some(Duration::from_millis(20)), now);
        // The call gets its slot before the longer pause begins.
        let (entered, ()) = tokio::join!(breaker.acquire("one", &Sleeper), async {
            breaker.record_failure(Some(Duration::from_secs(300)), now);
        });
        assert_eq!(entered.unwrap_err().code(), codes::GEO_PROVIDER_RESTING);
    }

    #[tokio::test]
    async fn repeated_failures_open_the_breaker_for_a_while() {
        let (breaker, now) = (CircuitBreaker::new(None), Instant::now());
        for _ in 1..FAILURE_THRESHOLD {
            assert!(!breaker.record_failure(None, now));
            assert_eq!(breaker.reserve_call(now), Ok(now));
        }
        assert!(!breaker.record_failure(None, now));
        assert_eq!(breaker.reserve_call(now), Err(BREAKER_OPEN_DURATION));
        assert!(breaker.reserve_call(now + BREAKER_OPEN_DURATION).is_ok(), "then one may try again");
    }
}
