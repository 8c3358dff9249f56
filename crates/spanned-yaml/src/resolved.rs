//! Reading a typed value from JSON in which every expression has been resolved. Its faults name the field and never
//! quote a value, which may be a secret.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::read::{Gone, read_on};
use super::{Key, Node, Problem, Span, Value};

/// Reads a typed value. Where text is wanted, a number or a boolean is taken as its text.
///
/// # Errors
/// Each fault as `PATH: what was expected, found WHAT`, at least one.
pub fn read_resolved<T: DeserializeOwned>(json: &Json) -> Result<T, Vec<String>> {
    let root = node(json, &mut 0);
    match read_on(&root, Gone { resolved: true, ..Gone::default() }) {
        (Some(value), problems) if problems.is_empty() => Ok(value),
        (_, problems) => Err(problems.iter().map(|problem| told(&root, problem)).collect()),
    }
}

/// There are no places in JSON, so every node and key gets one of its own, by which it is found again.
fn node(json: &Json, count: &mut usize) -> Node {
    let span = place(count);
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Str(text.clone()),
        Json::Array(items) => Value::Seq(items.iter().map(|item| node(item, count)).collect()),
        Json::Object(fields) => {
            let entry =
                |(name, value): (&String, &Json)| (Key { text: name.clone(), span: place(count) }, node(value, count));
            Value::Map(fields.iter().map(entry).collect())
        }
    };
    let written = matches!(json, Json::Bool(_) | Json::Number(_)).then(|| json.to_string().into());
    Node { written, ..Node::new(span, value) }
}

fn place(count: &mut usize) -> Span {
    *count += 1;
    Span { line: *count, ..Span::default() }
}

fn told(root: &Node, problem: &Problem) -> String {
    let (path, at) = find(root, problem.span, "").unwrap_or((String::new(), root));
    let what = problem.message.split(", found ").next().unwrap_or_default();
    let what = what.split(" such as ").next().unwrap_or_default();
    let what = match what {
        _ if what.starts_with("missing field") || what.starts_with("unknown field") => what.to_owned(),
        _ if what.starts_with("expected ") => format!("{what}, found {}", kind(at)),
        _ => format!("{} that is not valid here", kind(at)),
    };
    match path.as_str() {
        "" => what,
        path => format!("`{path}`: {what}"),
    }
}

/// The node at a place, or the one behind the key at that place, and its path.
fn find<'a>(node: &'a Node, span: Span, path: &str) -> Option<(String, &'a Node)> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if node.span == span {
        return Some((path.to_owned(), node));
    }
    match &node.value {
        Value::Seq(items) => items.iter().enumerate().find_map(|(at, item)| find(item, span, &below(&at.to_string()))),
        Value::Map(entries) => entries.iter().find_map(|(key, item)| match key.span == span {
            true => Some((path.to_owned(), item)),
            false => find(item, span, &below(&key.text)),
        }),
        _ => None,
    }
}

fn kind(node: &Node) -> &'static str {
    match node.value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Int(_) | Value::Float(_) => "a number",
        Value::Str(_) => "text",
        Value::Seq(_) => "a list",
        Value::Map(_) => "a map",
    }
}
