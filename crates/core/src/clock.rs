//! The clock of a process. This is the only place that reads the wall clock.
//!
//! There is no global clock: what needs the time gets a [`Clock`] from what constructs it, or a time as an argument.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use std::time::UNIX_EPOCH;

use chrono::{DateTime, SecondsFormat, Utc};

/// Milliseconds since 1970-01-01T00:00:00Z, the format of every time column.
pub type UnixMillis = i64;

/// A clock with a correction. Cheap to clone; clones share the correction.
#[derive(Clone, Debug)]
pub struct Clock(Arc<ClockState>);

#[derive(Debug)]
struct ClockState {
    source: TimeSource,
    /// One lock for both values, so that no reader sees a new offset with an old floor.
    correction: RwLock<ClockCorrection>,
}

#[derive(Debug)]
enum TimeSource {
    System,
    Manual(ManualTime),
}

#[derive(Clone, Copy, Debug)]
struct ClockCorrection {
    offset_ms: i64,
    /// No earlier time is told.
    floor: UnixMillis,
}

/// The time of a manual clock.
#[derive(Clone, Debug)]
pub struct ManualTime(Arc<AtomicI64>);

impl ManualTime {
    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock {
    /// The wall clock of this machine, not corrected yet.
    pub fn system() -> Self {
        Self::from_source(TimeSource::System)
    }

    /// A clock for tests that moves only by [`ManualTime::advance`].
    pub fn manual(start: UnixMillis) -> (Self, ManualTime) {
        let time = ManualTime(Arc::new(AtomicI64::new(start)));
        (Self::from_source(TimeSource::Manual(time.clone())), time)
    }

    fn from_source(source: TimeSource) -> Self {
        let correction = RwLock::new(ClockCorrection { offset_ms: 0, floor: UnixMillis::MIN });
        Self(Arc::new(ClockState { source, correction }))
    }

    /// The current time.
    pub fn now(&self) -> UnixMillis {
        let correction = self.0.correction.read().unwrap_or_else(PoisonError::into_inner);
        self.corrected_time(*correction)
    }

    /// The current time without the correction.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn uncorrected_now(&self) -> UnixMillis {
        match &self.0.source {
            TimeSource::System => Utc::now().timestamp_millis(),
            TimeSource::Manual(time) => time.0.load(Ordering::SeqCst),
        }
    }

    /// Sets how far the true time is ahead of [`Self::uncorrected_now`].
    ///
    /// The time never moves back by this. After a correction to an earlier time it stands still until the true time
    /// has caught up: what was due stays due, and a later event never gets an earlier time. Standing still needs no
    /// choice of a speed, and corrections are small unless the clock of the machine was set wrong.
    pub fn correct_by(&self, offset_ms: i64) {
        let mut correction = self.0.correction.write().unwrap_or_else(PoisonError::into_inner);
        *correction = ClockCorrection { offset_ms, floor: self.corrected_time(*correction) };
    }

    fn corrected_time(&self, correction: ClockCorrection) -> UnixMillis {
        self.uncorrected_now().saturating_add(correction.offset_ms).max(correction.floor)
    }
}

/// Parses an RFC 3339 time with any offset.
pub fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
}

/// Parses a date of an HTTP header in any of the three formats that RFC 9110 allows.
pub fn parse_http_date(text: &str) -> Option<UnixMillis> {
    let since_1970 = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_1970.as_millis()).ok()
}

/// Formats a stored time as the API does: RFC 3339, UTC, milliseconds.
pub fn format_rfc3339(millis: UnixMillis) -> String {
    DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_correction() {
        let (clock, time) = Clock::manual(1_000);
        let other = clock.clone();
        clock.correct_by(250);
        time.advance(Duration::from_millis(5));
        assert_eq!([clock.now(), other.now(), other.uncorrected_now()], [1_255, 1_255, 1_005]);
    }

    #[test]
    fn a_correction_never_moves_time_back() {
        let (clock, time) = Clock::manual(1_000);
        clock.correct_by(100);
        clock.correct_by(-50);
        // It stands still for the 150 ms that it was ahead.
        let told: Vec<_> = [0, 100, 49, 1, 1]
            .map(|step| {
                time.advance(Duration::from_millis(step));
                clock.now()
            })
            .into();
        assert_eq!(told, [1_100, 1_100, 1_100, 1_100, 1_101]);
        // The later of two corrections counts, and each keeps what the clock has told.
        clock.correct_by(-1_000);
        clock.correct_by(0);
        assert_eq!(clock.now(), 1_151);
    }
}
