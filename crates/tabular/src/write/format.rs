//! Display formats of columns, in the syntax of spreadsheets.
//!
//! XLSX files contain the format. CSV files contain the formatted text, for formats of digits (`0.00`, `#,##0`, `0.0%`)
//! and of date parts (`dd.mm.yyyy hh:mm`).

use super::datetime::CellDateTime;

/// A display format of a spreadsheet.
#[derive(Clone, Debug, PartialEq)]
pub struct CellFormat {
    /// The format code as written.
    pub code: String,
    kind: CellFormatKind,
}

#[derive(Clone, Debug, PartialEq)]
enum CellFormatKind {
    Number(NumberFormat),
    Date(Vec<DatePart>),
    /// Only spreadsheets can apply it. `date` tells whether it formats dates.
    SpreadsheetOnly {
        date: bool,
    },
}

/// A number format such as `#,##0.00%`.
#[derive(Clone, Debug, PartialEq)]
struct NumberFormat {
    /// The minimum number of digits before the point.
    whole: usize,
    /// Whether thousands are separated.
    grouped: bool,
    /// The minimum and maximum number of digits after the point.
    fraction: (usize, usize),
    percent: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum DatePart {
    Year { short: bool },
    Month { wide: bool },
    Day { wide: bool },
    Hour { wide: bool },
    Minute { wide: bool },
    Second { wide: bool },
    Literal(char),
}

impl CellFormat {
    /// Parses a format. Unknown formats are left to the spreadsheet.
    pub fn new(code: &str) -> Self {
        let kind = parse_number_format(code)
            .map(CellFormatKind::Number)
            .or_else(|| parse_date_format(code).map(CellFormatKind::Date));
        Self {
            code: code.to_owned(),
            kind: kind.unwrap_or_else(|| CellFormatKind::SpreadsheetOnly { date: has_date_letters(code) }),
        }
    }

    /// Whether a CSV can contain the formatted text.
    pub fn is_supported(&self) -> bool {
        !matches!(self.kind, CellFormatKind::SpreadsheetOnly { .. })
    }

    /// Whether it formats dates and times.
    pub fn is_date(&self) -> bool {
        matches!(self.kind, CellFormatKind::Date(_) | CellFormatKind::SpreadsheetOnly { date: true })
    }

    /// Writes a formatted number. Returns false if the text is not a number or the format is unknown.
    pub fn write_number(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        match (&self.kind, DecimalDigits::parse(text)) {
            (CellFormatKind::Number(number), Some(decimal)) => {
                number.write_decimal(decimal, out);
                true
            }
            _ => false,
        }
    }

