//! Schedules in words.

use afterload_core::clock::UnixMillis;
use afterload_pipeline::CronSchedule;

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The schedule in words where they are short, and as it is written where they are not.
pub(crate) fn describe_schedule(schedule: &str, timezone: &str) -> String {
    let words = plain_words(schedule).unwrap_or_else(|| format!("at `{schedule}`"));
    match words.contains(" at ") || words.starts_with("at ") {
        true => format!("{words}, {timezone} time"),
        false => words,
    }
}

/// The next moments of a schedule.
pub(crate) fn next_moments(schedule: &str, timezone: &str, now: UnixMillis, count: usize) -> Vec<UnixMillis> {
    let Ok(schedule) = CronSchedule::parse(schedule, timezone) else { return Vec::new() };
    let mut time = now;
    let next = || {
        time = schedule.next_after(time)?;
        Some(time)
    };
    std::iter::from_fn(next).take(count).collect()
}

fn plain_words(schedule: &str) -> Option<String> {
    match schedule.trim() {
        "@hourly" => return Some("every hour".into()),
        "@daily" | "@midnight" => return Some("every day at 00:00".into()),
        "@weekly" => return Some("every Sunday at 00:00".into()),
        "@monthly" => return Some("on day 1 of every month at 00:00".into()),
        "@yearly" | "@annually" => return Some("every January 1 at 00:00".into()),
        _ => {}
    }
    let fields: Vec<_> = schedule.split_whitespace().collect();
    let [minute, hour, day, month, weekday]: [&str; 5] = fields.try_into().ok()?;
    let every_day = day == "*" && month == "*" && weekday == "*";
    if every_day && hour == "*" {
        return match (minute.strip_prefix("*/").and_then(number), number(minute)) {
            _ if minute == "*" => Some("every minute".into()),
            (Some(step), _) if step > 1 && 60 % step == 0 => Some(format!("every {step} minutes")),
            (_, Some(minute)) => Some(format!("every hour, {minute} min past")),
            _ => None,
        };
    }
    let minute = number(minute)?;
    if every_day && let Some(step) = hour.strip_prefix("*/").and_then(number) {
        let is_even = minute == 0 && step > 1 && 24 % step == 0;
        return is_even.then(|| format!("every {step} hours"));
    }
    let time = format!("{:02}:{minute:02}", number(hour)?);
    match (day, month, weekday) {
        ("*", "*", "*") => Some(format!("every day at {time}")),
        ("*", "*", weekday) => Some(format!("every {} at {time}", weekday_words(weekday)?)),
        (day, "*", "*") => Some(format!("on day {} of every month at {time}", number(day)?)),
        (day, month, "*") => {
            let month = MONTHS.get((number(month)? as usize).checked_sub(1)?)?;
            Some(format!("every {month} {} at {time}", number(day)?))
        }
        _ => None,
    }
}

/// `Monday`, `Monday to Friday`, `Monday and Thursday`.
fn weekday_words(field: &str) -> Option<String> {
    if let Some((first, last)) = field.split_once('-') {
        return Some(format!("{} to {}", weekday_name(first)?, weekday_name(last)?));
    }
    let names = field.split(',').map(weekday_name).collect::<Option<Vec<_>>>()?;
    let (last, others) = names.split_last()?;
    match others.is_empty() {
        true => Some((*last).to_owned()),
        false => Some(format!("{} and {last}", others.join(", "))),
    }
}

fn weekday_name(field: &str) -> Option<&'static str> {
    match field.parse::<usize>() {
        Ok(number) => WEEKDAYS.get(number % 7).filter(|_| number <= 7).copied(),
        Err(_) if field.len() == 3 => {
            WEEKDAYS.into_iter().find(|name| name.get(..3).is_some_and(|short| short.eq_ignore_ascii_case(field)))
        }
        Err(_) => None,
    }
}

fn number(field: &str) -> Option<u32> {
    field.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_schedules_are_described_in_words() {
        for (schedule, words) in [
            ("0 6 * * MON", "every Monday at 06:00, Europe/Paris time"),
            ("30 7 * * 1-5", "every Monday to Friday at 07:30, Europe/Paris time"),
            ("0 6 * * mon,thu", "every Monday and Thursday at 06:00, Europe/Paris time"),
            ("15 2 * * *", "every day at 02:15, Europe/Paris time"),
            ("@daily", "every day at 00:00, Europe/Paris time"),
            ("*/15 * * * *", "every 15 minutes"),
            ("5 * * * *", "every hour, 5 min past"),
            ("0 */6 * * *", "every 6 hours"),
            ("0 4 1 * *", "on day 1 of every month at 04:00, Europe/Paris time"),
            ("0 0 24 12 *", "every December 24 at 00:00, Europe/Paris time"),
            ("0,30 8-17 * * *", "at `0,30 8-17 * * *`, Europe/Paris time"),
            ("*/7 * * * *", "at `*/7 * * * *`, Europe/Paris time"),
        ] {
            assert_eq!(describe_schedule(schedule, "Europe/Paris"), words, "{schedule}");
        }
    }

    #[test]
    fn next_moments_follow_the_schedule() {
        let minute = 60_000;
        assert_eq!(next_moments("*/15 * * * *", "UTC", 0, 3), [15 * minute, 30 * minute, 45 * minute]);
        assert!(next_moments("never", "UTC", 0, 3).is_empty());
        assert!(next_moments("0 0 30 2 *", "UTC", 0, 3).is_empty());
    }
}
