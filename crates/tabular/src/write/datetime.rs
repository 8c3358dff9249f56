//! Parses dates and times as databases write them.

/// A date or time in the years 1 to 9999, in the time zone of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellDateTime {
    /// The year.
    pub year: u32,
    /// The month, from 1.
    pub month: u32,
    /// The day, from 1.
    pub day: u32,
    /// Microseconds since midnight; `None` for a date.
    pub micros: Option<u64>,
}

const MICROS_PER_SECOND: u64 = 1_000_000;
const MICROS_PER_DAY: u64 = 86_400 * MICROS_PER_SECOND;

impl CellDateTime {
    /// Parses `2024-02-29`, `2024-02-29 12:00`, `2024-02-29T12:00:00.5Z` and `2024-02-29 12:00:00+00`. Other formats
    /// and other offsets give `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        if date[4] != b'-' || date[7] != b'-' {
            return None;
        }
        let (year, month, day) = (parse_digits(&date[..4])?, parse_digits(&date[5..7])?, parse_digits(&date[8..])?);
        if year == 0 || !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
            return None;
        }
        let micros = match rest {
            [] => None,
            [b' ' | b'T', time @ ..] => Some(parse_time(time)?),
            _ => return None,
        };
        Some(Self { year, month, day, micros })
    }

    /// Returns the hour, minute and second.
    pub fn time_of_day(self) -> (u32, u32, u32) {
        let seconds = (self.micros.unwrap_or_default() / MICROS_PER_SECOND) as u32;
        (seconds / 3600, seconds / 60 % 60, seconds % 60)
    }

    /// The day number of spreadsheets. `None` before March 1900, because they count a day that did not exist.
    pub fn spreadsheet_serial(self) -> Option<f64> {
        // Count days since 0000-03-01 in the Gregorian calendar, so that the leap day ends the year.
        let (year, month) = if self.month > 2 { (self.year, self.month - 3) } else { (self.year - 1, self.month + 9) };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + self.day - 1;
        let days = days.checked_sub(693_899).filter(|days| *days >= 61)?;
        Some(f64::from(days) + self.micros.unwrap_or_default() as f64 / MICROS_PER_DAY as f64)
    }
}

/// Parses `12:00`, `12:00:00` and `12:00:00.5`, each with or without an offset of zero.
fn parse_time(text: &[u8]) -> Option<u64> {
    let text = [&b"Z"[..], b"+00:00", b"+00"].iter().find_map(|zero| text.strip_suffix(*zero)).unwrap_or(text);
    let (hour, minute) = (parse_digits(text.get(..2)?)?, parse_digits(text.get(3..5)?)?);
    let (second, fraction) = match text.get(5..)? {
        [] => (0, &[][..]),
        [b':', tens, ones] => (parse_digits(&[*tens, *ones])?, &[][..]),
        [b':', tens, ones, b'.', fraction @ ..] if (1..=9).contains(&fraction.len()) => {
            (parse_digits(&[*tens, *ones])?, fraction)
        }
        _ => return None,
    };
    let mut micros = 0;
    for place in 0..6 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        micros = 10 * micros + u64::from(parse_digits(&[digit])?);
    }
    let sound = text[2] == b':' && hour < 24 && minute < 60 && second < 60;
    sound.then(|| u64::from(3600 * hour + 60 * minute + second) * MICROS_PER_SECOND + micros)
}

fn parse_digits(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| 10 * sum + u32::from(digit - b'0')))
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_counts_days_from_1900() {
        let serial = |text: &str| CellDateTime::parse(text.as_bytes()).and_then(CellDateTime::spreadsheet_serial);
        assert_eq!(serial("1900-03-01"), Some(61.0));
        assert_eq!(serial("1900-02-28"), None);
        assert_eq!(serial("1970-01-01"), Some(25_569.0));
        assert_eq!(serial("2024-02-29 12:00:00"), Some(45_351.5));
        assert_eq!(serial("9999-12-31"), Some(2_958_465.0));
    }

    #[test]
    fn only_supported_datetime_formats_are_parsed() {
        for text in ["2024-02-29", "2024-02-29 12:00", "2024-02-29T12:00:00.5Z", "2024-12-31 23:59:59.999999+00"] {
            assert!(CellDateTime::parse(text.as_bytes()).is_some(), "{text}");
        }
        let with_clock = CellDateTime::parse(b"2024-02-29T01:02:03.25+00:00").unwrap();
        assert_eq!((with_clock.time_of_day(), with_clock.micros), ((1, 2, 3), Some(3_723_250_000)));
        for text in [
            "",
            "2023-02-29",
            "2024-13-01",
            "2024-02-29 24:00",
            "2024-02-29 12:00:00+02",
            "0000-01-01",
            "2024-02-29x",
            "2024-02-29 12:00:60",
            "2024-02-29 12:00:00.",
            "20240-02-29",
            "0044-03-15 BC",
            "infinity",
            "2024-02-29 1a:00",
        ] {
            assert_eq!(CellDateTime::parse(text.as_bytes()), None, "{text}");
        }
    }
}
