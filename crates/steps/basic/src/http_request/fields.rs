//! Fields of `http.request` that accept more than one form.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_egress::Method;

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// Asks for something.
    Get,
    /// Asks for the headers alone.
    Head,
    /// Hands something over.
    Post,
    /// Puts something in its place.
    Put,
    /// Changes a part of something.
    Patch,
    /// Deletes something.
    Delete,
    /// Asks what is possible.
    Options,
}

impl From<HttpMethod> for Method {
    fn from(verb: HttpMethod) -> Self {
        match verb {
            HttpMethod::Get => Method::GET,
            HttpMethod::Head => Method::HEAD,
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Patch => Method::PATCH,
            HttpMethod::Delete => Method::DELETE,
            HttpMethod::Options => Method::OPTIONS,
        }
    }
}

/// Accepted statuses: `2xx`, `200`, or a list of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatus(Vec<StatusRange>);

/// An inclusive range of statuses.
type StatusRange = (u16, u16);

const EXPECTED_STATUS_HINT: &str = "a status such as `200` or `2xx`, or a list of them";

impl Default for ExpectedStatus {
    fn default() -> Self {
        Self(vec![(200, 299)])
    }
}

impl ExpectedStatus {
    /// True if the status is a success.
    pub fn accepts_status(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }

    /// True if a redirect is an accepted status, so that it is not followed.
    pub fn accepts_redirects(&self) -> bool {
        self.0.iter().any(|(from, to)| *from < 400 && *to >= 300)
    }
}

fn parse_status_range(text: &str) -> Option<StatusRange> {
    let bytes = text.as_bytes();
    match bytes {
        [class @ b'1'..=b'5', b'x', b'x'] => {
            let from = u16::from(class - b'0') * 100;
            Some((from, from + 99))
        }
        [_, _, _] => text.parse().ok().filter(|status| (100..600).contains(status)).map(|status| (status, status)),
        _ => None,
    }
}

struct ExpectedStatusVisitor;

impl<'de> Visitor<'de> for ExpectedStatusVisitor {
    type Value = ExpectedStatus;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED_STATUS_HINT)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ExpectedStatus, E> {
        let range =
            parse_status_range(text).ok_or_else(|| E::invalid_value(Unexpected::Other(&format!("`{text}`")), &self))?;
        Ok(ExpectedStatus(vec![range]))
    }

    fn visit_u64<E: serde::de::Error>(self, status: u64) -> Result<ExpectedStatus, E> {
        self.visit_str(&status.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, status: i64) -> Result<ExpectedStatus, E> {
        self.visit_str(&status.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ExpectedStatus, A::Error> {
        let mut ranges = Vec::new();
        while let Some(item) = items.next_element::<Value>()? {
            let text = scalar_to_text(&item).unwrap_or_else(|| item.to_string());
            let wrong = || A::Error::invalid_value(Unexpected::Other(&format!("`{text}` in it")), &self);
            ranges.push(parse_status_range(&text).ok_or_else(wrong)?);
        }
        if ranges.is_empty() {
            Err(A::Error::custom("no status would be a success"))
        } else {
            Ok(ExpectedStatus(ranges))
        }
    }
}

impl<'de> Deserialize<'de> for ExpectedStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpectedStatusVisitor)
    }
}

impl JsonSchema for ExpectedStatus {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Expect".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5](xx|[0-9][0-9])$" },
        ] });
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// Flattens fields of a query or a form: `null` is left out, and each item of a list becomes a field of the same name.
///
/// # Errors
/// `with_invalid` for a map, or for a list within a list. The message quotes no value.
pub fn field_pairs(field: &str, fields: Map<String, Value>) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (name, value) in fields {
        let items = match value {
            Value::Null => continue,
            Value::Array(items) => items,
            one => vec![one],
        };
        for item in items {
            let text = scalar_to_text(&item).ok_or_else(|| {
                let message = format!("`{field}.{name}`: expected text, a number, a boolean or a list of them");
                Error::new(codes::WITH_INVALID, message)
            })?;
            pairs.push((name.clone(), text));
        }
    }
    Ok(pairs)
}

fn scalar_to_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expected_status_is_one_status_a_class_or_a_list() {
        for (written, holds, holds_not) in [
            (json!("2xx"), vec![200, 204, 299], vec![199, 300, 404]),
            (json!(404), vec![404], vec![200, 403]),
            (json!("404"), vec![404], vec![405]),
            (json!([200, "404", "3xx"]), vec![200, 404, 302], vec![201, 403, 500]),
        ] {
            let expect: ExpectedStatus = serde_json::from_value(written.clone()).unwrap();
            assert!(holds.into_iter().all(|status| expect.accepts_status(status)), "{written}");
            assert!(!holds_not.into_iter().any(|status| expect.accepts_status(status)), "{written}");
        }
        for wrong in
            [json!("2x"), json!("xx"), json!(99), json!(600), json!([]), json!([true]), json!("0xx"), json!(-200)]
        {
            assert!(serde_json::from_value::<ExpectedStatus>(wrong.clone()).is_err(), "{wrong}");
        }
        assert_eq!(serde_json::from_value::<ExpectedStatus>(json!("2xx")).unwrap(), ExpectedStatus::default());
    }

    #[test]
    fn list_fields_are_repeated() {
        let fields = json!({ "z": "text", "a": [1, true, "x"], "none": null });
        let Value::Object(fields) = fields else { unreachable!() };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            field_pairs("query", fields).unwrap(),
            [pair("z", "text"), pair("a", "1"), pair("a", "true"), pair("a", "x")]
        );
        for wrong in [json!({ "deep": { "canary": "canary" } }), json!({ "deep": [["canary"]] })] {
            let Value::Object(wrong) = wrong else { unreachable!() };
            let error = field_pairs("form", wrong).unwrap_err();
            assert!(
                error.message().starts_with("`form.deep`: expected ") && !error.message().contains("canary"),
                "{error}"
            );
        }
    }
}
