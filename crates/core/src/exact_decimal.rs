//! A number of a definition, such as a limit, with every digit that its author wrote.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

use super::decimal::{compare_decimals, decimal_to_json, is_decimal_text};

/// A number with all its digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactDecimal(String);

impl ExactDecimal {
    /// Compares it with the digits of another number.
    pub fn compare_digits(&self, digits: &str) -> Ordering {
        compare_decimals(&self.0, digits)
    }

    /// Its digits.
    pub fn as_digits(&self) -> &str {
        &self.0
    }
}

/// The digits of a JSON number. Those of a float are the fewest that identify it.
pub fn number_digits(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => float.to_string(),
        None => number.to_string(),
    }
}

impl fmt::Display for ExactDecimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ExactDecimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        decimal_to_json(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ExactDecimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExactDecimalVisitor)
    }
}

struct ExactDecimalVisitor;

impl Visitor<'_> for ExactDecimalVisitor {
    type Value = ExactDecimal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<ExactDecimal, E> {
        Ok(ExactDecimal(number.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<ExactDecimal, E> {
        Ok(ExactDecimal(number.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<ExactDecimal, E> {
        match number.is_finite() {
            true => Ok(ExactDecimal(number.to_string())),
            false => Err(E::invalid_value(Unexpected::Float(number), &self)),
        }
    }

    /// A number that a float would change is text.
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ExactDecimal, E> {
        match is_decimal_text(text) {
            true => Ok(ExactDecimal(text.to_owned())),
            false => Err(E::invalid_type(Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for ExactDecimal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_keep_their_digits() {
        for (value, digits) in [
            (json!(5), "5"),
            (json!(-0.5), "-0.5"),
            (json!(1e21), "1000000000000000000000"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!("1234567890123456.78"), "1234567890123456.78"),
        ] {
            let number: ExactDecimal = serde_json::from_value(value).expect(digits);
            assert_eq!(number.as_digits(), digits);
            let again: ExactDecimal = serde_json::from_value(json!(number)).expect(digits);
            assert_eq!(again.compare_digits(digits), Ordering::Equal, "{digits}");
        }
        for wrong in [json!("5"), json!("x"), json!(true), Value::Null, json!([1])] {
            assert!(serde_json::from_value::<ExactDecimal>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
