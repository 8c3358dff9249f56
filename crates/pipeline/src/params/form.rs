//! What a form says: text for every param, and nothing at all for a box that is not ticked.

use serde_json::Value;

use super::coerce::parse_json_text;
use super::{Param, ParamType};

/// The value that the text of a form gives a param. `None` where it gives none: a field that was left empty, unless the
/// param is text or has to be given.
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

    /// What a run gets; `None` for a fault.
    fn bound(kind: Value, text: &str) -> Option<Value> {
        let param = param(kind, false);
        value_from_form(&param, text.into()).map_or(Some(Value::Null), |value| coerce_value(&param.kind, value).ok())
    }

    #[test]
    fn a_field_left_empty_is_not_given() {
        for kind in ["integer", "number", "boolean", "date", "email", "url", "ip", "list", "object", "datetime"] {
            assert_eq!(value_from_form(&param(json!({ "type": kind }), false), " ".into()), None, "{kind}");
            assert_eq!(value_from_form(&param(json!({ "type": kind }), true), "".into()), Some(json!("")), "{kind}");
        }
        let choice = json!({ "type": "enum", "values": ["a"] });
        assert_eq!(value_from_form(&param(choice, false), "".into()), None);
        assert_eq!(value_from_form(&param(json!({ "type": "string" }), false), "".into()), Some(json!("")));
    }

    #[test]
    fn ticks_and_numbers_are_read_as_forms_write_them() {
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
