//! Formats of dates and times, compiled once and strict: `%Y` takes four digits, and `%Z` a zone without a second meaning.

use chrono::format::{Fixed, Item, Numeric, Parsed, StrftimeItems, parse_and_remainder};
use chrono::{Datelike, FixedOffset, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};
use chrono_tz::Tz;

use afterload_target_db::DAYS_TO_1970;

/// Two-digit years belong to the hundred years from this one, unless another is set.
pub const DEFAULT_YEAR_PIVOT: i32 = 1970;
/// The day before day 1 of a workbook from March 1900 on. Excel counts a February 29th in 1900, which never was.
const EXCEL_EPOCH: NaiveDate = const_date(1899, 12, 30);
/// The day 0 of workbooks that early versions for the Mac wrote.
const EXCEL_1904_EPOCH: NaiveDate = const_date(1904, 1, 1);
/// The day in Excel's calendar that never was.
const EXCEL_LEAP_DAY: i64 = 60;
const MICROS_PER_DAY: i64 = 86_400_000_000;

const fn const_date(year: i32, month: u32, day: u32) -> NaiveDate {
    match NaiveDate::from_ymd_opt(year, month, day) {
        Some(date) => date,
        None => NaiveDate::MIN,
    }
}

/// How a column writes its dates and times.
#[derive(Clone, Debug, Default)]
pub struct DateFormats {
    formats: Vec<DateFormat>,
    /// The zone of times without one; UTC if there is none.
    zone: Option<Tz>,
    pivot: Option<i32>,
}

#[derive(Clone, Debug)]
struct DateFormat {
    text: String,
    kind: FormatKind,
}

#[derive(Clone, Debug)]
enum FormatKind {
    /// A serial number of Excel, and the day of serial 0.
    Excel(NaiveDate),
    /// chrono's items. `utc` marks a format that ends with a literal `Z`.
    Items { items: Vec<Item<'static>>, utc: bool },
}

/// The zone of a time.
#[derive(Clone, Copy)]
enum TimeZoneOf {
    Unknown,
    Offset(FixedOffset),
    Named(Tz),
}

impl DateFormats {
    /// Compiles formats. An empty list stands for ISO 8601.
    ///
    /// # Errors
    /// The format that cannot be read.
    pub fn compile(formats: &[String], zone: Option<Tz>, pivot: Option<i32>) -> Result<Self, String> {
        let formats = formats.iter().map(|text| DateFormat::compile(text).ok_or_else(|| text.clone()));
        Ok(Self { formats: formats.collect::<Result<_, _>>()?, zone, pivot })
    }

    /// Whether no format is set, so that ISO 8601 applies.
    pub fn is_iso(&self) -> bool {
        self.formats.is_empty()
    }

    /// The zone of times without one.
    pub fn zone(&self) -> Option<Tz> {
        self.zone
    }

    /// The first format that does not identify the day.
    pub fn find_partial_date(&self) -> Option<&str> {
        self.formats.iter().find(|format| !format.has_full_date()).map(|format| format.text.as_str())
    }

    /// Parses a date, and returns the days since 1970. A time behind it must be midnight.
    pub fn parse_date(&self, text: &str) -> Option<i32> {
        self.formats.iter().find_map(|format| format.parse_date(text, self.pivot())).and_then(days_since_epoch)
    }

    /// Parses a time, and returns the microseconds since 1970 in UTC.
    pub fn parse_datetime(&self, text: &str) -> Option<i64> {
        let parse = |format: &DateFormat| {
            let (time, zone) = format.parse_datetime(text, self.pivot())?;
            match zone {
                TimeZoneOf::Unknown => to_utc_micros(time, self.zone),
                TimeZoneOf::Offset(offset) => to_utc_micros_at(time, offset),
                TimeZoneOf::Named(zone) => to_utc_micros(time, Some(zone)),
            }
        };
        self.formats.iter().find_map(parse)
    }

    fn pivot(&self) -> i32 {
        self.pivot.unwrap_or(DEFAULT_YEAR_PIVOT)
    }
}

/// Converts a local time to microseconds since 1970 in UTC. A time that the zone has twice or never is refused.
pub fn to_utc_micros(time: NaiveDateTime, zone: Option<Tz>) -> Option<i64> {
    let Some(zone) = zone else { return to_utc_micros_at(time, FixedOffset::east_opt(0)?) };
    match zone.offset_from_local_datetime(&time) {
        LocalResult::Single(offset) => to_utc_micros_at(time, offset.fix()),
        LocalResult::Ambiguous(..) | LocalResult::None => None,
    }
}

fn to_utc_micros_at(time: NaiveDateTime, offset: FixedOffset) -> Option<i64> {
    let utc = time.checked_sub_offset(offset)?;
    days_since_epoch(utc.date()).map(|_| utc.and_utc().timestamp_micros())
}

impl DateFormat {
    fn compile(text: &str) -> Option<Self> {
        let kind = match text {
            "" => return None,
            "excel" => FormatKind::Excel(EXCEL_EPOCH),
            "excel_1904" => FormatKind::Excel(EXCEL_1904_EPOCH),
            _ => {
                let items = StrftimeItems::new(text).parse_to_owned().ok()?;
                FormatKind::Items { items, utc: text.ends_with('Z') && !text.ends_with("%Z") }
            }
        };
        Some(Self { text: text.to_owned(), kind })
    }

