//! Dates and times in expressions. Between filters a time is RFC 3339 text.

use std::fmt::Write as _;

use chrono::format::{Item, StrftimeItems};
use chrono::{
    DateTime, Datelike, Days, FixedOffset, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset, SecondsFormat,
    TimeDelta, TimeZone, Utc,
};
use chrono_tz::Tz;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use afterload_core::units::{HumanDuration, UnexpectedQuantity};

type Time = DateTime<FixedOffset>;

/// How times without an offset are written, apart from a given format.
const LOCAL_FORMATS: [&str; 4] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
const DATE_FORMAT: &str = "%Y-%m-%d";
const MAX_QUOTED_CHARS: usize = 60;
/// No gap in the local time of a zone is longer.
const MAX_GAP_MINUTES: i64 = 24 * 60;
const GAP_STEP_MINUTES: usize = 15;

/// The filter `parse_time`: reads text in a format. Without an offset it is local time of `zone`.
pub(super) fn parse_time(value: &Value, format: Option<&str>, zone: Option<&str>) -> Result<String, Error> {
    let zone = zone.map_or(Ok(Tz::UTC), parse_zone)?;
    let Some(format) = format else {
        let local = value.as_str().and_then(|text| {
            let time = LOCAL_FORMATS.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
            time.or_else(|| Some(NaiveDate::parse_from_str(text, DATE_FORMAT).ok()?.and_time(NaiveTime::MIN)))
        });
        return match local {
            Some(local) => display_time(from_local(local, &zone)?),
            None => display_time(read_time(value)?),
        };
    };
    parse_format(format)?;
    let text = value.as_str().ok_or_else(|| invalid(format!("`parse_time` expects text, not {}", value.kind())))?;
    if let Ok(time) = DateTime::parse_from_str(text, format) {
        return display_time(time);
    }
    let local = NaiveDateTime::parse_from_str(text, format)
        .or_else(|_| NaiveDate::parse_from_str(text, format).map(|date| date.and_time(NaiveTime::MIN)))
        .map_err(|_| invalid(format!("`{}` is not a date in the format `{format}`", quote(text))))?;
    display_time(from_local(local, &zone)?)
}

/// The filter `format_time`.
pub(super) fn format_time(value: &Value, format: &str, zone: Option<&str>) -> Result<String, Error> {
    let (time, items) = (read_time(value)?, parse_format(format)?);
    let mut text = String::new();
    let written = match zone {
        Some(zone) => write!(text, "{}", time.with_timezone(&parse_zone(zone)?).format_with_items(items.iter())),
        None => write!(text, "{}", time.format_with_items(items.iter())),
    };
    written.map(|()| text).map_err(|_| invalid(format!("a time cannot be written in the format `{format}`")))
}

/// The filter `in_zone`.
pub(super) fn convert_zone(value: &Value, zone: &str) -> Result<String, Error> {
    display_time(read_time(value)?.with_timezone(&parse_zone(zone)?).fixed_offset())
}

/// The filter `add_time`. A day has 24 hours.
pub(super) fn add_time(value: &Value, duration: &str) -> Result<String, Error> {
    let (negative, length) = duration.strip_prefix('-').map_or((false, duration), |length| (true, length));
    let length: HumanDuration = length.parse().map_err(|wrong: UnexpectedQuantity| invalid(wrong.to_string()))?;
    let millis = if negative { -length.as_millis() } else { length.as_millis() };
    let time = read_time(value)?;
    let moved = TimeDelta::try_milliseconds(millis).and_then(|delta| time.checked_add_signed(delta));
    display_time(moved.ok_or_else(out_of_range)?)
}

/// The filter `add_months`. A day that the month does not have becomes its last day.
pub(super) fn add_months(value: &Value, months: i32) -> Result<String, Error> {
    let (time, count) = (read_time(value)?, Months::new(months.unsigned_abs()));
    let moved = if months < 0 { time.checked_sub_months(count) } else { time.checked_add_months(count) };
    display_time(moved.ok_or_else(out_of_range)?)
}

