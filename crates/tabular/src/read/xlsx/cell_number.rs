//! The text of numbers, dates and times as a sheet shows them.

use chrono::{Days, NaiveDate};

use super::cell_style::CellStyle;

/// The digits of a number that spreadsheets keep.
const SHEET_DIGITS: usize = 15;
/// Larger and smaller powers of ten stay an exponent.
const MAX_PLAIN_EXPONENT: i32 = 20;
const MILLIS_PER_DAY: f64 = 86_400_000.0;
/// The first day that is none: January 1st of the year 10000.
const MAX_SERIAL: f64 = 2_958_466.0;
/// Day 60 is a February 29th in 1900, which never was.
const LEAP_DAY: u64 = 60;

/// The day 0 of a workbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DateSystem {
    /// Day 1 is January 1st, 1900.
    From1900,
    /// Day 0 is January 1st, 1904, as in workbooks from early versions for the Mac.
    From1904,
}

/// Adds the text of a number. `mark` stands before its fraction. Returns false if it is none.
pub fn append_number(value: &str, style: CellStyle, system: DateSystem, mark: char, out: &mut String) -> bool {
    let value = value.trim();
    if style == CellStyle::Number && value.len() <= SHEET_DIGITS && is_plain_integer(value) {
        out.push_str(value);
        return true;
    }
    let Ok(number) = value.parse::<f64>() else { return false };
    if !number.is_finite() {
        return false;
    }
    let shown = match style {
        CellStyle::Number => None,
        _ => format_serial(number, style, system),
    };
    match shown {
        Some(text) => out.push_str(&text),
        None => append_digits(number, mark, out),
    }
    true
}

/// A whole number without needless zeros and signs.
fn is_plain_integer(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain && (!digits.starts_with('0') || value == "0")
}

/// Adds a number with up to 15 digits.
fn append_digits(number: f64, mark: char, out: &mut String) {
    if number == 0.0 {
        out.push('0');
        return;
    }
    let fraction = SHEET_DIGITS - 1;
    let text = format!("{number:.fraction$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent = exponent.parse::<i32>().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).map(char::from).collect::<String>();
    let digits = digits.trim_end_matches('0');
    if number < 0.0 {
        out.push('-');
    }
    let count = digits.len() as i32;
    if exponent.abs() > MAX_PLAIN_EXPONENT {
        out.push_str(&digits[..1]);
        if count > 1 {
            out.push(mark);
            out.push_str(&digits[1..]);
        }
        out.push_str(&format!("e{exponent}"));
    } else if exponent < 0 {
        out.push('0');
        out.push(mark);
        out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
        out.push_str(digits);
    } else if count <= exponent + 1 {
        out.push_str(digits);
        out.extend(std::iter::repeat_n('0', (exponent + 1 - count) as usize));
    } else {
        let whole = exponent as usize + 1;
        out.push_str(&digits[..whole]);
        out.push(mark);
        out.push_str(&digits[whole..]);
    }
}

/// Formats a number that stands for a date or a time in ISO 8601; `None` if it stands for none.
fn format_serial(number: f64, style: CellStyle, system: DateSystem) -> Option<String> {
    if !(0.0..MAX_SERIAL).contains(&number) {
        return None;
    }
    let millis = (number * MILLIS_PER_DAY).round() as u64;
    let (day, rest) = (millis / 86_400_000, millis % 86_400_000);
    if style == CellStyle::Duration {
        return Some(format_time(millis));
    }
    let is_time_only = style == CellStyle::Time && day == 0;
    if is_time_only || (day == 0 && rest > 0 && system == DateSystem::From1900) {
        return Some(format_time(rest));
    }
    let date = match (system, day) {
        (DateSystem::From1904, _) => NaiveDate::from_ymd_opt(1904, 1, 1)?.checked_add_days(Days::new(day))?.to_string(),
        // The sheet shows day 0 as January 0th.
        (DateSystem::From1900, 0) => return None,
        (DateSystem::From1900, LEAP_DAY) => "1900-02-29".to_owned(),
        (DateSystem::From1900, day) => {
            let epoch = NaiveDate::from_ymd_opt(1899, 12, if day < LEAP_DAY { 31 } else { 30 })?;
            epoch.checked_add_days(Days::new(day))?.to_string()
        }
    };
    // A date that holds a time keeps it.
    Some(if style == CellStyle::Date && rest == 0 { date } else { format!("{date}T{}", format_time(rest)) })
}

fn format_time(millis: u64) -> String {
    let (seconds, fraction) = (millis / 1000, millis % 1000);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:03}") };
    format!("{:02}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str, style: CellStyle, system: DateSystem, mark: char) -> String {
        let mut out = String::new();
        if append_number(value, style, system, mark, &mut out) { out } else { "invalid".into() }
    }

    #[test]
    fn numbers_keep_fifteen_digits() {
        for (value, text) in [
            ("7", "7"),
            ("-0", "0"),
            ("007", "7"),
            ("1.0", "1"),
            ("-12.50", "-12.5"),
            ("0.30000000000000004", "0.3"),
            ("1.1000000000000001", "1.1"),
            ("1E-3", "0.001"),
            ("123456789012345", "123456789012345"),
            ("9007199254740993", "9007199254740990"),
            ("1.5e+16", "15000000000000000"),
            ("1.25e30", "1.25e30"),
            ("-2e-25", "-2e-25"),
            ("NaN", "invalid"),
            ("1e999", "invalid"),
            ("", "invalid"),
        ] {
            assert_eq!(shown(value, CellStyle::Number, DateSystem::From1900, '.'), text, "{value}");
        }
        assert_eq!(shown("1.234", CellStyle::Number, DateSystem::From1900, ','), "1,234");
    }

    #[test]
    fn dates_follow_the_system_of_the_workbook() {
        for (value, style, from_1900, from_1904) in [
            ("45351", CellStyle::Date, "2024-02-29", "2028-03-01"),
            ("1", CellStyle::Date, "1900-01-01", "1904-01-02"),
            ("59", CellStyle::Date, "1900-02-28", "1904-02-29"),
            ("60", CellStyle::Date, "1900-02-29", "1904-03-01"),
            ("61", CellStyle::Date, "1900-03-01", "1904-03-02"),
            ("45351.5", CellStyle::DateTime, "2024-02-29T12:00:00", "2028-03-01T12:00:00"),
            ("45351.5", CellStyle::Date, "2024-02-29T12:00:00", "2028-03-01T12:00:00"),
            ("45351", CellStyle::DateTime, "2024-02-29T00:00:00", "2028-03-01T00:00:00"),
            ("0.999988425925926", CellStyle::Time, "23:59:59", "23:59:59"),
            ("1.5", CellStyle::Duration, "36:00:00", "36:00:00"),
            ("0", CellStyle::Date, "0", "1904-01-01"),
            ("-1", CellStyle::Date, "-1", "-1"),
            ("2958466", CellStyle::Date, "2958466", "2958466"),
        ] {
            assert_eq!(shown(value, style, DateSystem::From1900, '.'), from_1900, "{value} {style:?}");
            assert_eq!(shown(value, style, DateSystem::From1904, '.'), from_1904, "{value} {style:?}");
        }
    }
}
