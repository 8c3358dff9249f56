//! Parses single cells: numbers, dates, times, addresses and IDs.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use chrono_tz::Tz;

use super::date_format::{DateFormats, days_since_epoch, is_midnight, to_utc_micros};

/// The formats of ISO 8601, and whether the text has an offset, is UTC, or is a local time.
const DATETIME_FORMATS: &[(&str, IsoZone)] = &[
    ("%Y-%m-%dT%H:%M:%S%.f%:z", IsoZone::Offset),
    ("%Y-%m-%dT%H:%M:%S%.fZ", IsoZone::Utc),
    ("%Y-%m-%d %H:%M:%S%.f", IsoZone::Local),
    ("%Y-%m-%dT%H:%M:%S%.f", IsoZone::Local),
    ("%Y-%m-%d %H:%M:%S%.f%#z", IsoZone::Offset),
    ("%Y-%m-%d %H:%M:%S%.fZ", IsoZone::Utc),
    ("%Y-%m-%d %H:%M", IsoZone::Local),
    ("%Y-%m-%dT%H:%M", IsoZone::Local),
    ("%Y-%m-%d", IsoZone::Local),
];

#[derive(Clone, Copy)]
enum IsoZone {
    Offset,
    Utc,
    Local,
}

/// The reason why a whole number is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerError {
    /// The text is not a whole number.
    Invalid,
    /// The number does not fit into 64 bits.
    TooLarge,
}

/// Parses a whole number with an optional sign. A fraction of zeros is accepted, as spreadsheets write it.
pub fn parse_integer(text: &str) -> Result<i64, IntegerError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0') => {
                match whole.contains('.') {
                    true => Err(IntegerError::Invalid),
                    false => parse_integer(whole),
                }
            }
            _ => Err(IntegerError::Invalid),
        };
    }
    text.parse().map_err(|_| IntegerError::TooLarge)
}

/// Normalizes a decimal number to `-?[0-9]+(\.[0-9]+)?`. A `+`, a bare point and an exponent up to 40 are accepted.
pub fn parse_decimal(text: &str) -> Option<Cow<'_, str>> {
    if is_plain_decimal(text) {
        return Some(Cow::Borrowed(text));
    }
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok().filter(|exponent| exponent.abs() <= 40)?),
        None => (text, 0),
    };
    let digits = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let plain = exponent == 0 && !whole.is_empty() && !mantissa.starts_with('+') && !mantissa.ends_with('.');
    if plain {
        return Some(Cow::Borrowed(mantissa));
    }
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let point = whole.len() as i32 + exponent;
    let digits = format!("{whole}{fraction}");
    let before = point.max(0) as usize;
    let whole = digits.chars().chain(std::iter::repeat('0')).take(before).collect::<String>();
    let zeros = "0".repeat((-point).max(0) as usize);
    let fraction = format!("{zeros}{}", digits.get(before..).unwrap_or_default());
    let whole = if whole.is_empty() { "0" } else { &whole };
    Some(Cow::Owned(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }))
}

/// Matches `-?[0-9]+(\.[0-9]+)?`, the common case.
fn is_plain_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match &digits[whole..] {
        [] => whole > 0,
        [b'.', fraction @ ..] => whole > 0 && !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Parses a boolean, in the words that spreadsheets and databases use.
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => return Some(true),
        "0" | "false" => return Some(false),
        _ => {}
    }
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match () {
        () if is(&["true", "t", "yes", "y", "on", "1"]) => Some(true),
        () if is(&["false", "f", "no", "n", "off", "0"]) => Some(false),
        () => None,
    }
}

/// Parses a date, and returns the days since 1970. A time behind it must be midnight.
pub fn parse_date(text: &str, formats: &DateFormats) -> Option<i32> {
    if !formats.is_iso() {
        return formats.parse_date(text);
    }
    let day = parse_iso_date(text.as_bytes().get(..10)?)?;
    (text.len() == 10 || text.get(10..).is_some_and(is_midnight)).then_some(day)
}

