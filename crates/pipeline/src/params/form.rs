//! Converts form fields to param values.

use serde_json::Value;

use super::coerce::parse_json_text;
use super::{Param, ParamType};

/// Converts the text of a form field to the value of a param. An empty field is `None` (not given), unless the param is
/// text or is required.
pub fn value_from_form(param: &Param, text: String) -> Option<Value> {
    let word = text.trim();
    match &param.kind {
        ParamType::String { .. } => Some(text.into()),
        _ if word.is_empty() && !param.required => None,
        ParamType::Boolean => match word.to_ascii_lowercase().as_str() {
            "on" | "yes" | "true" | "1" => Some(true.into()),
            "off" | "no" | "false" | "0" => Some(false.into()),
            _ => Some(text.into()),
        },
        ParamType::List { .. } | ParamType::Object | ParamType::File(_) => Some(parse_json_text(text.into())),
        _ => Some(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::coerce_value;
    use super::*;

    fn param(kind: Value, required: bool) -> Param {
        Param { description: None, kind: serde_json::from_value(kind).unwrap(), required, default: None }
    }

    /// Returns the bound value; `None` if it is invalid.
    fn bound(kind: Value, text: &str) -> Option<Value> {
        let param = param(kind, false);
        value_from_form(&param, text.into()).map_or(Some(Value::Null), |value| coerce_value(&param.kind, value).ok())
    }

    #[test]
    fn empty_form_field_is_missing() {
        for kind in ["integer", "number", "boolean", "date", "email", "url", "ip", "list", "object", "datetime"] {
            assert_eq!(value_from_form(&param(json!({ "type": kind }), false), " ".into()), None, "{kind}");
            assert_eq!(value_from_form(&param(json!({ "type": kind }), true), "".into()), Some(json!("")), "{kind}");
        }
        let choice = json!({ "type": "enum", "values": ["a"] });
        assert_eq!(value_from_form(&param(choice, false), "".into()), None);
        assert_eq!(value_from_form(&param(json!({ "type": "string" }), false), "".into()), Some(json!("")));
    }

    #[test]
    fn checkboxes_and_numbers_of_forms_are_parsed() {
        for (word, value) in [("on", true), ("yes", true), ("1", true), ("True", true), ("off", false), ("0", false)] {
            assert_eq!(bound(json!({ "type": "boolean" }), word), Some(json!(value)), "{word}");
            let strict = coerce_value(&ParamType::Boolean, word.into()).is_ok();
            assert!(!strict, "`{word}` stands for a truth in a form alone");
        }
        assert_eq!(bound(json!({ "type": "boolean" }), "maybe"), None);
        assert_eq!(bound(json!({ "type": "integer" }), "5"), Some(json!(5)));
        assert_eq!(bound(json!({ "type": "number" }), "2.5"), Some(json!(2.5)));
        assert_eq!(bound(json!({ "type": "integer" }), "2.5"), None);
    }
}