    /// Writes a formatted date or time. Returns false if the text is not one or the format is unknown.
    pub fn write_datetime(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let (CellFormatKind::Date(parts), Some(moment)) = (&self.kind, CellDateTime::parse(text)) else { return false };
        let (hour, minute, second) = moment.time_of_day();
        for part in parts {
            let (number, width) = match part {
                DatePart::Year { short: true } => (moment.year % 100, 2),
                DatePart::Year { short: false } => (moment.year, 4),
                DatePart::Month { wide } => (moment.month, 1 + usize::from(*wide)),
                DatePart::Day { wide } => (moment.day, 1 + usize::from(*wide)),
                DatePart::Hour { wide } => (hour, 1 + usize::from(*wide)),
                DatePart::Minute { wide } => (minute, 1 + usize::from(*wide)),
                DatePart::Second { wide } => (second, 1 + usize::from(*wide)),
                DatePart::Literal(mark) => {
                    out.extend_from_slice(mark.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            out.extend_from_slice(format!("{number:0width$}").as_bytes());
        }
        true
    }
}

/// Whether a format has date letters outside of quotes, brackets and escapes.
fn has_date_letters(code: &str) -> bool {
    let (mut letters, mut digits) = (false, false);
    let mut rest = code.chars();
    while let Some(mark) = rest.next() {
        match mark {
            '"' => skip_past(&mut rest, '"'),
            '[' => skip_past(&mut rest, ']'),
            '\\' | '_' | '*' => {
                rest.next();
            }
            'y' | 'Y' | 'm' | 'M' | 'd' | 'D' | 'h' | 'H' | 's' | 'S' => letters = true,
            '#' | '?' => digits = true,
            _ => {}
        }
    }
    letters && !digits
}

fn skip_past(rest: &mut std::str::Chars<'_>, end: char) {
    rest.find(|mark| *mark == end);
}

fn parse_number_format(code: &str) -> Option<NumberFormat> {
    let (digits, percent) = code.strip_suffix('%').map_or((code, false), |digits| (digits, true));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let (whole, grouped) = whole.strip_prefix("#,##").map_or((whole, false), |whole| (whole, true));
    let zeros = |text: &str| {
        (!text.is_empty() && text.len() <= 30 && text.bytes().all(|byte| byte == b'0')).then_some(text.len())
    };
    let whole = zeros(whole)?;
    let fraction = match fraction {
        None => (0, 0),
        Some(text) => {
            let least = text.trim_end_matches('#').len();
            (
                if least == 0 { 0 } else { zeros(&text[..least])? },
                Some(text.len()).filter(|most| (1..=30).contains(most))?,
            )
        }
    };
    Some(NumberFormat { whole, grouped, fraction, percent })
}

fn parse_date_format(code: &str) -> Option<Vec<DatePart>> {
    let code = code.to_ascii_lowercase();
    let (mut parts, mut rest) = (Vec::new(), code.as_str());
    while let Some(mark) = rest.chars().next() {
        let run = rest.len() - rest.trim_start_matches(mark).len();
        let clock = parts.iter().rev().find(|part| !matches!(part, DatePart::Literal(_)));
        let after_hour = matches!(clock, Some(DatePart::Hour { .. }));
        let before_second = rest[run..].trim_start_matches([':', '.', ' ']).starts_with('s');
        let wide = run == 2;
        parts.push(match (mark, run) {
            ('y', 4) => DatePart::Year { short: false },
            ('y', 2) => DatePart::Year { short: true },
            ('m', 1 | 2) if after_hour || before_second => DatePart::Minute { wide },
            ('m', 1 | 2) => DatePart::Month { wide },
            ('d', 1 | 2) => DatePart::Day { wide },
            ('h', 1 | 2) => DatePart::Hour { wide },
            ('s', 1 | 2) => DatePart::Second { wide },
            ('-' | '.' | '/' | ':' | ' ' | ',', 1) => DatePart::Literal(mark),
            _ => return None,
        });
        rest = &rest[run..];
    }
    parts.iter().any(|part| !matches!(part, DatePart::Literal(_))).then_some(parts)
}

/// A decimal number: its digits, and the position of the point. If the position is negative, zeros follow the point.
struct DecimalDigits {
    negative: bool,
    digits: Vec<u8>,
    point: i64,
}

/// More digits than any number of a database has. Longer numbers are not formatted.
const MAX_DECIMAL_DIGITS: i64 = 200_000;

impl DecimalDigits {
    fn parse(text: &[u8]) -> Option<Self> {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&text[..at], std::str::from_utf8(&text[at + 1..]).ok()?.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let whole = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
        let fraction = mantissa.get(whole + 1..).unwrap_or_default();
        let digits = [&mantissa[..whole], fraction].concat();
        let point = (whole as i64).checked_add(exponent)?;
        let sound = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && point.abs() <= MAX_DECIMAL_DIGITS;
        sound.then_some(Self { negative, digits, point })
    }

    /// The digit at a position: 0 is the last one before the point, -1 the first one after it.
    fn digit_at(&self, place: i64) -> u8 {
        let index = self.point - 1 - place;
        usize::try_from(index).ok().and_then(|index| self.digits.get(index)).copied().unwrap_or(b'0')
    }

    /// Rounds to this many digits after the point. Halves round away from zero, as in spreadsheets.
    fn round_to(&mut self, fraction: i64) {
        let up = self.digit_at(-fraction - 1) >= b'5';
        let kept = self.point + fraction;
        if kept < 0 {
            (self.digits, self.point) = (vec![b'0'], 1);
            return;
        }
        self.digits.resize(kept as usize, b'0');
        if !up {
            return;
        }
        for digit in self.digits.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        self.digits.insert(0, b'1');
        self.point += 1;
    }
}

impl NumberFormat {
    fn write_decimal(&self, mut decimal: DecimalDigits, out: &mut Vec<u8>) {
        if self.percent {
            decimal.point += 2;
        }
        let (least, most) = self.fraction;
        decimal.round_to(most as i64);
        if decimal.negative && decimal.digits.iter().any(|digit| *digit != b'0') {
            out.push(b'-');
        }
        let leading = decimal.digits.iter().take_while(|digit| **digit == b'0').count() as i64;
        let whole = (decimal.point - leading).max(self.whole as i64).max(1);
        for place in (0..whole).rev() {
            out.push(decimal.digit_at(place));
            if self.grouped && place > 0 && place % 3 == 0 {
                out.push(b',');
            }
        }
        let needed = (1..=most).rev().find(|place| decimal.digit_at(-(*place as i64)) != b'0').unwrap_or(0).max(least);
        if needed > 0 {
            out.push(b'.');
            out.extend((1..=needed as i64).map(|place| decimal.digit_at(-place)));
        }
        if self.percent {
            out.push(b'%');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(code: &str, text: &str) -> Option<String> {
        let (format, mut out) = (CellFormat::new(code), Vec::new());
        let text = text.as_bytes();
        let done =
            if format.is_date() { format.write_datetime(text, &mut out) } else { format.write_number(text, &mut out) };
        done.then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn numbers_are_rounded_half_away_from_zero() {
        for (code, text, expected) in [
            ("0.00", "1.005", "1.01"),
            ("0.00", "-1.005", "-1.01"),
            ("0.00", "-0.001", "0.00"),
            ("0.00", "999.995", "1000.00"),
            ("0", "0.5", "1"),
            ("0", "0.49", "0"),
            ("0", "12345678901234567890", "12345678901234567890"),
            ("#,##0.00", "1234567.891", "1,234,567.89"),
            ("#,##0", "-123", "-123"),
            ("0.0#", "1.25", "1.25"),
            ("0.0#", "1", "1.0"),
            ("0.##", "3", "3"),
            ("000", "7", "007"),
            ("0.0%", "0.1234", "12.3%"),
            ("0%", "1", "100%"),
            ("0.00", "1.5e3", "1500.00"),
            ("0.00", "1e-7", "0.00"),
            ("0.000", "0.00049999", "0.000"),
            ("0.000", "0.0005", "0.001"),
        ] {
            assert_eq!(shown(code, text).as_deref(), Some(expected), "{code} {text}");
        }
        assert_eq!(shown("0.00", "NaN"), None);
        assert_eq!(shown("0.00", "1e999999999"), None);
    }

    #[test]
    fn dates_and_times_are_formatted() {
        let moment = "2024-02-09 07:05:03+00";
        for (code, expected) in [
            ("dd.mm.yyyy", "09.02.2024"),
            ("d/m/yy", "9/2/24"),
            ("yyyy-mm-dd hh:mm:ss", "2024-02-09 07:05:03"),
            ("hh:mm", "07:05"),
            ("mm:ss", "05:03"),
            ("m/d/yyyy h:mm", "2/9/2024 7:05"),
        ] {
            assert_eq!(shown(code, moment).as_deref(), Some(expected), "{code}");
        }
        assert_eq!(shown("dd.mm.yyyy", "soon"), None);
    }

    #[test]
    fn unknown_formats_are_spreadsheet_only() {
        for (code, date) in [
            ("d mmm yyyy", true),
            ("#,##0.00 \"days\"", false),
            ("[Red]0;-0", false),
            ("hh:mm AM/PM", true),
            ("?/?", false),
        ] {
            let format = CellFormat::new(code);
            assert_eq!((format.is_supported(), format.is_date()), (false, date), "{code}");
        }
    }
}
