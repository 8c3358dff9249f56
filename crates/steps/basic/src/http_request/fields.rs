//! Fields of `http.request` that people may write in more than one way.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use afterload_core::error::{Error, Result};
use afterload_egress::Method;

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
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

impl From<Verb> for Method {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Get => Method::GET,
            Verb::Head => Method::HEAD,
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
            Verb::Options => Method::OPTIONS,
        }
    }
}

/// Statuses that are a success: `2xx`, `200`, or a list of such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect(Vec<Range>);

/// From one status to another, both included.
type Range = (u16, u16);

const EXPECTED: &str = "a status such as `200` or `2xx`, or a list of them";

impl Default for Expect {
    fn default() -> Self {
        Self(vec![(200, 299)])
    }
}

impl Expect {
    /// Whether a status is a success.
    pub fn holds(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }

    /// Whether a redirect is wanted as the answer.
    pub fn redirects(&self) -> bool {
        self.0.iter().any(|(from, to)| *from < 400 && *to >= 300)
    }
}

fn range(text: &str) -> Option<Range> {
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

struct ExpectVisitor;

impl<'de> Visitor<'de> for ExpectVisitor {
    type Value = Expect;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Expect, E> {
        let range = range(text).ok_or_else(|| E::custom(format!("expected {EXPECTED}, found `{text}`")))?;
        Ok(Expect(vec![range]))
    }

    fn visit_u64<E: serde::de::Error>(self, status: u64) -> Result<Expect, E> {
        self.visit_str(&status.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, status: i64) -> Result<Expect, E> {
        self.visit_str(&status.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Expect, A::Error> {
        let mut ranges = Vec::new();
        while let Some(item) = items.next_element::<Value>()? {
            let text = text(&item).unwrap_or_else(|| item.to_string());
            let wrong = || A::Error::custom(format!("expected {EXPECTED}, found `{text}` in it"));
            ranges.push(range(&text).ok_or_else(wrong)?);
        }
        if ranges.is_empty() { Err(A::Error::custom("no status would be a success")) } else { Ok(Expect(ranges)) }
    }
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpectVisitor)
    }
}

impl JsonSchema for Expect {
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

/// Fields of a query or a form as they are sent: `null` is left out, each item of a list is a field of the same name.
///
/// # Errors
/// `with_invalid` for a map, or a list within a list; it quotes no value.
pub fn pairs(field: &str, fields: Map<String, Value>) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (name, value) in fields {
        let items = match value {
            Value::Null => continue,
            Value::Array(items) => items,
            one => vec![one],
        };
        for item in items {
            let text = text(&item).ok_or_else(|| {
                let message = format!("`{field}.{name}`: expected text, a number, a boolean or a list of them");
                Error::permanent("with_invalid", message)
            })?;
            pairs.push((name.clone(), text));
        }
    }
    Ok(pairs)
}

fn text(value: &Value) -> Option<String> {
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
    fn what_is_expected_may_be_one_status_a_class_or_a_list() {
        for (written, holds, holds_not) in [
            (json!("2xx"), vec![200, 204, 299], vec![199, 300, 404]),
            (json!(404), vec![404], vec![200, 403]),
            (json!("404"), vec![404], vec![405]),
            (json!([200, "404", "3xx"]), vec![200, 404, 302], vec![201, 403, 500]),
        ] {
            let expect: Expect = serde_json::from_value(written.clone()).unwrap();
            assert!(holds.into_iter().all(|status| expect.holds(status)), "{written}");
            assert!(!holds_not.into_iter().any(|status| expect.holds(status)), "{written}");
        }
        for wrong in
            [json!("2x"), json!("xx"), json!(99), json!(600), json!([]), json!([true]), json!("0xx"), json!(-200)]
        {
            assert!(serde_json::from_value::<Expect>(wrong.clone()).is_err(), "{wrong}");
        }
        assert_eq!(serde_json::from_value::<Expect>(json!("2xx")).unwrap(), Expect::default());
    }

    #[test]
    fn fields_are_sent_one_by_one() {
        let fields = json!({ "z": "text", "a": [1, true, "x"], "none": null });
        let Value::Object(fields) = fields else { unreachable!() };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs("query", fields).unwrap(),
            [pair("z", "text"), pair("a", "1"), pair("a", "true"), pair("a", "x")]
        );
        for wrong in [json!({ "deep": { "canary": "canary" } }), json!({ "deep": [["canary"]] })] {
            let Value::Object(wrong) = wrong else { unreachable!() };
            let error = pairs("form", wrong).unwrap_err();
            assert!(
                error.message().starts_with("`form.deep`: expected ") && !error.message().contains("canary"),
                "{error}"
            );
        }
    }
}