/// Parses a time, and returns the microseconds since 1970 in UTC.
pub fn parse_datetime(text: &str, formats: &DateFormats) -> Option<i64> {
    if !formats.is_iso() {
        return formats.parse_datetime(text);
    }
    // chrono would also accept years of two digits.
    parse_iso_date(text.as_bytes().get(..10)?)?;
    DATETIME_FORMATS.iter().find_map(|(format, zone)| parse_iso_time(text, format, *zone, formats.zone()))
}

fn parse_iso_time(text: &str, format: &str, zone: IsoZone, local: Option<Tz>) -> Option<i64> {
    let time = || NaiveDateTime::parse_from_str(text, format).ok();
    let day = || NaiveDate::parse_from_str(text, format).ok().map(|day| day.and_time(NaiveTime::MIN));
    match zone {
        IsoZone::Offset => to_utc_micros(DateTime::parse_from_str(text, format).ok()?.naive_utc(), None),
        IsoZone::Utc => to_utc_micros(time()?, None),
        IsoZone::Local => to_utc_micros(time().or_else(day)?, local),
    }
}

/// Parses `2024-02-29`, the common case, without chrono's format parser.
fn parse_iso_date(text: &[u8]) -> Option<i32> {
    let number = |range: std::ops::Range<usize>| {
        text[range].iter().try_fold(0_u32, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let hyphens = text[4] == b'-' && text[7] == b'-';
    hyphens.then(|| NaiveDate::from_ymd_opt(year as i32, month, day)).flatten().and_then(days_since_epoch)
}

/// Whether the text is an e-mail address: one `@`, a local part without spaces, a domain with a dot.
pub fn is_email(text: &str) -> bool {
    let Some(at) = text.bytes().rposition(|byte| byte == b'@') else { return false };
    let (local, domain) = (&text[..at], &text[at + 1..]);
    let local_char = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-') || "!#$%&'*+/=?^`{|}~".contains(c);
    let domain_char = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.');
    let label = |label: &[u8]| (1..=63).contains(&label.len()) && !label.starts_with(b"-") && !label.ends_with(b"-");
    (1..=64).contains(&local.len())
        && local.chars().all(local_char)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.as_bytes().windows(2).any(|pair| pair == b"..")
        && domain.len() <= 253
        && domain.bytes().any(|byte| byte == b'.')
        && domain.chars().all(domain_char)
        && domain.as_bytes().split(|byte| *byte == b'.').all(label)
}

/// Whether the text is an absolute URL with a host.
pub fn is_url(text: &str) -> bool {
    !text.contains(char::is_whitespace) && url::Url::parse(text).is_ok_and(|url| url.has_host())
}

/// Normalizes a UUID to lower case with hyphens.
pub fn normalize_uuid(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let usual = bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
        });
    if usual {
        return Some(Cow::Borrowed(text));
    }
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let hyphens = inner.len() == 36 && [8, 13, 18, 23].iter().all(|at| inner.as_bytes()[*at] == b'-');
    let digits = if hyphens { inner.replace('-', "") } else { inner.to_owned() };
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let d = digits.to_ascii_lowercase();
    Some(Cow::Owned(format!("{}-{}-{}-{}-{}", &d[..8], &d[8..12], &d[12..16], &d[16..20], &d[20..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_decimals_are_parsed() {
        assert_eq!(parse_integer("+42"), Ok(42));
        assert_eq!(parse_integer("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_integer("9223372036854775808"), Err(IntegerError::TooLarge));
        assert_eq!([parse_integer("1.0"), parse_integer("-12.00")], [Ok(1), Ok(-12)]);
        for text in ["", "-", "1.5", "1.", ".0", "1.0.0", "12,", "1e3", "1,234", "٣", "1_000", " 1", "0x1", "１"] {
            assert_eq!(parse_integer(text), Err(IntegerError::Invalid), "{text:?}");
        }
        let written = [("1.50", "1.50"), ("-0.5", "-0.5"), ("+3", "3"), (".5", "0.5"), ("5.", "5"), ("-.5", "-0.5")];
        let powers = [("1E5", "100000"), ("1.5e-3", "0.0015"), ("12.345e1", "123.45"), ("1.5e1", "15"), ("-2e0", "-2")];
        for (text, number) in written.into_iter().chain(powers) {
            assert_eq!(parse_decimal(text).as_deref(), Some(number), "{text:?}");
        }
        for text in ["", ".", "-", "1,5", "1.2.3", "NaN", "inf", "1e", "1e99", "e5", "1 000"] {
            assert_eq!(parse_decimal(text), None, "{text:?}");
        }
    }

    #[test]
    fn dates_and_times_are_parsed() {
        let iso = DateFormats::default();
        assert_eq!(parse_date("1970-01-02", &iso), Some(1));
        assert_eq!(parse_date("1970-01-02 00:00:00", &iso), Some(1));
        assert_eq!(parse_date("1970-01-02T00:00:00Z", &iso), Some(1));
        assert_eq!(parse_date("2024-02-29", &iso), Some(19_782));
        for text in
            ["2023-02-29", "2024/02/29", "0000-01-01", "é24-02-29", "24-02-29", "1970-01-02 00:01", "1970-01-023", ""]
        {
            assert_eq!(parse_date(text, &iso), None, "{text:?}");
        }
        let formats = DateFormats::compile(&["%d.%m.%Y".to_owned(), "%m/%d/%Y".to_owned()], None, None).unwrap();
        assert_eq!(parse_date("02.01.1970", &formats), Some(1));
        assert_eq!(parse_date("01/02/1970", &formats), Some(1));
        assert_eq!(parse_date("1970-01-02", &formats), None);
        let second = 1_000_000;
        for text in [
            "1970-01-01T01:00:01+01:00",
            "1970-01-01T00:00:01Z",
            "1970-01-01 00:00:01",
            "1970-01-01T00:00:01.000",
            "1970-01-01 02:00:01+02",
        ] {
            assert_eq!(parse_datetime(text, &iso), Some(second), "{text:?}");
        }
        assert_eq!(parse_datetime("1970-01-02", &iso), Some(86_400 * second));
        let berlin = DateFormats::compile(&[], Some(chrono_tz::Europe::Berlin), None).unwrap();
        assert_eq!(parse_datetime("1970-01-01 01:00:01", &berlin), Some(second));
        assert_eq!(parse_datetime("1970-01-01 00:00:01Z", &berlin), Some(second));
        assert_eq!(parse_datetime("2024-03-31 02:30:00", &berlin), None);
        assert_eq!(parse_datetime("yesterday", &iso), None);
    }

    #[test]
    fn emails_urls_and_uuids_are_parsed() {
        for text in ["a@b.co", "first.last+tag@sub.example.org", "jürgen@köln.de"] {
            assert!(is_email(text), "{text:?}");
        }
        for text in
            ["", "a", "a@", "@b.co", "a b@c.de", "a@b", "a@b..de", "a@-b.de", ".a@b.de", "a@b.de\r\nBcc: x@y.de"]
        {
            assert!(!is_email(text), "{text:?}");
        }
        assert!(
            is_url("https://example.org/a?b=c")
                && !is_url("example.org")
                && !is_url("mailto:a@b.de")
                && !is_url("http://a b/")
        );
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        for text in [
            id,
            "67E55044-10B1-426F-9247-BB680E5FE0C8",
            "67e5504410b1426f9247bb680e5fe0c8",
            "{67e55044-10b1-426f-9247-bb680e5fe0c8}",
        ] {
            assert_eq!(normalize_uuid(text).as_deref(), Some(id), "{text:?}");
        }
        assert_eq!(normalize_uuid("67e55044-10b1-426f-9247-bb680e5fe0cg"), None);
        assert_eq!(normalize_uuid("é7e55044-10b1-426f-9247-bb680e5fe0c"), None);
        assert_eq!(parse_boolean("Yes"), Some(true));
        assert_eq!(parse_boolean("2"), None);
    }
}
