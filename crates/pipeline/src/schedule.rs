//! Computes the ticks of a `cron` trigger.
//!
//! croner matches dates and times without a zone. This module turns them into moments, because croner runs a list such
//! as `0 2,14` twice when clocks go back, and loses it when they go forward.

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, TimeZone};
use chrono_tz::{GapInfo, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use afterload_core::clock::UnixMillis;

/// A cron schedule in a time zone.
#[derive(Clone, Debug)]
pub struct CronSchedule {
    cron: Cron,
    zone: Tz,
    clock_times: ClockTimes,
}

/// What a schedule means when clocks change. The fields for dates have no part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClockTimes {
    /// Minute and hour list times: each of them comes once on each date.
    Fixed,
    /// Minute or hour is an interval: a tick is due whenever the wall clock matches.
    Interval,
}

/// A moment on the wall clock of a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Such as `2026-03-29`.
    pub date: String,
    /// With the offset, such as `2026-03-29T06:00:00+02:00`.
    pub time: String,
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
        let clock_times = ClockTimes::from_cron(&cron);
        Ok(Self { cron, zone, clock_times })
    }

    /// Returns the next tick after `time`; `None` if there is none.
    ///
    /// A fixed time comes once on each date: right after the gap that skips it, or at the first of two passes. An
    /// interval goes on through both passes of a repeated hour, and has no ticks in a gap.
    pub fn next_after(&self, time: UnixMillis) -> Option<UnixMillis> {
        let time = DateTime::from_timestamp_millis(time)?.with_timezone(&self.zone);
        let mut local = self.search_start(&time);
        let mut next: Option<DateTime<Tz>> = None;
        while let Ok(found) = self.cron.find_next_occurrence(&local, false) {
            local = found;
            let (first, second) = self.tick_moments(local);
            let later = [first, second].into_iter().flatten().filter(|moment| *moment > time);
            next = next.into_iter().chain(later).min();
            // All matches after this one come later than its first moment.
            if first.is_some_and(|first| first > time) {
                break;
            }
        }
        next.map(|next| next.timestamp_millis())
    }

    /// Returns a moment as the wall clock of the time zone shows it; `None` if it is out of range.
    pub fn to_local_time(&self, time: UnixMillis) -> Option<LocalTime> {
        let local = DateTime::from_timestamp_millis(time)?.with_timezone(&self.zone);
        Some(LocalTime {
            date: local.format("%Y-%m-%d").to_string(),
            time: local.to_rfc3339_opts(SecondsFormat::Secs, false),
        })
    }

    /// The wall clock time after which the matches are searched. In the first pass of a repeated range, times that the
    /// clock has already shown come once more.
    fn search_start(&self, time: &DateTime<Tz>) -> NaiveDateTime {
        let local = time.naive_local();
        let range = self.zone.from_local_datetime(&local);
        match (range.earliest(), range.latest()) {
            (Some(first), Some(second)) => local - (second - first),
            _ => local,
        }
    }

    /// The moments at which a matching wall clock time is due, in order.
    fn tick_moments(&self, local: NaiveDateTime) -> (Option<DateTime<Tz>>, Option<DateTime<Tz>>) {
        let moments = self.zone.from_local_datetime(&local);
        let (first, second) = (moments.earliest(), moments.latest());
        match self.clock_times {
            ClockTimes::Fixed => (first.or_else(|| self.end_of_gap(local)), None),
            ClockTimes::Interval => (first, second.filter(|second| Some(*second) != first)),
        }
    }

    /// The first moment after the gap around a wall clock time; `None` if the zone skipped the whole date.
    fn end_of_gap(&self, local: NaiveDateTime) -> Option<DateTime<Tz>> {
        let gap = GapInfo::new(&local, &self.zone)?;
        let ((begin, _), end) = (gap.begin?, gap.end?);
        let midnight = local.date().and_time(chrono::NaiveTime::MIN);
        let skips_date = begin <= midnight && end.naive_local() >= midnight + TimeDelta::days(1);
        (!skips_date).then_some(end)
    }
}