/// The filter `start_of`: the first moment of the day, week, month or year in a zone, else at the offset of the time.
pub(super) fn find_start_of(value: &Value, unit: &str, zone: Option<&str>) -> Result<String, Error> {
    let time = read_time(value)?;
    match zone {
        Some(zone) => {
            let zone = parse_zone(zone)?;
            display_time(from_local(start_of_unit(time.with_timezone(&zone).date_naive(), unit)?, &zone)?)
        }
        None => display_time(from_local(start_of_unit(time.date_naive(), unit)?, time.offset())?),
    }
}

fn start_of_unit(date: NaiveDate, unit: &str) -> Result<NaiveDateTime, Error> {
    let first = match unit {
        "day" => Some(date),
        "week" => date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into())),
        "month" => date.with_day(1),
        "year" => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        _ => {
            return Err(invalid(format!(
                "`{}` is not a unit of `start_of`; write `day`, `week`, `month` or `year`",
                quote(unit)
            )));
        }
    };
    first.map(|date| date.and_time(NaiveTime::MIN)).ok_or_else(out_of_range)
}

/// Reads RFC 3339 text, a date (midnight in UTC), or seconds since 1970.
fn read_time(value: &Value) -> Result<Time, Error> {
    if value.kind() == ValueKind::Number {
        let seconds = i64::try_from(value.clone())?;
        let time = DateTime::<Utc>::from_timestamp(seconds, 0).filter(has_year_in_range);
        return time.map(|time| time.fixed_offset()).ok_or_else(out_of_range);
    }
    let text = value.as_str().ok_or_else(|| invalid(format!("a time is expected, not {}", value.kind())))?;
    let date = || NaiveDate::parse_from_str(text, DATE_FORMAT).map(|date| date.and_time(NaiveTime::MIN).and_utc());
    DateTime::parse_from_rfc3339(text).or_else(|_| date().map(|time| time.fixed_offset())).map_err(|_| {
        let text = quote(text);
        invalid(format!("`{text}` is not a time such as `2026-03-01T12:00:00Z`; read other formats with `parse_time`"))
    })
}

/// Converts a local time. Of two possible times it takes the first; a time that does not exist becomes the next one that
/// does.
fn from_local<Z: TimeZone>(local: NaiveDateTime, zone: &Z) -> Result<Time, Error> {
    (0..=MAX_GAP_MINUTES)
        .step_by(GAP_STEP_MINUTES)
        .filter_map(|minutes| local.checked_add_signed(TimeDelta::minutes(minutes)))
        .find_map(|local| zone.from_local_datetime(&local).earliest())
        .map(|time| time.with_timezone(&time.offset().fix()))
        .ok_or_else(out_of_range)
}

fn parse_zone(name: &str) -> Result<Tz, Error> {
    name.parse().map_err(|_| {
        invalid(format!("`{}` is not a time zone; write a name such as `Europe/Paris` or `UTC`", quote(name)))
    })
}

fn parse_format(format: &str) -> Result<Vec<Item<'_>>, Error> {
    let items: Vec<_> = StrftimeItems::new(format).collect();
    match items.contains(&Item::Error) {
        true => {
            Err(invalid(format!("`{}` is not a format of dates; write one such as `%Y-%m-%d %H:%M`", quote(format))))
        }
        false => Ok(items),
    }
}

fn display_time(time: Time) -> Result<String, Error> {
    match has_year_in_range(&time) {
        true => Ok(time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        false => Err(out_of_range()),
    }
}

/// RFC 3339 has four digits for the year.
fn has_year_in_range(time: &impl Datelike) -> bool {
    (0..=9999).contains(&time.year())
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).collect()
}

