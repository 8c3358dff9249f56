//! Collects the names that the expressions of a step use.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{EXPRESSION_ENV, TemplateSegment, split_template};

/// Returns the names in all expressions of a value, such as `params.tweet.body`. For an index lookup it returns only
/// the part before it, such as `params` for `params["tweet"]`.
pub fn referenced_names(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect_names(value, &mut found);
    found
}

fn collect_names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            for piece in split_template(text).unwrap_or_default() {
                let TemplateSegment::Expression(range) = piece else { continue };
                // An expression that does not compile fails later, when it is resolved.
                if let Ok(expression) = EXPRESSION_ENV.compile_expression(&text[range]) {
                    found.extend(expression.undeclared_variables(true));
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| collect_names(field, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn referenced_names_include_every_name_or_its_parent() {
        let with = json!({
            "a": ["x ${{ params.tweet.body | upper }} ${{ steps.one.rows + 1 }}"],
            "b": { "c": "${{ params['tweet'].body }}" },
            "e": "params.not",
            "f": 1,
        });
        let found = referenced_names(&with);
        for name in ["params.tweet.body", "steps.one.rows", "params"] {
            assert!(found.contains(name), "{name}: {found:?}");
        }
        assert!(!found.contains("params.not"));
    }
}
