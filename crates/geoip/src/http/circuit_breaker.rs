//! When a service may be called: not more often than it allows, not before it wants, and not while it keeps failing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::codes;
use afterload_core::error::{Error, Result};

/// So many failures in a row close the gate.
const FAILURE_THRESHOLD: u32 = 5;
/// For how long they do.
const BREAKER_OPEN_DURATION: Duration = Duration::from_secs(30);
/// Who is told to come back later than this asks others instead.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(20);

/// The gate of a service, for one process.
pub struct CircuitBreaker {
    /// The time between two calls.
    min_interval: Duration,
    state: Mutex<BreakerState>,
}

#[derive(Default)]
struct BreakerState {
    /// When the next call may be made.
    next_call_at: Option<Instant>,
    /// Until when it is closed.
    blocked_until: Option<Instant>,
    failures: u32,
}

impl CircuitBreaker {
    /// A gate for so many calls a minute.
    pub fn new(per_minute: Option<u32>) -> Self {
        let pace = per_minute.map_or(Duration::ZERO, |calls| Duration::from_secs(60) / calls.max(1));
        Self { min_interval: pace, state: Mutex::default() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// `geo_provider_resting`, with the time until then, where it is closed for longer than anybody should wait;
    /// `step_stopped`.
    pub async fn acquire(&self, name: &str, stop: &CancellationToken) -> Result<()> {
        loop {
            let at = self.reserve_call(Instant::now()).map_err(|rest| {
                Error::new(
                    codes::GEO_PROVIDER_RESTING,
                    format!("`{name}` is not asked for now, because it failed or asked for that"),
                )
                .with_retry_after(rest)
            })?;
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = stop.cancelled() => return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop")),
            }
            // Another call may have been told to come later meanwhile.
            if self.allows_calls(Instant::now()) {
                return Ok(());
            }
        }
    }

    /// The call went well. That opens nothing: another one on its way may have been told to come later.
    pub fn on_success(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failures = 0;
    }

    /// The call failed; gives whether the same may be tried again after a short wait, because the service asked for that.
    pub fn on_failure(&self, error: &Error) -> bool {
        self.record_failure(error.retry_after(), Instant::now())
    }

    fn allows_calls(&self, now: Instant) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).blocked_until.is_none_or(|closed| closed <= now)
    }

    fn reserve_call(&self, now: Instant) -> Result<Instant, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let opens = state.blocked_until.unwrap_or(now).max(now);
        // What fails is not waited for, what wants a pause is, for a while.
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
    use super::*;

    #[tokio::test]
    async fn calls_keep_their_distance() {
        let (gate, now) = (CircuitBreaker::new(Some(60)), Instant::now());
        let turns: Vec<_> = (0..3).map(|_| (gate.reserve_call(now).unwrap() - now).as_secs()).collect();
        assert_eq!(turns, [0, 1, 2]);
        assert_eq!(gate.reserve_call(now + Duration::from_secs(10)), Ok(now + Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn a_service_that_wants_a_pause_gets_it() {
        let (gate, now) = (CircuitBreaker::new(None), Instant::now());
        assert!(gate.record_failure(Some(Duration::from_secs(3)), now));
        assert_eq!(gate.reserve_call(now), Ok(now + Duration::from_secs(3)));
        assert!(!gate.record_failure(Some(Duration::from_secs(300)), now));
        assert_eq!(gate.reserve_call(now), Err(Duration::from_secs(300)));
        // A call that was on its way all the time.
        gate.on_success();
        assert_eq!(gate.reserve_call(now + Duration::from_secs(4)), Err(Duration::from_secs(296)));
        assert!(gate.reserve_call(now + Duration::from_secs(300)).is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_a_turn_hears_of_a_pause() {
        let (gate, now) = (CircuitBreaker::new(None), Instant::now());
        gate.record_failure(Some(Duration::from_millis(20)), now);
        let stop = CancellationToken::new();
        // Its turn is taken before the longer pause is known.
        let (entered, ()) = tokio::join!(gate.acquire("one", &stop), async {
            gate.record_failure(Some(Duration::from_secs(300)), now);
        });
        assert_eq!(entered.unwrap_err().code(), codes::GEO_PROVIDER_RESTING);
    }

    #[tokio::test]
    async fn failures_in_a_row_close_it_for_a_while() {
        let (gate, now) = (CircuitBreaker::new(None), Instant::now());
        for _ in 1..FAILURE_THRESHOLD {
            assert!(!gate.record_failure(None, now));
            assert_eq!(gate.reserve_call(now), Ok(now));
        }
        assert!(!gate.record_failure(None, now));
        assert_eq!(gate.reserve_call(now), Err(BREAKER_OPEN_DURATION));
        assert!(gate.reserve_call(now + BREAKER_OPEN_DURATION).is_ok(), "then one may try again");
    }
}
