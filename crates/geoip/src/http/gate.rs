//! When a service may be called: not more often than it allows, not before it wants, and not while it keeps failing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use afterload_core::error::{Error, Result};

/// So many failures in a row close the gate.
const FAILURES: u32 = 5;
/// For how long they do.
const REST: Duration = Duration::from_secs(30);
/// Who is told to come back later than this asks others instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// The gate of a service, for one process.
pub struct Gate {
    /// The time between two calls.
    pace: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the next call may be made.
    next: Option<Instant>,
    /// Until when it is closed.
    closed: Option<Instant>,
    failures: u32,
}

impl Gate {
    /// A gate for so many calls a minute.
    pub fn new(per_minute: Option<u32>) -> Self {
        let pace = per_minute.map_or(Duration::ZERO, |calls| Duration::from_secs(60) / calls.max(1));
        Self { pace, state: Mutex::default() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// `geo_provider_resting`, with the time until then, where it is closed for longer than anybody should wait;
    /// `step_stopped`.
    pub async fn enter(&self, name: &str, stop: &CancellationToken) -> Result<()> {
        loop {
            let at = self.turn(Instant::now()).map_err(|rest| {
                Error::transient(
                    "geo_provider_resting",
                    format!("`{name}` is not asked for now, because it failed or asked for that"),
                )
                .retry_after(rest)
            })?;
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = stop.cancelled() => return Err(Error::stopped("step_stopped", "the step was asked to stop")),
            }
            // Another call may have been told to come later meanwhile.
            if self.is_open(Instant::now()) {
                return Ok(());
            }
        }
    }

    /// The call went well. That opens nothing: another one on its way may have been told to come later.
    pub fn well(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failures = 0;
    }

    /// The call failed; gives whether the same may be tried again after a short wait, because the service asked for that.
    pub fn failed(&self, error: &Error) -> bool {
        self.closed_by(error.wait(), Instant::now())
    }

    fn is_open(&self, now: Instant) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed.is_none_or(|closed| closed <= now)
    }

    fn turn(&self, now: Instant) -> Result<Instant, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let opens = state.closed.unwrap_or(now).max(now);
        // What fails is not waited for, what wants a pause is, for a while.
        if opens > now && (state.failures >= FAILURES || opens - now > PATIENCE) {
            return Err(opens - now);
        }
        let at = state.next.unwrap_or(now).max(opens);
        state.next = Some(at + self.pace);
        Ok(at)
    }

    fn closed_by(&self, wanted: Option<Duration>, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures += 1;
        let rest = wanted.or((state.failures >= FAILURES).then_some(REST));
        if let Some(rest) = rest {
            state.closed = Some(state.closed.unwrap_or(now).max(now + rest));
        }
        wanted.is_some_and(|wait| wait <= PATIENCE) && state.failures < FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_keep_their_distance() {
        let (gate, now) = (Gate::new(Some(60)), Instant::now());
        let turns: Vec<_> = (0..3).map(|_| (gate.turn(now).unwrap() - now).as_secs()).collect();
        assert_eq!(turns, [0, 1, 2]);
        assert_eq!(gate.turn(now + Duration::from_secs(10)), Ok(now + Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn a_service_that_wants_a_pause_gets_it() {
        let (gate, now) = (Gate::new(None), Instant::now());
        assert!(gate.closed_by(Some(Duration::from_secs(3)), now));
        assert_eq!(gate.turn(now), Ok(now + Duration::from_secs(3)));
        assert!(!gate.closed_by(Some(Duration::from_secs(300)), now));
        assert_eq!(gate.turn(now), Err(Duration::from_secs(300)));
        // A call that was on its way all the time.
        gate.well();
        assert_eq!(gate.turn(now + Duration::from_secs(4)), Err(Duration::from_secs(296)));
        assert!(gate.turn(now + Duration::from_secs(300)).is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_a_turn_hears_of_a_pause() {
        let (gate, now) = (Gate::new(None), Instant::now());
        gate.closed_by(Some(Duration::from_millis(20)), now);
        let stop = CancellationToken::new();
        // Its turn is taken before the longer pause is known.
        let (entered, ()) = tokio::join!(gate.enter("one", &stop), async {
            gate.closed_by(Some(Duration::from_secs(300)), now);
        });
        assert_eq!(entered.unwrap_err().code(), "geo_provider_resting");
    }

    #[tokio::test]
    async fn failures_in_a_row_close_it_for_a_while() {
        let (gate, now) = (Gate::new(None), Instant::now());
        for _ in 1..FAILURES {
            assert!(!gate.closed_by(None, now));
            assert_eq!(gate.turn(now), Ok(now));
        }
        assert!(!gate.closed_by(None, now));
        assert_eq!(gate.turn(now), Err(REST));
        assert!(gate.turn(now + REST).is_ok(), "then one may try again");
    }
}