    fn has_full_date(&self) -> bool {
        use std::fmt::Write;
        let FormatKind::Items { .. } = &self.kind else { return true };
        let mut text = String::new();
        let Some(day) = NaiveDate::from_ymd_opt(2024, 11, 23) else { return false };
        // Formatting a date fails if the format contains parts of a time.
        write!(text, "{}", day.format(&self.text)).is_ok() && self.parse_date(&text, DEFAULT_YEAR_PIVOT) == Some(day)
    }

    fn parse_date(&self, text: &str, pivot: i32) -> Option<NaiveDate> {
        match &self.kind {
            FormatKind::Excel(epoch) => {
                let time = parse_excel_serial(text, *epoch)?;
                (time.time() == NaiveTime::MIN).then(|| time.date())
            }
            FormatKind::Items { items, .. } => {
                let (parsed, _, rest) = parse_items(text, items, pivot)?;
                is_midnight(rest).then(|| parsed.to_naive_date().ok()).flatten()
            }
        }
    }

    fn parse_datetime(&self, text: &str, pivot: i32) -> Option<(NaiveDateTime, TimeZoneOf)> {
        let (items, utc) = match &self.kind {
            FormatKind::Items { items, utc } => (items, *utc),
            FormatKind::Excel(epoch) => return Some((parse_excel_serial(text, *epoch)?, TimeZoneOf::Unknown)),
        };
        let (mut parsed, zone, rest) = parse_items(text, items, pivot)?;
        if !rest.is_empty() {
            return None;
        }
        let has_time = parsed.hour_mod_12().is_some();
        if has_time && parsed.minute().is_none() {
            parsed.set_minute(0).ok()?;
        }
        let offset = parsed.to_fixed_offset().ok();
        let zone = match (zone, offset) {
            (Some(zone), _) => zone,
            (None, Some(offset)) => TimeZoneOf::Offset(offset),
            (None, None) if utc || parsed.timestamp().is_some() => TimeZoneOf::Offset(FixedOffset::east_opt(0)?),
            (None, None) => TimeZoneOf::Unknown,
        };
        let local = parsed.to_naive_datetime_with_offset(offset.map_or(0, |offset| offset.local_minus_utc())).ok();
        let day = || parsed.to_naive_date().ok().filter(|_| !has_time).map(|day| day.and_time(NaiveTime::MIN));
        Some((local.or_else(day)?, zone))
    }
}

/// Parses the items one by one, and returns what follows them.
fn parse_items<'a>(
    text: &'a str,
    items: &[Item<'static>],
    pivot: i32,
) -> Option<(Parsed, Option<TimeZoneOf>, &'a str)> {
    let (mut parsed, mut zone, mut rest) = (Parsed::new(), None, text);
    for item in items {
        match item {
            Item::Numeric(Numeric::Year | Numeric::IsoYear, _) => {
                // chrono accepts any number of digits and a sign.
                rest = rest.trim_start();
                leading_number(rest, 4)?;
            }
            Item::Numeric(Numeric::YearMod100, _) => {
                rest = rest.trim_start();
                let (year, behind) = leading_number(rest, 2)?;
                let century = pivot - pivot.rem_euclid(100);
                let year = century + year;
                parsed.set_year(i64::from(if year < pivot { year + 100 } else { year })).ok()?;
                rest = behind;
                continue;
            }
            Item::Fixed(Fixed::TimezoneName) => {
                rest = rest.trim_start();
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                zone = Some(parse_zone(&rest[..end])?);
                rest = &rest[end..];
                continue;
            }
            _ => {}
        }
        rest = parse_and_remainder(&mut parsed, rest, std::iter::once(item)).ok()?;
    }
    Some((parsed, zone, rest))
}

/// Reads exactly `count` digits.
fn leading_number(text: &str, count: usize) -> Option<(i32, &str)> {
    let digits = text.get(..count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((digits.parse().ok()?, &text[count..]))
}

/// Parses a zone whose meaning is clear: `UTC`, an offset, or a place of the IANA database. Abbreviations such as `EST`
/// stand for several zones.
fn parse_zone(name: &str) -> Option<TimeZoneOf> {
    if ["utc", "gmt", "z", "ut"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return Some(TimeZoneOf::Offset(FixedOffset::east_opt(0)?));
    }
    if name.starts_with(['+', '-']) {
        let is_offset = name[1..].bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
        return name.parse().ok().filter(|_| is_offset).map(TimeZoneOf::Offset);
    }
    let zone = if name.contains('/') { name.parse::<Tz>().ok() } else { None };
    zone.map(TimeZoneOf::Named)
}

/// Parses the name of a zone of the IANA database.
pub fn parse_timezone(name: &str) -> Option<Tz> {
    name.parse().ok()
}

/// Accepts only the years that both databases can read back: 1 to 9999.
pub fn days_since_epoch(date: NaiveDate) -> Option<i32> {
    (1..=9999).contains(&date.year()).then(|| date.num_days_from_ce() - DAYS_TO_1970)
}

/// Whether the text behind a date is empty or a time of midnight.
pub fn is_midnight(rest: &str) -> bool {
    if rest.trim().is_empty() {
        return true;
    }
    let Some(time) = rest.strip_prefix([' ', 'T', 't']) else { return false };
    let time = time.trim().to_ascii_lowercase();
    let time =
        ["z", "+00:00", "+0000", "utc"].iter().find_map(|zone| time.strip_suffix(*zone)).unwrap_or(&time).trim_end();
    let (time, twelve) = match time.strip_suffix("am") {
        Some(time) => (time.trim_end(), true),
        None => (time, false),
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':');
    let hour = parts.next().unwrap_or_default();
    let midnight = if twelve { hour == "12" } else { hour == "0" || hour == "00" };
    let rest = parts.collect::<Vec<_>>();
    midnight
        && (1..=2).contains(&rest.len())
        && rest.iter().all(|part| *part == "00")
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte == b'0')
}

/// Parses a serial number: days, and the share of a day behind the point.
fn parse_excel_serial(text: &str, epoch: NaiveDate) -> Option<NaiveDateTime> {
    let (days, share) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(days) || !digits(share) {
        return None;
    }
    let days = days.parse::<i64>().ok()?;
    let (first, shift) = match epoch == EXCEL_EPOCH {
        true if days == EXCEL_LEAP_DAY => return None,
        true => (1, i64::from(days < EXCEL_LEAP_DAY)),
        false => (0, 0),
    };
    if days < first {
        return None;
    }
    let share = format!("0.{share}").parse::<f64>().ok()?;
    // A serial number has no more precision than milliseconds.
    let micros = (share * (MICROS_PER_DAY / 1000) as f64).round() as i64 * 1000;
    let day = epoch.checked_add_signed(chrono::TimeDelta::try_days(days + shift)?)?;
    day.and_time(NaiveTime::MIN)
        .checked_add_signed(chrono::TimeDelta::microseconds(micros))
        .filter(|time| time.year() <= 9999)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats(formats: &[&str], zone: Option<&str>, pivot: Option<i32>) -> DateFormats {
        let formats = formats.iter().map(|format| (*format).to_owned()).collect::<Vec<_>>();
        DateFormats::compile(&formats, zone.and_then(parse_timezone), pivot).unwrap()
    }

    fn date(format: &str, text: &str) -> Option<String> {
        let days = formats(&[format], None, None).parse_date(text)?;
        Some((NaiveDate::default() + chrono::TimeDelta::days(days.into())).to_string())
    }

    fn time(format: &str, zone: Option<&str>, text: &str) -> Option<String> {
        let micros = formats(&[format], zone, None).parse_datetime(text)?;
        Some(chrono::DateTime::from_timestamp_micros(micros)?.format("%F %T%.f").to_string())
    }

    #[test]
    fn years_have_four_digits() {
        for text in ["31.12.24", "31.12.99", "05.01.202", "05.01.20241", "31.12.-24", "05.01.+2024"] {
            assert_eq!(date("%d.%m.%Y", text), None, "{text}");
        }
        assert_eq!(date("%d.%m.%Y", "5.1.2024").as_deref(), Some("2024-01-05"));
        assert_eq!(date("%Y%m%d", "20240105").as_deref(), Some("2024-01-05"));
        let both = formats(&["%d.%m.%Y", "%d.%m.%y"], None, None);
        assert_eq!(both.parse_date("31.12.24"), date_days(2024, 12, 31));
        assert_eq!(both.parse_date("31.12.99"), date_days(1999, 12, 31));
        let pivot = formats(&["%d.%m.%y"], None, Some(1925));
        assert_eq!(pivot.parse_date("31.12.24"), date_days(2024, 12, 31));
        assert_eq!(pivot.parse_date("31.12.25"), date_days(1925, 12, 31));
        assert_eq!(pivot.parse_date("31.12.2025"), None);
    }

    fn date_days(year: i32, month: u32, day: u32) -> Option<i32> {
        NaiveDate::from_ymd_opt(year, month, day).and_then(days_since_epoch)
    }

    #[test]
    fn dates_may_end_with_midnight() {
        for text in [
            "1/5/2024 0:00",
            "1/5/2024 12:00:00 AM",
            "1/5/2024",
            "1/5/2024 ",
            "1/5/2024T00:00:00Z",
            "1/5/2024 00:00:00.000",
        ] {
            assert_eq!(date("%m/%d/%Y", text).as_deref(), Some("2024-01-05"), "{text}");
        }
        for text in ["1/5/2024 12:00", "1/5/2024 0:01", "1/5/2024x", "1/5/2024 0", "1/5/2024 12:00 PM", "1/5/20240:00"]
        {
            assert_eq!(date("%m/%d/%Y", text), None, "{text}");
        }
    }

    #[test]
    fn zones_are_converted_or_refused() {
        let named = "%Y-%m-%d %H:%M:%S %Z";
        for (text, utc) in [
            ("2024-01-05 10:00:00 UTC", Some("2024-01-05 10:00:00")),
            ("2024-01-05 10:00:00 Z", Some("2024-01-05 10:00:00")),
            ("2024-01-05 10:00:00 +0500", Some("2024-01-05 05:00:00")),
            ("2024-07-05 10:00:00 Europe/Paris", Some("2024-07-05 08:00:00")),
            ("2024-03-31 02:30:00 Europe/Paris", None),
            ("2024-01-05 10:00:00 EST", None),
            ("2024-01-05 10:00:00 CET", None),
            ("2024-01-05 10:00:00", None),
        ] {
            assert_eq!(time(named, None, text).as_deref(), utc, "{text}");
        }
        let berlin = Some("Europe/Berlin");
        assert_eq!(time("%d.%m.%Y %H:%M", berlin, "05.01.2024 10:00").as_deref(), Some("2024-01-05 09:00:00"));
        assert_eq!(time("%d.%m.%Y %H:%M", berlin, "27.10.2024 02:30"), None);
        assert_eq!(time("%d.%m.%Y", berlin, "05.01.2024").as_deref(), Some("2024-01-04 23:00:00"));
        assert_eq!(time("%F %TZ", berlin, "2024-01-05 10:00:00Z").as_deref(), Some("2024-01-05 10:00:00"));
        assert_eq!(time("%F %T %z", berlin, "2024-01-05 10:00:00 -0100").as_deref(), Some("2024-01-05 11:00:00"));
        assert_eq!(time("%s", berlin, "1").as_deref(), Some("1970-01-01 00:00:01"));
        assert_eq!(time("%m/%d/%Y %I:%M %p", None, "1/5/2024 9:05 pm").as_deref(), Some("2024-01-05 21:05:00"));
        assert_eq!(time("%d.%m.%Y %H", None, "05.01.2024 10").as_deref(), Some("2024-01-05 10:00:00"));
    }

    #[test]
    fn serial_numbers_of_excel_are_read() {
        assert_eq!(date("excel", "45296").as_deref(), Some("2024-01-05"));
        assert_eq!(date("excel", "45296.0").as_deref(), Some("2024-01-05"));
        assert_eq!(date("excel", "61").as_deref(), Some("1900-03-01"));
        assert_eq!(date("excel", "59").as_deref(), Some("1900-02-28"));
        assert_eq!(date("excel_1904", "0").as_deref(), Some("1904-01-01"));
        for text in ["60", "0", "45296.5", "-1", "2958466", "1e5", ""] {
            assert_eq!(date("excel", text), None, "{text}");
        }
        assert_eq!(time("excel", None, "45296.75").as_deref(), Some("2024-01-05 18:00:00"));
        assert_eq!(time("excel", None, "45296.3333333333").as_deref(), Some("2024-01-05 08:00:00"));
    }

    #[test]
    fn formats_are_checked() {
        let partial = |format: &str| formats(&[format], None, None).find_partial_date().is_some();
        for format in ["%d.%m.%Y", "%y%j", "%G-W%V-%u", "excel"] {
            assert!(!partial(format), "{format}");
        }
        for format in ["yyyy-mm-dd", "%d.%m", "%H:%M"] {
            assert!(partial(format), "{format}");
        }
        for format in ["%Q", ""] {
            assert!(DateFormats::compile(&[format.to_owned()], None, None).is_err(), "{format}");
        }
    }
}
