//! The environment: `AFTERLOAD_A__B=value` sets `a.b`, and `${NAME}` in the file's text stands for a variable.
//!
//! A value of the environment is never shown: problems name the variable.

use std::collections::BTreeMap;

use afterload_spanned_yaml::{self as yaml, Key, Node, Problem, Span, Value};

const PREFIX: &str = "AFTERLOAD_";
/// Variables that are not settings.
const OTHERS: [&str; 6] = ["ADMIN_KEY", "LOG", "LOG_FORMAT", "CONFIG", "URL", "KEY"];

/// Which values came from the environment. A node that a variable has put there has line 0 and the variable's number
/// as its offset; those that hold a `${NAME}` are known by their place.
#[derive(Default)]
pub struct Origins {
    variables: Vec<String>,
    substituted: Vec<Span>,
}

impl Origins {
    /// Remembers where a `${NAME}` has been replaced.
    pub fn with_substituted(mut self, places: Vec<Span>) -> Self {
        self.substituted = places;
        self
    }

    /// A problem of a value from the environment loses what might quote the value, and names its variable where it has
    /// no place.
    pub fn named(&self, mut problem: Problem) -> Problem {
        if problem.span.line > 0 && !self.substituted.contains(&problem.span) {
            return problem;
        }
        let telling = ["unknown field", "missing field", "expected "];
        let what = problem.message.split(", found ").next().unwrap_or_default();
        let what = if telling.iter().any(|start| what.starts_with(start)) { what } else { "its value is not valid" };
        let variable = problem.span.offset.checked_sub(1).and_then(|at| self.variables.get(at));
        problem.message = match variable.filter(|_| problem.span.line == 0) {
            Some(name) => format!("variable `{name}`: {what}"),
            None => format!("with its variables filled in: {what}"),
        };
        problem
    }
}

/// Puts the `AFTERLOAD_…` variables over the tree of the file.
pub fn overlay(root: &mut Node, env: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Origins {
    let mut origins = Origins::default();
    for (name, value) in env {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let for_tests = path.starts_with("TEST_") || path.starts_with("CRASH_");
        if OTHERS.contains(&path) || for_tests || path.is_empty() {
            continue;
        }
        origins.variables.push(name.clone());
        let span = Span { offset: origins.variables.len(), ..Span::default() };
        match yaml::parse(value) {
            Ok(mut node) => {
                place_all(&mut node, span);
                let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
                if !put(root, &path, node, span) {
                    problems.push(Problem::new(
                        "definition_invalid",
                        span,
                        format!("variable `{name}` names no setting"),
                    ));
                }
            }
            Err(_) => {
                let message = format!("variable `{name}` holds a value that cannot be read");
                problems.push(Problem::new("definition_invalid", span, message).hint("put it in quotes"));
            }
        }
    }
    origins
}

fn place_all(node: &mut Node, span: Span) {
    node.span = span;
    node.verbatim = None;
    match &mut node.value {
        Value::Seq(items) => items.iter_mut().for_each(|item| place_all(item, span)),
        Value::Map(entries) => {
            for (key, value) in entries {
                key.span = span;
                place_all(value, span);
            }
        }
        _ => {}
    }
}

/// False if the path leads through something that is not a map.
fn put(node: &mut Node, path: &[String], value: Node, span: Span) -> bool {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return true;
    };
    if matches!(node.value, Value::Null) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return false };
    let found = entries.iter().position(|(key, _)| key.text.eq_ignore_ascii_case(first));
    let at = found.unwrap_or_else(|| {
        entries.push((Key { text: first.clone(), span }, Node::new(span, Value::Null)));
        entries.len() - 1
    });
    put(&mut entries[at].1, rest, value, span)
}

/// Replaces `${NAME}` in every text of the tree; `$${` is a plain `${`. Gives the places where it did.
pub fn substitute(node: &mut Node, env: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Vec<Span> {
    let span = node.span;
    match &mut node.value {
        Value::Str(text) if text.contains("${") => match filled(text, env) {
            // A lone variable may be a number or a boolean.
            Ok(filled) if text.starts_with("${") && text.find('}') == Some(text.len() - 1) => {
                *node = Node::scalar(span, &filled);
                vec![span]
            }
            Ok(filled) => {
                *node = Node::new(span, Value::Str(filled));
                vec![span]
            }
            Err(message) => {
                let problem = Problem::new("definition_invalid", span, message);
                problems.push(problem.hint("write `$${` for a `${` that is meant as it is"));
                Vec::new()
            }
        },
        Value::Seq(items) => items.iter_mut().flat_map(|item| substitute(item, env, problems)).collect(),
        Value::Map(entries) => entries.iter_mut().flat_map(|(_, value)| substitute(value, env, problems)).collect(),
        _ => Vec::new(),
    }
}

fn filled(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut whole, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            whole.push_str(&rest[..at - 1]);
            whole.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        whole.push_str(&rest[..at]);
        let Some((name, after)) = rest[at + 2..].split_once('}') else {
            return Err("`${` does not end with `}`".into());
        };
        match env.get(name) {
            Some(value) => whole.push_str(value),
            None => return Err(format!("environment variable `{name}` is not set")),
        }
        rest = after;
    }
    whole.push_str(rest);
    Ok(whole)
}
