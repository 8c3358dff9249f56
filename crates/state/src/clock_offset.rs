//! How far the database is ahead of this machine, as a round trip tells it.

use std::time::Duration;

use afterload_core::clock::UnixMillis;

/// How far the database is ahead of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockOffset {
    pub offset_ms: i64,
    /// The true offset differs by at most this.
    pub max_error_ms: i64,
}

impl ClockOffset {
    /// The database told `told` within the round trip, and the clock of this machine `ended` at its end. The middle of
    /// the round trip is wrong by at most its half, and each of the three values by less than a millisecond.
    pub fn from_round_trip(told: UnixMillis, ended: UnixMillis, round_trip: Duration) -> Self {
        let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
        let (offset, max_error_ms) = (told.saturating_sub(ended.saturating_sub(half)), half.saturating_add(3));
        // A clock that may be right is not corrected.
        match offset.saturating_abs() <= max_error_ms {
            true => Self { offset_ms: 0, max_error_ms: max_error_ms + offset.saturating_abs() },
            false => Self { offset_ms: offset, max_error_ms },
        }
    }

    /// Whether this is closer to the truth than what is `known`: it is more exact, or it proves that the clocks have
    /// moved since. A long round trip mostly is neither, and is ignored.
    pub fn is_better_than(self, known: Option<Self>) -> bool {
        known.is_none_or(|known| {
            self.max_error_ms < known.max_error_ms
                || (self.offset_ms - known.offset_ms).saturating_abs() > self.max_error_ms + known.max_error_ms
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(told: i64, ended: i64, round_trip_ms: u64) -> ClockOffset {
        ClockOffset::from_round_trip(told, ended, Duration::from_millis(round_trip_ms))
    }

    #[test]
    fn the_middle_of_the_round_trip_counts() {
        assert_eq!(measured(5_000, 1_010, 20), ClockOffset { offset_ms: 4_000, max_error_ms: 13 });
        assert_eq!(measured(1_000, 5_010, 21), ClockOffset { offset_ms: -4_000, max_error_ms: 13 });
        for told in [987, 1_000, 1_013] {
            assert_eq!(measured(told, 1_010, 20).offset_ms, 0, "{told} may be the same time");
        }
        assert_eq!(measured(1_014, 1_010, 20).offset_ms, 14);
    }

    #[test]
    fn a_long_round_trip_replaces_nothing_better() {
        let known = ClockOffset { offset_ms: 100, max_error_ms: 3 };
        let of = |offset_ms, max_error_ms| ClockOffset { offset_ms, max_error_ms };
        assert!(of(500, 1_000).is_better_than(None));
        assert!(!of(500, 1_000).is_better_than(Some(known)), "the known offset may be right");
        assert!(of(99, 2).is_better_than(Some(known)));
        assert!(!of(101, 3).is_better_than(Some(known)));
        // A clock was set: both cannot be right.
        assert!(of(5_000, 1_000).is_better_than(Some(known)));
    }
}