fn out_of_range() -> Error {
    invalid("the time is out of range; a year has four digits".into())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, format: Option<&str>, zone: Option<&str>) -> Result<String, String> {
        parse_time(&text.into(), format, zone).map_err(|error| error.detail().unwrap_or_default().to_owned())
    }

    #[test]
    fn times_are_read_in_every_usual_form() {
        for (text, format, zone, expected) in [
            ("2026-03-01T12:00:00+02:00", None, None, "2026-03-01T12:00:00+02:00"),
            ("2026-03-01", None, None, "2026-03-01T00:00:00Z"),
            ("2026-07-01 08:30:00.250", None, Some("Europe/Paris"), "2026-07-01T08:30:00.250+02:00"),
            ("01.07.2026", Some("%d.%m.%Y"), Some("Europe/Paris"), "2026-07-01T00:00:00+02:00"),
            ("01/Jul/2026 08:30 +0300", Some("%d/%b/%Y %H:%M %z"), Some("Europe/Paris"), "2026-07-01T08:30:00+03:00"),
            // The hour from 2 to 3 does not exist, and the one from 2 to 3 comes twice.
            ("2026-03-29 02:30:00", None, Some("Europe/Paris"), "2026-03-29T03:00:00+02:00"),
            ("2026-10-25 02:30:00", None, Some("Europe/Paris"), "2026-10-25T02:30:00+02:00"),
        ] {
            assert_eq!(parse(text, format, zone).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(read_time(&Value::from(86_400)).unwrap().to_rfc3339(), "1970-01-02T00:00:00+00:00");
    }

    #[test]
    fn starts_follow_the_zone_through_daylight_saving() {
        for (time, unit, zone, expected) in [
            ("2026-07-15T23:30:00Z", "day", None, "2026-07-15T00:00:00Z"),
            ("2026-07-15T23:30:00Z", "day", Some("Europe/Paris"), "2026-07-16T00:00:00+02:00"),
            ("2026-07-15T23:30:00Z", "week", None, "2026-07-13T00:00:00Z"),
            ("2026-03-31T22:30:00Z", "month", Some("Europe/Paris"), "2026-04-01T00:00:00+02:00"),
            ("2026-07-15T12:00:00Z", "year", Some("Europe/Paris"), "2026-01-01T00:00:00+01:00"),
        ] {
            assert_eq!(find_start_of(&time.into(), unit, zone).unwrap(), expected, "{time} {unit}");
        }
    }

    #[test]
    fn sums_are_checked() {
        let time = Value::from("2026-01-31T10:00:00Z");
        assert_eq!(add_time(&time, "-36h").unwrap(), "2026-01-29T22:00:00Z");
        assert_eq!(add_months(&time, 1).unwrap(), "2026-02-28T10:00:00Z");
        assert_eq!(add_months(&time, -2).unwrap(), "2025-11-30T10:00:00Z");
        for error in [
            add_time(&time, "9000000000000000s"),
            add_time(&time, "999999w"),
            add_months(&time, i32::MAX),
            convert_zone(&Value::from(8_210_266_876_799_i64), "Asia/Tokyo"),
        ] {
            let error = error.unwrap_err();
            assert!(error.detail().unwrap().contains("out of range"), "{error}");
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        let time = Value::from("2026-01-31T10:00:00Z");
        for (result, part) in [
            (parse_time(&"soon".into(), None, None), "`parse_time`"),
            (parse_time(&"31.01.2026".into(), Some("%Y-%m-%d"), None), "not a date in the format `%Y-%m-%d`"),
            (format_time(&time, "%Q", None), "not a format of dates"),
            (convert_zone(&time, "Paris"), "such as `Europe/Paris`"),
            (add_time(&time, "1 month"), "expected a duration"),
            (find_start_of(&time, "decade", None), "`day`, `week`, `month` or `year`"),
            (format_time(&Value::from(()), "%Y", None), "not none"),
        ] {
            let error = result.unwrap_err();
            assert!(error.detail().unwrap().contains(part), "{error}");
        }
    }
}
