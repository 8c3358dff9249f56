//! Decimal numbers in JSON, without a change of any digit.
//!
//! Most readers of JSON keep a number as a float, which has 15 sure digits and no trailing zeros. A decimal that needs
//! more is a JSON string.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

/// The significant digits that every float keeps.
pub const FLOAT_DIGITS: usize = 15;

/// Converts the text of a number to JSON: to a number if it keeps every digit, otherwise to a string.
///
/// `19.9` becomes a number. `19.90`, a number of more than 15 digits, `NaN` and `Infinity` become strings.
pub fn decimal_to_json(text: &str) -> Value {
    let exact = is_number_text(text) && count_digits(text) <= FLOAT_DIGITS;
    if !exact {
        return text.into();
    }
    if let Ok(whole) = text.parse::<i64>() {
        return whole.into();
    }
    // A float prints its shortest form without trailing zeros, so this finds every change.
    match text.parse::<f64>() {
        Ok(float) if float.to_string() == text => float.into(),
        _ => text.into(),
    }
}

/// True if a text is a decimal as [`decimal_to_json`] writes it into a string, such as `19.90`.
pub fn is_decimal_text(text: &str) -> bool {
    is_number_text(text) && decimal_to_json(text).is_string()
}

/// True for digits with an optional `-` before them and an optional fraction, without useless leading zeros.
pub fn is_number_text(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let only_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    only_digits(whole) && fraction.is_none_or(only_digits) && (whole == "0" || !whole.starts_with('0'))
}

/// True for the texts of the numbers that have no digits.
pub fn is_non_finite_text(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "-Infinity")
}

/// Compares two decimals by all their digits. Each is digits with an optional `-` before them and an optional fraction.
pub fn compare_decimals(left: &str, right: &str) -> Ordering {
    let (left_negative, left_whole, left_fraction) = split_decimal(left);
    let (right_negative, right_whole, right_fraction) = split_decimal(right);
    let by_size = left_whole
        .len()
        .cmp(&right_whole.len())
        .then_with(|| left_whole.cmp(right_whole))
        .then_with(|| left_fraction.cmp(right_fraction));
    match (left_negative, right_negative) {
        (false, false) => by_size,
        (true, true) => by_size.reverse(),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    }
}

/// The sign, the whole part without zeros before it, and the fraction without zeros after it. Zero has no sign.
fn split_decimal(text: &str) -> (bool, &str, &str) {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let is_zero = whole.is_empty() && fraction.is_empty();
    (text.starts_with('-') && !is_zero, whole, fraction)
}

/// Converts a float to JSON. The texts of `NaN` and the infinities are those of PostgreSQL.
pub fn float_to_json(float: f64) -> Value {
    match float {
        _ if float.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        finite => finite.into(),
    }
}

/// Parses JSON. A number that neither an integer nor a float can hold becomes a string with its digits.
///
/// # Errors
/// If the text is not JSON.
pub fn parse_exact_json<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(&quote_inexact_numbers(text))
}

/// Quotes the numbers of a JSON text that a parser would change.
fn quote_inexact_numbers(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b'"' => {
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let more = |byte: &&u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                at += bytes[at..].iter().take_while(more).count();
                // The parser must still see, and refuse, what is not a number of JSON.
                let token = &text[start..at];
                if !keeps_every_digit(token) && serde_json::from_str::<IgnoredAny>(token).is_ok() {
                    out.push_str(&text[copied..start]);
                    out.push('"');
                    out.push_str(token);
                    out.push('"');
                    copied = at;
                }
            }
            _ => {}
        }
    }
    if copied == 0 {
        return text.into();
    }
    out.push_str(&text[copied..]);
    out.into()
}

/// True if a 64-bit integer or a float holds every digit of the text of a number.
pub fn keeps_every_digit(token: &str) -> bool {
    if token.parse::<i64>().is_ok() || token.parse::<u64>().is_ok() {
        return true;
    }
    let found = token.parse::<f64>().map(|float| split_digits(&format!("{float:e}")));
    found.is_ok_and(|found| found.is_some() && found == split_digits(token))
}

