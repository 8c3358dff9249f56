//! Reads a typed value from JSON whose expressions are resolved. Errors name the field and never quote a value, because
//! it may be a secret.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::read::read_skipping;
use super::skipped::SkippedNodes;
use super::{Diagnostic, FaultKind, SourceSpan, YamlKey, YamlNode, YamlValue};

/// Separates what is expected from its examples.
const EXAMPLES_SEPARATOR: &str = " such as ";

/// A problem of a resolved value. It quotes nothing of the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedFault {
    /// One line: `PATH: what was expected, found WHAT`.
    pub message: String,
    /// What is expected, with examples, if there are any.
    pub hint: Option<String>,
}

/// Reads a typed value. Where text is expected, a number or a boolean reads as its text.
///
/// # Errors
/// All problems, at least one.
pub fn read_resolved<T: DeserializeOwned>(json: &Json) -> Result<T, Vec<ResolvedFault>> {
    let root = node_from_json(json, &mut 0);
    match read_skipping(&root, SkippedNodes { expressions_resolved: true, ..SkippedNodes::default() }) {
        (Some(value), problems) if problems.is_empty() => Ok(value),
        (_, problems) => Err(problems.iter().map(|problem| describe_diagnostic(&root, problem)).collect()),
    }
}

/// JSON has no positions, so every node and key gets a unique one that identifies it later.
fn node_from_json(json: &Json, count: &mut usize) -> YamlNode {
    let span = next_span(count);
    let value = match json {
        Json::Null => YamlValue::Null,
        Json::Bool(value) => YamlValue::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => YamlValue::Int(value),
            None => YamlValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => YamlValue::Str(text.clone()),
        Json::Array(items) => YamlValue::Seq(items.iter().map(|item| node_from_json(item, count)).collect()),
        Json::Object(fields) => {
            let entry = |(name, value): (&String, &Json)| {
                (YamlKey { text: name.clone(), span: next_span(count) }, node_from_json(value, count))
            };
            YamlValue::Map(fields.iter().map(entry).collect())
        }
    };
    let written = matches!(json, Json::Bool(_) | Json::Number(_)).then(|| json.to_string().into());
    YamlNode { source_text: written, ..YamlNode::new(span, value) }
}

fn next_span(count: &mut usize) -> SourceSpan {
    *count += 1;
    SourceSpan { line: *count, ..SourceSpan::default() }
}

fn describe_diagnostic(root: &YamlNode, problem: &Diagnostic) -> ResolvedFault {
    let (path, at) = node_at_span(root, problem.span, "").unwrap_or((String::new(), root));
    let mut hint = None;
    let what = match (&problem.fault, problem.message_without_value()) {
        (FaultKind::UnexpectedValue(expected), _) => {
            let (without_examples, examples) = expected.split_once(EXAMPLES_SEPARATOR).unzip();
            hint = examples.map(|examples| match path.as_str() {
                "" => format!("such as {examples}"),
                path => format!("give `{path}` a value such as {examples}"),
            });
            format!("expected {}, found {}", without_examples.unwrap_or(expected), value_kind_name(at))
        }
        (_, Some(message)) => message,
        (_, None) => format!("{} that is not valid here", value_kind_name(at)),
    };
    let message = match path.as_str() {
        "" => what,
        path => format!("`{path}`: {what}"),
    };
    ResolvedFault { message, hint }
}

/// The node at a span, or the value of the key at that span, with its path.
fn node_at_span<'a>(node: &'a YamlNode, span: SourceSpan, path: &str) -> Option<(String, &'a YamlNode)> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if node.span == span {
        return Some((path.to_owned(), node));
    }
    match &node.value {
        YamlValue::Seq(items) => {
            items.iter().enumerate().find_map(|(at, item)| node_at_span(item, span, &below(&at.to_string())))
        }
        YamlValue::Map(entries) => entries.iter().find_map(|(key, item)| match key.span == span {
            true => Some((path.to_owned(), item)),
            false => node_at_span(item, span, &below(&key.text)),
        }),
        _ => None,
    }
}

fn value_kind_name(node: &YamlNode) -> &'static str {
    match node.value {
        YamlValue::Null => "nothing",
        YamlValue::Bool(_) => "a boolean",
        YamlValue::Int(_) | YamlValue::Float(_) => "a number",
        YamlValue::Str(_) => "text",
        YamlValue::Seq(_) => "a list",
        YamlValue::Map(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer};
    use serde_json::json;

    use super::*;

    /// Its error begins like the errors of this crate.
    #[derive(Debug)]
    struct Picky;

    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            Err(D::Error::custom(format!("expected something else than `{text}`")))
        }
    }

    #[test]
    fn errors_hide_the_value_that_their_text_quotes() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Sample {
            token: Picky,
        }
        let faults = read_resolved::<Sample>(&json!({ "token": "canary" })).expect_err("picky");
        let expected = ResolvedFault { message: "`token`: text that is not valid here".into(), hint: None };
        assert_eq!(faults, [expected]);
    }
}
