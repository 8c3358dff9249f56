//! Environment variables: `AFTERLOAD_A__B=value` sets `a.b`, and `${NAME}` in the file is replaced by a variable.
//!
//! Values of the environment are never displayed: problems name the variable instead.

use std::collections::BTreeMap;

use crate::codes;
use afterload_spanned_yaml::{self as yaml, Diagnostic, SourceSpan, YamlKey, YamlNode, YamlValue};

const ENV_PREFIX: &str = "AFTERLOAD_";
/// Variables that are not settings.
const NON_SETTING_VARIABLES: [&str; 6] = ["ADMIN_KEY", "LOG", "LOG_FORMAT", "CONFIG", "URL", "KEY"];

/// Which values came from the environment. A node set by a variable has line 0 and the variable's number as offset. A
/// node with a `${NAME}` is identified by its span.
#[derive(Default)]
pub struct EnvOrigins {
    variables: Vec<String>,
    substituted_spans: Vec<SourceSpan>,
}

impl EnvOrigins {
    /// Records the spans where a `${NAME}` was replaced.
    pub fn with_substituted(mut self, places: Vec<SourceSpan>) -> Self {
        self.substituted_spans = places;
        self
    }

    /// Removes text that might quote a value of the environment from a problem. Names the variable if the problem has
    /// no position in the file.
    pub fn redact_diagnostic(&self, mut problem: Diagnostic) -> Diagnostic {
        if problem.span.line > 0 && !self.substituted_spans.contains(&problem.span) {
            return problem;
        }
        let what = problem.message_without_value().unwrap_or_else(|| "its value is not valid".to_owned());
        let variable = problem.span.offset.checked_sub(1).and_then(|at| self.variables.get(at));
        problem.message = match variable.filter(|_| problem.span.line == 0) {
            Some(name) => format!("variable `{name}`: {what}"),
            None => format!("with its variables filled in: {what}"),
        };
        problem
    }
}

/// Overrides nodes of the file with the `AFTERLOAD_…` variables.
pub fn overlay_variables(
    root: &mut YamlNode,
    env: &BTreeMap<String, String>,
    problems: &mut Vec<Diagnostic>,
) -> EnvOrigins {
    let mut origins = EnvOrigins::default();
    for (name, value) in env {
        let Some(path) = name.strip_prefix(ENV_PREFIX) else { continue };
        let for_tests = path.starts_with("TEST_") || path.starts_with("CRASH_");
        if NON_SETTING_VARIABLES.contains(&path) || for_tests || path.is_empty() {
            continue;
        }
        origins.variables.push(name.clone());
        let span = SourceSpan { offset: origins.variables.len(), ..SourceSpan::default() };
        match yaml::parse(value) {
            Ok(mut node) => {
                set_spans(&mut node, span);
                let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
                if !set_at_path(root, &path, node, span) {
                    problems.push(Diagnostic::new(
                        codes::DEFINITION_INVALID,
                        span,
                        format!("variable `{name}` names no setting"),
                    ));
                }
            }
            Err(_) => {
                let message = format!("variable `{name}` holds a value that cannot be read");
                problems.push(Diagnostic::new(codes::DEFINITION_INVALID, span, message).with_hint("put it in quotes"));
            }
        }
    }
    origins
}

fn set_spans(node: &mut YamlNode, span: SourceSpan) {
    node.span = span;
    node.verbatim = None;
    match &mut node.value {
        YamlValue::Seq(items) => items.iter_mut().for_each(|item| set_spans(item, span)),
        YamlValue::Map(entries) => {
            for (key, value) in entries {
                key.span = span;
                set_spans(value, span);
            }
        }
        _ => {}
    }
}

/// Returns false if the path leads through a node that is not a map.
fn set_at_path(node: &mut YamlNode, path: &[String], value: YamlNode, span: SourceSpan) -> bool {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return true;
    };
    if matches!(node.value, YamlValue::Null) {
        node.value = YamlValue::Map(Vec::new());
    }
    let YamlValue::Map(entries) = &mut node.value else { return false };
    let found = entries.iter().position(|(key, _)| key.text.eq_ignore_ascii_case(first));
    let at = found.unwrap_or_else(|| {
        entries.push((YamlKey { text: first.clone(), span }, YamlNode::new(span, YamlValue::Null)));
        entries.len() - 1
    });
    set_at_path(&mut entries[at].1, rest, value, span)
}

/// Replaces `${NAME}` in every text of the tree; `$${` becomes `${`. Returns the spans that it changed.
pub fn substitute_variables(
    node: &mut YamlNode,
    env: &BTreeMap<String, String>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<SourceSpan> {
    let span = node.span;
    match &mut node.value {
        YamlValue::Str(text) if text.contains("${") => match expand_variables(text, env) {
            // A text that consists of one variable may become a number or a boolean.
            Ok(filled) if text.starts_with("${") && text.find('}') == Some(text.len() - 1) => {
                *node = YamlNode::from_scalar(span, &filled);
                vec![span]
            }
            Ok(filled) => {
                *node = YamlNode::new(span, YamlValue::Str(filled));
                vec![span]
            }
            Err(message) => {
                let problem = Diagnostic::new(codes::DEFINITION_INVALID, span, message);
                problems.push(problem.with_hint("write `$${` for a `${` that is meant as it is"));
                Vec::new()
            }
        },
        YamlValue::Seq(items) => items.iter_mut().flat_map(|item| substitute_variables(item, env, problems)).collect(),
        YamlValue::Map(entries) => {
            entries.iter_mut().flat_map(|(_, value)| substitute_variables(value, env, problems)).collect()
        }
        _ => Vec::new(),
    }
}

fn expand_variables(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
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
