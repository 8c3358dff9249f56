//! Binds the given values to the params of a pipeline.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{InvalidParam, InvalidParams, Param, coerce_value};
use crate::codes;
use afterload_core::error::Result;
use afterload_spanned_yaml::suggestion_hint;

/// Fills in defaults and converts every value to its type. A missing optional param becomes null, so that expressions
/// can use it.
///
/// # Errors
/// `params_invalid`; its details are a list of `{param, code, message}` of the first errors.
pub fn bind_params(params: &BTreeMap<String, Param>, given: Map<String, Value>) -> Result<Map<String, Value>> {
    let (bound, faults) = try_bind(params, given);
    match faults.is_empty() {
        true => Ok(bound),
        false => Err(faults.to_error()),
    }
}

/// Returns the errors that [`bind_params`] would report, for callers that add their own errors.
pub fn find_invalid_params(params: &BTreeMap<String, Param>, given: Map<String, Value>) -> InvalidParams {
    try_bind(params, given).1
}

/// The fault of a name that the pipeline does not declare.
pub fn unknown_param(params: &BTreeMap<String, Param>, name: &str) -> InvalidParam {
    let hint = suggestion_hint(name, params.keys().map(String::as_str));
    let message = match hint.is_empty() {
        true => "the pipeline has no such param".into(),
        false => format!("the pipeline has no such param; {hint}"),
    };
    InvalidParam::new(codes::PARAM_UNKNOWN, message)
}

/// The size of params in memory, roughly. It tells how much work it is to bind them.
pub fn estimate_params_size(params: &Map<String, Value>) -> usize {
    params.iter().map(|(name, value)| name.len() + estimate_size(value)).sum()
}

fn estimate_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => size_of::<Value>(),
        Value::String(text) => size_of::<Value>() + text.len(),
        Value::Array(items) => size_of::<Value>() + items.iter().map(estimate_size).sum::<usize>(),
        Value::Object(fields) => size_of::<Value>() + estimate_params_size(fields),
    }
}

fn try_bind(params: &BTreeMap<String, Param>, mut given: Map<String, Value>) -> (Map<String, Value>, InvalidParams) {
    let mut bound = Map::new();
    let mut faults = InvalidParams::default();
    for (name, param) in params {
        match given.remove(name).filter(|value| !value.is_null()) {
            Some(value) => match coerce_value(&param.kind, value) {
                Ok(value) => drop(bound.insert(name.clone(), value)),
                Err(invalid) => faults.add(name, || invalid),
            },
            None if param.required => {
                faults.add(name, || InvalidParam::new(codes::PARAM_MISSING, "it is required and was not given"));
            }
            None => drop(bound.insert(name.clone(), param.default.clone().unwrap_or_default())),
        }
    }
    for name in given.keys() {
        faults.add(name, || unknown_param(params, name));
    }
    (bound, faults)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{StepCatalog, ValidationContext, compile_definition};
    use afterload_core::work::assert_linear;

    fn params() -> BTreeMap<String, Param> {
        let text = r#"
name: sample
params:
  text: { type: string, min_length: 2, max_length: 4, pattern: "^[a-z]+$" }
  whole: { type: integer, min: 1, max: 10, default: 5 }
  number: { type: number, required: false }
  flag: { type: boolean, default: false }
  day: { type: date, default: 2026-01-31 }
  moment: { type: datetime, required: false }
  mail: { type: email, required: false }
  link: { type: url, required: false }
  ip: { type: ip, required: false }
  size: { type: enum, values: [small, large], default: small }
  many: { type: list, items: { type: integer }, default: [] }
  any: { type: object, default: {} }
  version: { type: string, default: 1.10 }
  file: { type: file, accept: [text/csv, "image/*"], max_size: 1kb, required: false }
steps: [{ id: one, uses: wait }]
"#;
        let kinds = StepCatalog(Vec::new());
        // Deserializing the whole file needs a step catalog, which this test does not have. It compiles only the
        // params.
        let problems =
            compile_definition(None, text, &kinds, &ValidationContext::default()).expect_err("an unknown kind");
        assert_eq!(problems.len(), 1, "{problems:?}");
        crate::compile::params_of(text)
    }

    fn params_with(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn defaults_are_filled_in_and_values_converted() {
        let bound = bind_params(
            &params(),
            params_with(json!({
                "text": "abc", "whole": "7", "number": "1.5", "flag": "true", "many": "[1, \"2\"]", "ip": "::1",
                "moment": "2026-01-31T09:30:00+01:00", "mail": "a.b+c@example.com", "link": "https://example.com/x",
                "file": "s3://uploads/in/contacts.csv",
            })),
        );
        insta::assert_json_snapshot!(bound.expect("all fit"));
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let error = bind_params(
            &params(),
            params_with(json!({
                "text": "A", "whole": 11, "number": "x", "flag": "yes", "day": "2026-02-30", "moment": "2026-01-31",
                "mail": "a@b\r\nBcc: c@d", "link": "ftp://example.com", "ip": "1.2.3", "size": "smal", "many": [1, "x"],
                "any": [], "txt": 1,
                "file": { "bucket": "b", "key": "k", "name": "n", "size": 2000, "content_type": "text/csv" },
            })),
        )
        .expect_err("nothing fits");
        assert_eq!(error.code(), codes::PARAMS_INVALID);
        insta::assert_json_snapshot!(error.details());
        let error = bind_params(&params(), Map::new()).expect_err("`text` is required");
        assert_eq!(error.message(), "the params are not valid: `text`: it is required and was not given");
    }

    #[test]
    fn hostile_params_take_linear_work() {
        let params = crate::compile::params_of(
            "name: sample\nparams:\n  codes: { type: list, max_items: 100000, items: { type: string, pattern: \"^a+$\" } }\n\
             steps: [{ id: one, uses: wait }]\n",
        );
        let bind = |text: &str| {
            let given: Map<String, Value> = serde_json::from_str(text).unwrap();
            drop(find_invalid_params(&params, given));
        };
        let list = |item: &str, count: usize| json!({ "codes": vec![item; count] }).to_string();
        assert_linear("items that match", |count| list("aaaa", count), bind);
        assert_linear("items that do not match", |count| list("aaab", count), bind);
        assert_linear("one long item", |count| list(&"a".repeat(count), 1), bind);
        let names = |count: usize| -> String {
            Value::Object((0..count).map(|number| (format!("coeds{number}"), json!(1))).collect()).to_string()
        };
        assert_linear("unknown names", names, bind);
        assert_linear(
            "one long name",
            |count| json!({ "x".repeat(count): 1 }).to_string(),
            |text| {
                afterload_core::work::count_steps(1);
                bind(text);
            },
        );
    }
}
