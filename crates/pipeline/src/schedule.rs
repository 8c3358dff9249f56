//! Computes the ticks of a `cron` trigger.

use chrono::DateTime;
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use afterload_core::clock::UnixMillis;

/// A cron schedule in a time zone.
#[derive(Clone, Debug)]
pub struct CronSchedule {
    cron: Cron,
    zone: Tz,
}

impl CronSchedule {
    /// Parses minute, hour, day of the month, month and weekday, or a word such as `@daily`.
    ///
    /// # Errors
    /// The part that is not valid.
    pub fn parse(schedule: &str, zone: &str) -> Result<Self, ScheduleError> {
        let parsed = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(schedule);
        let cron = parsed.map_err(|_| ScheduleError::Expression)?;
        let zone = zone.parse().map_err(|_| ScheduleError::TimeZone)?;
        Ok(Self { cron, zone })
    }

    /// Returns the next tick after `time`; `None` if there is none. When clocks go forward, a tick in the gap comes
    /// right after the gap. When clocks go back, a tick at a fixed time comes once.
    pub fn next_after(&self, time: UnixMillis) -> Option<UnixMillis> {
        let time = DateTime::from_timestamp_millis(time)?.with_timezone(&self.zone);
        self.cron.find_next_occurrence(&time, false).ok().map(|next| next.timestamp_millis())
    }
}

/// The part of a schedule that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleError {
    /// The schedule.
    Expression,
    /// The time zone.
    TimeZone,
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::clock::{format_rfc3339, parse_rfc3339};

    /// Returns the first `count` ticks after a time.
    fn moments(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = CronSchedule::parse(schedule, zone).expect("a schedule");
        let mut time = parse_rfc3339(after).expect("a time");
        let next = || {
            time = schedule.next_after(time)?;
            Some(format_rfc3339(time).replace(":00.000Z", "Z"))
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn schedule_uses_its_time_zone() {
        let mondays = moments("0 6 * * MON", "Europe/Paris", "2026-03-20T00:00:00Z", 3);
        assert_eq!(mondays, ["2026-03-23T05:00Z", "2026-03-30T04:00Z", "2026-04-06T04:00Z"]);
        assert_eq!(moments("@daily", "UTC", "2026-12-31T23:59:59Z", 1), ["2027-01-01T00:00Z"]);
        assert_eq!(moments("*/20 8-9 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", 3).len(), 3);
    }

    #[test]
    fn clock_change_neither_skips_nor_repeats_a_day() {
        // Europe/Berlin: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
        let spring = moments("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 3);
        assert_eq!(spring.len(), 3);
        assert!(spring[0].starts_with("2026-03-29") && spring[1].starts_with("2026-03-30"), "{spring:?}");
        let autumn = moments("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3);
        assert!(autumn[0].starts_with("2026-10-25") && autumn[1].starts_with("2026-10-26"), "{autumn:?}");
        // An hourly schedule still ticks every hour.
        let hours = moments("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 4);
        assert_eq!(hours, ["2026-10-25T00:00Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z", "2026-10-25T03:00Z"]);
    }

    #[test]
    fn invalid_schedule_is_rejected() {
        for text in ["", "* * * *", "60 * * * *", "0 0 31 2 x", "* * * * * *", "every day"] {
            assert_eq!(CronSchedule::parse(text, "UTC").expect_err(text), ScheduleError::Expression, "{text}");
        }
        assert_eq!(CronSchedule::parse("@daily", "Europe/Pariss").expect_err("no zone"), ScheduleError::TimeZone);
        // A date that never occurs is a valid schedule without ticks.
        assert_eq!(CronSchedule::parse("0 0 30 2 *", "UTC").ok().and_then(|schedule| schedule.next_after(0)), None);
    }
}