impl ClockTimes {
    fn from_cron(cron: &Cron) -> Self {
        // croner replaces a word such as `@hourly` by its fields.
        let text = cron.pattern.to_string();
        let is_stepped = text.split_whitespace().take(2).any(|field| field.contains(['*', '/']));
        // `0-23` is another way to write `*`.
        let is_full = cron.pattern.minutes.values().len() == 60 || cron.pattern.hours.values().len() == 24;
        if is_stepped || is_full { Self::Interval } else { Self::Fixed }
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
    use std::collections::BTreeSet;

    use super::*;
    use afterload_core::clock::{format_rfc3339, parse_rfc3339};
    use chrono::{Days, NaiveDate, NaiveTime, Timelike};
    use proptest::prelude::*;

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

    const MINUTE_MS: i64 = 60_000;
    const HOUR_MS: i64 = 60 * MINUTE_MS;
    /// In minutes.
    const HALF_DAY: i64 = 12 * 60;

    #[test]
    fn fixed_times_come_once_when_clocks_go_back() {
        // Europe/Berlin: 2026-10-25 03:00 becomes 02:00, at 01:00 UTC.
        let cases: [(&str, &[&str]); 4] = [
            ("0 2,14 * * *", &["2026-10-25T00:00Z", "2026-10-25T13:00Z", "2026-10-26T01:00Z"]),
            ("15 2-4 * * *", &["2026-10-25T00:15Z", "2026-10-25T02:15Z", "2026-10-25T03:15Z", "2026-10-26T01:15Z"]),
            ("0,30 2 * * *", &["2026-10-25T00:00Z", "2026-10-25T00:30Z", "2026-10-26T01:00Z"]),
            ("59 2 * * *", &["2026-10-25T00:59Z", "2026-10-26T01:59Z"]),
        ];
        for (schedule, expected) in cases {
            let ticks = moments(schedule, "Europe/Berlin", "2026-10-24T20:00:00Z", expected.len());
            assert_eq!(ticks, expected, "{schedule}");
        }
    }

    #[test]
    fn fixed_times_in_a_gap_come_right_after_it() {
        // Europe/Berlin: 2026-03-29 02:00 becomes 03:00, at 01:00 UTC.
        let cases: [(&str, &[&str]); 4] = [
            ("0 2,14 * * *", &["2026-03-29T01:00Z", "2026-03-29T12:00Z", "2026-03-30T00:00Z"]),
            // 02:15 comes at 03:00, and 03:15 at its own time.
            ("15 2-4 * * *", &["2026-03-29T01:00Z", "2026-03-29T01:15Z", "2026-03-29T02:15Z", "2026-03-30T00:15Z"]),
            // Both come at 03:00, which is one tick.
            ("0,30 2 * * *", &["2026-03-29T01:00Z", "2026-03-30T00:00Z"]),
            ("0 2,3 * * *", &["2026-03-29T01:00Z", "2026-03-30T00:00Z"]),
        ];
        for (schedule, expected) in cases {
            let ticks = moments(schedule, "Europe/Berlin", "2026-03-28T20:00:00Z", expected.len());
            assert_eq!(ticks, expected, "{schedule}");
        }
        // America/Sao_Paulo: 2018-11-04 00:00 becomes 01:00, at 03:00 UTC.
        let midnight = moments("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", 2);
        assert_eq!(midnight, ["2018-11-04T03:00Z", "2018-11-05T02:00Z"]);
        // Pacific/Apia had no 2011-12-30, so no time of that date is due.
        let noon = moments("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 2);
        assert_eq!(noon, ["2011-12-29T22:00Z", "2011-12-30T22:00Z"]);
    }

    #[test]
    fn intervals_stay_steady_when_clocks_change() {
        let steps = |schedule, zone, after, count| {
            let ticks = moments(schedule, zone, after, count);
            let times: Vec<_> = ticks.iter().map(|tick| parse_rfc3339(&tick.replace('Z', ":00Z")).unwrap()).collect();
            times.windows(2).map(|pair| (pair[1] - pair[0]) / MINUTE_MS).collect::<Vec<_>>()
        };
        for schedule in ["*/15 * * * *", "0,15,30,45 * * * *", "0,15,30,45 0-23 * * *"] {
            for after in ["2026-10-24T22:00:00Z", "2026-03-28T22:00:00Z"] {
                assert_eq!(steps(schedule, "Europe/Berlin", after, 25), [15; 24], "{schedule} after {after}");
            }
        }
        // Lord Howe changes by half an hour. 2026-04-05 02:00 becomes 01:30, at 15:00 UTC of the day before.
        let ticks = moments("*/15 1 * * *", "Australia/Lord_Howe", "2026-04-04T13:30:00Z", 7);
        let expected = ["14:00", "14:15", "14:30", "14:45", "15:00", "15:15"].map(|time| format!("2026-04-04T{time}Z"));
        assert_eq!(ticks[..6], expected);
        assert_eq!(ticks[6], "2026-04-05T14:30Z");
        // An interval within the hour of the gap has no ticks on that day.
        let spring = moments("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(spring, ["2026-03-30T00:00Z", "2026-03-30T00:30Z"]);
    }

    #[test]
    fn minute_and_hour_decide_whether_times_are_fixed() {
        let clock_times = |text: &str| CronSchedule::parse(text, "UTC").expect(text).clock_times;
        for text in ["30 2 * * *", "0 2,14 */2 * *", "15 2-4 * * MON-FRI", "0-30 2 1 1 *", "@daily", "@yearly"] {
            assert_eq!(clock_times(text), ClockTimes::Fixed, "{text}");
        }
        for text in
            ["* 2 * * *", "*/15 2 * * *", "0 */2 * * *", "0 2-6/2 * * *", "0-59 2 * * *", "0 0-23 * * *", "@hourly"]
        {
            assert_eq!(clock_times(text), ClockTimes::Interval, "{text}");
        }
    }

    #[test]
    fn local_time_names_the_date_of_the_zone() {
        let local = |zone, time| {
            let time =
                CronSchedule::parse("@daily", zone).expect("a schedule").to_local_time(parse_rfc3339(time).unwrap());
            time.map(|local| (local.date, local.time)).expect("in range")
        };
        let pair = |date: &str, time: &str| (date.to_owned(), time.to_owned());
        assert_eq!(local("Europe/Paris", "2026-06-30T22:00:00Z"), pair("2026-07-01", "2026-07-01T00:00:00+02:00"));
        assert_eq!(local("America/New_York", "2026-01-01T04:59:00Z"), pair("2025-12-31", "2025-12-31T23:59:00-05:00"));
        assert_eq!(local("UTC", "2026-01-01T00:00:00Z"), pair("2026-01-01", "2026-01-01T00:00:00+00:00"));
    }

    const ZONES: [&str; 4] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo"];

    /// The wall clock of a zone, in whole minutes of UTC.
    fn wall_clock(zone: Tz, minute: i64) -> NaiveDateTime {
        DateTime::from_timestamp(minute * 60, 0).expect("a time").with_timezone(&zone).naive_local()
    }

    /// The minutes from a day and a half before a change of clocks to two days after it. Sao Paulo changes at midnight.
    fn minutes_around_change(zone: Tz, year: i32, forward: bool) -> std::ops::Range<i64> {
        let start =
            NaiveDate::from_ymd_opt(year, 1, 2).expect("a date").and_time(NaiveTime::MIN).and_utc().timestamp() / 60;
        let offset = |minute| (wall_clock(zone, minute).and_utc().timestamp() / 60) - minute;
        let mut half_days = (0..720).map(|half_day| start + half_day * HALF_DAY);
        let change = half_days.find(|minute| {
            let (before, after) = (offset(*minute), offset(minute + HALF_DAY));
            if forward { after > before } else { after < before }
        });
        let change = change.expect("clocks change in each year of these");
        change - 36 * 60..change + 48 * 60
    }

    /// The ticks within a range of minutes.
    fn ticks_within(schedule: &str, zone: Tz, minutes: &std::ops::Range<i64>) -> Vec<i64> {
        let schedule = CronSchedule::parse(schedule, zone.name()).expect("a schedule");
        let first = schedule.next_after(minutes.start * MINUTE_MS - 1);
        let ticks = std::iter::successors(first, |tick| schedule.next_after(*tick));
        ticks.map(|tick| tick / MINUTE_MS).take_while(|tick| minutes.contains(tick)).collect()
    }

    /// For each of the times on each date within the minutes: the first minute at which the wall clock has reached it.
    fn first_minutes(zone: Tz, minutes: &std::ops::Range<i64>, times: &[(u32, u32)]) -> Vec<i64> {
        let clock: Vec<_> = minutes.clone().map(|minute| (minute, wall_clock(zone, minute))).collect();
        let last_date = wall_clock(zone, minutes.end).date();
        let dates = wall_clock(zone, minutes.start).date().iter_days().take_while(|date| *date <= last_date);
        let due = dates.flat_map(|date| times.iter().map(move |(hour, minute)| date.and_hms_opt(*hour, *minute, 0)));
        let mut reached: Vec<_> = due
            .map(|due| due.expect("a time"))
            .filter(|due| wall_clock(zone, minutes.start) <= *due)
            .filter_map(|due| clock.iter().find(|(_, local)| *local >= due))
            .map(|(minute, _)| *minute)
            .collect();
        reached.sort_unstable();
        reached.dedup();
        reached
    }

    fn join_numbers(numbers: &BTreeSet<u32>) -> String {
        numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn each_date_with_a_fixed_time_has_one_tick(
            zone in prop::sample::select(ZONES.to_vec()), year in 2000..2018_i32, forward: bool,
            hour in 0..24_u32, minute in 0..60_u32,
        ) {
            let zone: Tz = zone.parse().expect("a zone");
            let around = minutes_around_change(zone, year, forward);
            // Whole dates: from the first midnight to the last one.
            let first_date = wall_clock(zone, around.start).date() + Days::new(1);
            let last_date = wall_clock(zone, around.end).date();
            let ticks = ticks_within(&format!("{minute} {hour} * * *"), zone, &around);
            let mut dates: Vec<_> = ticks.iter().map(|tick| wall_clock(zone, *tick).date()).collect();
            dates.retain(|date| (first_date..last_date).contains(date));
            let expected: Vec<_> = first_date.iter_days().take_while(|date| *date < last_date).collect();
            prop_assert_eq!(dates, expected);
        }

        #[test]
        fn fixed_times_come_when_the_clock_first_reaches_them(
            zone in prop::sample::select(ZONES.to_vec()), year in 2000..2018_i32, forward: bool,
            hours in prop::collection::btree_set(0..5_u32, 1..4),
            minutes in prop::collection::btree_set(0..60_u32, 1..4),
        ) {
            let zone: Tz = zone.parse().expect("a zone");
            let around = minutes_around_change(zone, year, forward);
            let schedule = format!("{} {} * * *", join_numbers(&minutes), join_numbers(&hours));
            let at_hour = |hour: u32| minutes.iter().map(move |minute| (hour, *minute));
            let times: Vec<_> = hours.iter().copied().flat_map(at_hour).collect();
            let ticks = ticks_within(&schedule, zone, &around);
            prop_assert_eq!(ticks, first_minutes(zone, &around, &times), "{}", schedule);
        }

        #[test]
        fn intervals_tick_whenever_the_clock_matches(
            zone in prop::sample::select(ZONES.to_vec()), year in 2000..2018_i32, forward: bool,
            step in prop::sample::select(vec![5_u32, 10, 15, 20, 30]), first_hour in 0..23_u32, every_hour: bool,
        ) {
            let zone: Tz = zone.parse().expect("a zone");
            let around = minutes_around_change(zone, year, forward);
            let hour = if every_hour { "*".to_owned() } else { format!("{first_hour}-23") };
            let matches = |minute: &i64| {
                let local = wall_clock(zone, *minute);
                local.minute().is_multiple_of(step) && (every_hour || local.hour() >= first_hour)
            };
            let expected: Vec<_> = around.clone().filter(matches).collect();
            prop_assert_eq!(ticks_within(&format!("*/{step} {hour} * * *"), zone, &around), expected);
        }

        #[test]
        fn hourly_interval_ticks_every_real_hour(
            zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York"]),
            year in 2000..2018_i32, forward: bool,
        ) {
            let zone: Tz = zone.parse().expect("a zone");
            let around = minutes_around_change(zone, year, forward);
            let ticks = ticks_within("30 * * * *", zone, &around);
            prop_assert!(ticks.windows(2).all(|pair| (pair[1] - pair[0]) * MINUTE_MS == HOUR_MS));
            prop_assert_eq!(ticks.len(), 84);
        }
    }
}