/// Splits a number into its digits, without the zeros at both ends, and the power of ten of the first one.
fn split_digits(text: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) =
        mantissa.trim_start_matches('-').split_once('.').unwrap_or((mantissa.trim_start_matches('-'), ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    if digits.is_empty() {
        return Some((String::new(), 0));
    }
    let zeros = (all.len() - digits.len()) as i64;
    let power = exponent.checked_add(whole.len() as i64 - zeros)?;
    Some((digits.trim_end_matches('0').to_owned(), power))
}

fn count_digits(text: &str) -> usize {
    let leading = |byte: &u8| matches!(byte, b'-' | b'0' | b'.');
    text.bytes().skip_while(leading).filter(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn decimal_is_a_number_only_if_no_digit_changes() {
        for (text, value) in [
            ("0", json!(0)),
            ("-42", json!(-42)),
            ("19.9", json!(19.9)),
            ("-0.005", json!(-0.005)),
            ("0.00000000000000000001", json!(1e-20)),
            ("999999999999999", json!(999_999_999_999_999_i64)),
        ] {
            assert_eq!(decimal_to_json(text), value, "{text}");
            assert!(!is_decimal_text(text), "{text}");
        }
        let tiny = format!("0.{}1", "0".repeat(400));
        for text in ["19.90", "0.00", "5.0", "9007199254740993", "123456789012345678.90", "0.1234567890123456", &tiny] {
            assert_eq!(decimal_to_json(text), json!(text));
            assert!(is_decimal_text(text), "{text}");
        }
        for text in ["", "-", "01.50", "1.", ".50", "+1.50", "1e400", "NaN", "1.50 ", "1.5.0", "--1.50"] {
            assert_eq!(decimal_to_json(text), json!(text));
            assert!(!is_decimal_text(text), "{text}");
        }
    }

    #[test]
    fn json_numbers_keep_every_digit() {
        for (text, value) in [
            ("[1, -0.5, 1e3, 18446744073709551615]", json!([1, -0.5, 1000.0, u64::MAX])),
            ("[19.90, 52.52000659999999, 0.0, -0]", json!([19.9, 52.520_006_599_999_99, 0.0, -0.0])),
            ("[0.30000000000000004, 1.7976931348623157e308]", json!([0.1 + 0.2, f64::MAX])),
            (r#"{"a": 123456789012345678.90}"#, json!({ "a": "123456789012345678.90" })),
            ("18446744073709551616", json!("18446744073709551616")),
            ("[1e400,-1e-400]", json!(["1e400", "-1e-400"])),
            (r#"{"1e400\"": "1e400 \\", "b": 1}"#, json!({ "1e400\"": "1e400 \\", "b": 1 })),
        ] {
            assert_eq!(parse_exact_json::<Value>(text).expect(text), value, "{text}");
        }
        for text in ["[1e400", "01e400", "1.e400", "123456789012345678.90.1", "\"\\", "--1e400"] {
            assert!(parse_exact_json::<Value>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn decimals_are_compared_by_all_their_digits() {
        let sorted = [
            "-1234567890123456.78",
            "-10",
            "-9.5",
            "-0.001",
            "0",
            "0.1",
            "0.45",
            "0.5",
            "9",
            "10.0000000000000001",
            "1234567890123456.7",
            "1234567890123456.78",
            "123456789012345678",
        ];
        for (left_index, left) in sorted.iter().enumerate() {
            for (right_index, right) in sorted.iter().enumerate() {
                assert_eq!(compare_decimals(left, right), left_index.cmp(&right_index), "{left} {right}");
            }
        }
        for (left, right) in [("-0", "0.00"), ("007.50", "7.5"), ("1.0", "1")] {
            assert_eq!(compare_decimals(left, right), Ordering::Equal, "{left} {right}");
        }
    }

    #[test]
    fn non_finite_floats_have_a_text() {
        let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5].map(float_to_json);
        assert_eq!(Value::from(floats.to_vec()), json!(["NaN", "Infinity", "-Infinity", 1.5]));
    }
}
