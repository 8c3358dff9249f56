//! Whole numbers in JSON, which has no integers: `737.0` and `737` are the same number.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// Reads a whole number from 0 on. One that is too large for the type becomes its largest value.
pub(crate) fn deserialize_u64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = Number::deserialize(deserializer)?;
    to_u64(&number).ok_or_else(|| D::Error::custom(format!("`{number}` is not a whole number from 0 on")))
}

/// Same as [`deserialize_u64`], for a value that may be null.
pub(crate) fn deserialize_optional_u64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = Option::<Number>::deserialize(deserializer)?;
    let invalid = |number: &Number| D::Error::custom(format!("`{number}` is not a whole number from 0 on"));
    number.map(|number| to_u64(&number).ok_or_else(|| invalid(&number))).transpose()
}

/// The value of a whole number, if it has one that fits.
pub(crate) fn to_i64(number: &Number) -> Option<i64> {
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() <= (1_u64 << f64::MANTISSA_DIGITS) as f64;
    number.as_i64().or_else(|| number.as_f64().filter(whole).map(|float| float as i64))
}

fn to_u64(number: &Number) -> Option<u64> {
    // The conversion saturates.
    let from_float = |float: f64| (float.fract() == 0.0 && float >= 0.0).then_some(float as u64);
    number.as_u64().or_else(|| number.as_f64().and_then(from_float))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sizes {
        #[serde(deserialize_with = "deserialize_u64")]
        one: u64,
        #[serde(default, deserialize_with = "deserialize_optional_u64")]
        other: Option<u64>,
    }

    fn one(text: &str) -> Option<u64> {
        serde_json::from_str::<Sizes>(&format!("{{\"one\": {text}}}")).ok().map(|sizes| sizes.one)
    }

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        for (text, value) in [("737", 737), ("737.0", 737), ("7.37e2", 737), ("-0.0", 0), ("1e30", u64::MAX)] {
            assert_eq!(one(text), Some(value), "{text}");
        }
        for text in ["0.5", "-1", "-1.0", "\"1\"", "null", "[1]"] {
            assert_eq!(one(text), None, "{text}");
        }
        let other = |text: &str| serde_json::from_str::<Sizes>(&format!("{{\"one\": 1, \"other\": {text}}}"));
        assert_eq!((other("null").unwrap().other, other("2.0").unwrap().other), (None, Some(2)));
        assert!(other("\"2\"").is_err());
        for (text, value) in [("-5", Some(-5)), ("-5.0", Some(-5)), ("0.5", None), ("1e30", None)] {
            assert_eq!(to_i64(&serde_json::from_str(text).unwrap()), value, "{text}");
        }
    }
}
