//! Fields that may hold an expression instead of a value.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::codes;
use afterload_core::error::{Error, Result};

/// A value, or text with `${{ }}` that becomes one when the step runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Templated<T> {
    /// A value.
    Value(T),
    /// Text with at least one `${{ }}`. It exists only before the step runs.
    Expression(String),
}

impl<T> Templated<T> {
    /// Returns the value if it is known before the step runs.
    pub fn as_literal(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Expression(_) => None,
        }
    }

    /// Returns the value after all expressions are resolved.
    ///
    /// # Errors
    /// `with_invalid` for text if `T` is not text.
    pub fn into_value(self) -> Result<T>
    where
        T: DeserializeOwned,
    {
        match self {
            Self::Value(value) => Ok(value),
            // Expressions are already resolved, so a remaining `${{` is user data.
            Self::Expression(text) => T::deserialize(serde_json::Value::String(text))
                .map_err(|_| Error::new(codes::WITH_INVALID, "an expression gave text where something else is needed")),
        }
    }
}

impl<T: Default> Default for Templated<T> {
    fn default() -> Self {
        Self::Value(T::default())
    }
}

impl<T> From<T> for Templated<T> {
    fn from(value: T) -> Self {
        Self::Value(value)
    }
}

/// Reads text with `${{` as an expression and anything else as `T`. The YAML reader recognizes the type by its name, so
/// that an error inside `T` keeps its span. Other formats go through JSON.
impl<'de, T: DeserializeOwned> Deserialize<'de> for Templated<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer
            .deserialize_newtype_struct(afterload_spanned_yaml::TEMPLATED_TYPE_NAME, TemplatedVisitor(PhantomData))
    }
}

struct TemplatedVisitor<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for TemplatedVisitor<T> {
    type Value = Templated<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or an expression")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok(Templated::Expression(text.to_owned()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        T::deserialize(deserializer).map(Templated::Value)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) if text.contains("${{") => Ok(Templated::Expression(text)),
            value => T::deserialize(value).map(Templated::Value).map_err(D::Error::custom),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Templated<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Dynamic_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [generator.subschema_for::<T>(), { "type": "string", "pattern": r"\$\{\{" }]
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use afterload_core::file::File;
    use afterload_core::units::{ByteSize, HumanDuration, Percentage};
    use afterload_spanned_yaml::{ResolvedFault, read_resolved};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Sample {
        subject: Option<Templated<String>>,
        source: Templated<File>,
        #[serde(default)]
        sizes: Vec<Templated<u32>>,
    }

    #[test]
    fn errors_name_the_field_without_its_value() {
        let json = json!({ "subject": [1], "source": "canary", "sizes": [1, "canary", -5], "more": 1 });
        let faults = read_resolved::<Sample>(&json).expect_err("full of faults");
        assert_eq!(
            messages(&faults),
            [
                "`subject`: expected text, found a list",
                "`source`: expected a file, found text",
                "`sizes.1`: expected a whole number from 0 on, found text",
                "`sizes.2`: expected a whole number from 0 on, found a number",
                "unknown field `more`",
            ]
        );
        let faults = read_resolved::<Sample>(&json!({})).expect_err("no source");
        assert_eq!(messages(&faults), ["missing field `source`"]);
    }

    fn messages(faults: &[ResolvedFault]) -> Vec<&str> {
        faults.iter().map(|fault| fault.message.as_str()).collect()
    }

    #[test]
    fn wrong_quantity_error_names_expected_form_without_value() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Quantities {
            pause: Option<Templated<HumanDuration>>,
            most: Option<ByteSize>,
            tolerate: Option<Percentage>,
        }
        let duration = ("expected a duration", "`30s`, `10m`, `2h`, `7d` or `1w`");
        let size = ("expected a size", "`64kb`, `20mb` or `2gb`");
        let share = ("expected a share", "`5%` or `0.5%`, at most `100%`");
        let cases = [
            ("pause", json!("canary"), duration, "text"),
            ("pause", json!("${{ canary"), duration, "text"),
            ("pause", json!(5), duration, "a number"),
            ("pause", json!(["canary"]), duration, "a list"),
            ("pause", json!("99999999999999999999w"), ("expected a shorter duration", "`1w`"), "text"),
            ("most", json!("2 canaries"), size, "text"),
            ("most", json!("99999999999gb"), ("expected a smaller size", "`2gb`"), "text"),
            ("tolerate", json!("120%"), share, "text"),
            ("tolerate", json!(0.05), share, "a number"),
        ];
        for (field, value, (expected, examples), found) in cases {
            let faults = read_resolved::<Quantities>(&json!({ field: value })).expect_err(field);
            let message = format!("`{field}`: {expected}, found {found}");
            let hint = Some(format!("give `{field}` a value such as {examples}"));
            assert_eq!(faults, [ResolvedFault { message, hint }]);
        }
    }

    #[test]
    fn number_is_accepted_as_text() {
        let file = json!({ "bucket": "b", "key": "k", "name": "n" });
        for (value, text) in [(json!(12), "12"), (json!(true), "true"), (json!(1.5), "1.5"), (json!("${{ x"), "${{ x")]
        {
            let sample: Sample = read_resolved(&json!({ "subject": value, "source": file })).expect("valid");
            assert_eq!(sample.subject.and_then(|subject| subject.into_value().ok()).as_deref(), Some(text));
        }
    }
}
