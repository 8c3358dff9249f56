//! A reference to a database row as text: `app/tweets/42`. The row itself is never stored with a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::InvalidParam;
use super::coerce::{truncate_text, wrong_type};
use crate::codes;

const MAX_RECORD_KEY_BYTES: usize = 1024;
/// The field of the reference as text.
const REF_FIELD: &str = "ref";

/// The table whose rows a param refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRule {
    /// The name of the connection.
    pub connection: String,
    /// The table: `tweets`, or `crm.tweets` in another schema.
    pub table: String,
    /// The unique column that identifies a row.
    pub key: String,
    /// What a step does if the row does not exist.
    pub missing: OnMissingRow,
}

/// What happens to a step that reads a row that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissingRow {
    /// It fails with `record_not_found`.
    #[default]
    Fail,
    /// It is skipped.
    Skip,
}

impl RecordRule {
    /// Converts a value to a reference. The value is the reference itself or the bare key. A key with a `/` must be a
    /// whole reference, so that a reference to another table is not mistaken for a key.
    ///
    /// # Errors
    /// The reason why the value is not a reference.
    pub fn to_reference(&self, value: &Value) -> Result<String, InvalidParam> {
        let expected = format!("a key, or a reference such as `{}42`", self.reference_prefix());
        let key = match value {
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            Value::String(text) => match text.strip_prefix(&self.reference_prefix()) {
                Some(key) => key.to_owned(),
                None if text.contains('/') => return Err(wrong_type(&expected, value)),
                None => text.clone(),
            },
            _ => return Err(wrong_type(&expected, value)),
        };
        if key.is_empty() || key.len() > MAX_RECORD_KEY_BYTES || key.contains('\0') {
            return Err(InvalidParam::new(
                codes::PARAM_WRONG_TYPE,
                format!("expected {expected}, found `{}`", truncate_text(&key)),
            ));
        }
        Ok(format!("{}{key}", self.reference_prefix()))
    }

    /// Returns the fields that are known without reading the row: `ref`, and the key under its column name.
    pub fn reference_fields(&self, reference: &str) -> Map<String, Value> {
        let key = reference.strip_prefix(&self.reference_prefix()).unwrap_or(reference);
        let key = match key.parse::<i64>() {
            // A key such as `007` is text, because the number 7 would not give it back.
            Ok(number) if number.to_string() == key => number.into(),
            _ => Value::from(key),
        };
        Map::from_iter([(self.key.clone(), key), (REF_FIELD.to_owned(), reference.into())])
    }

    /// The names of [`Self::reference_fields`].
    pub fn field_names(&self) -> [&str; 2] {
        [&self.key, REF_FIELD]
    }

    fn reference_prefix(&self) -> String {
        format!("{}/{}/", self.connection, self.table)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule() -> RecordRule {
        RecordRule {
            connection: "app".into(),
            table: "tweets".into(),
            key: "id".into(),
            missing: OnMissingRow::default(),
        }
    }

    #[test]
    fn record_accepts_reference_or_bare_key() {
        for (value, reference) in [
            (json!(42), "app/tweets/42"),
            (json!("42"), "app/tweets/42"),
            (json!("app/tweets/42"), "app/tweets/42"),
            (json!("app/tweets/a/b"), "app/tweets/a/b"),
            (json!("a'; DROP TABLE tweets; --"), "app/tweets/a'; DROP TABLE tweets; --"),
        ] {
            assert_eq!(rule().to_reference(&value).as_deref(), Ok(reference), "{value}");
        }
        let long = "x".repeat(MAX_RECORD_KEY_BYTES + 1);
        for value in [
            json!("app/users/42"),
            json!("other/tweets/42"),
            json!("app/tweets/"),
            json!(""),
            json!("a\0b"),
            json!(long),
            json!(1.5),
            json!(true),
            json!({ "id": 42 }),
            json!([42]),
        ] {
            assert_eq!(
                rule().to_reference(&value).map_err(|fault| fault.code.name()),
                Err("param_wrong_type"),
                "{value}"
            );
        }
    }

    #[test]
    fn record_key_is_a_number_only_if_canonical() {
        for (key, value) in [("42", json!(42)), ("-7", json!(-7)), ("007", json!("007")), ("a/b", json!("a/b"))] {
            let reference = format!("app/tweets/{key}");
            assert_eq!(Value::Object(rule().reference_fields(&reference)), json!({ "id": value, "ref": reference }));
        }
    }
}
