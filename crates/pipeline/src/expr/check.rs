//! Checks every name of an expression before a run starts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::EXPRESSION_ENV;
use super::builtins::{BuiltinKind, is_builtin};
use super::calls::{called_functions, find_unknown_calls};
use super::rewrite::rewrite_operators;
use afterload_spanned_yaml::suggestion_hint;

const EXPRESSION_ROOTS: [&str; 8] = ["params", "event", "steps", "run", "secrets", "item", "index", "file"];
const OUTPUT_FILE_FIELDS: [&str; 4] = ["name", "stem", "extension", "step"];
const RUN_FIELDS: [&str; 4] = ["id", "url", "pipeline", "created_at"];
const ENDED_RUN_FIELDS: [&str; 6] = ["id", "url", "pipeline", "created_at", "status", "error"];
/// Every step has these fields in addition to its outputs.
const COMMON_STEP_FIELDS: [&str; 2] = ["state", "error"];

/// The names that an expression can use at one place of a pipeline.
#[derive(Clone, Debug)]
pub struct NameScope<'a> {
    /// The params, with the fields of each.
    pub params: &'a BTreeMap<String, FieldSet>,
    /// All steps of the pipeline, with the outputs of each.
    pub steps: &'a BTreeMap<String, FieldSet>,
    /// The fields of `event`.
    pub event: EventRoot<'a>,
    /// The steps that are sure to have ended.
    pub ended_steps: BTreeSet<&'a str>,
    /// The names of secrets; `None` if they are not known here.
    pub secrets: Option<&'a BTreeSet<String>>,
    /// True if the main steps have ended, so that `run.status` and `run.error` exist.
    pub main_ended: bool,
    /// True if `item` and `index` exist.
    pub in_for_each: bool,
    /// True if `file` exists.
    pub in_output_key: bool,
    /// True if the rows of record params can be read.
    pub can_read_rows: bool,
    /// Additional root names, with any fields.
    pub extra_roots: &'a [&'a str],
}

static NO_FIELDS: BTreeMap<String, FieldSet> = BTreeMap::new();

impl Default for NameScope<'_> {
    /// Only the root names exist.
    fn default() -> Self {
        Self {
            params: &NO_FIELDS,
            steps: &NO_FIELDS,
            event: EventRoot::Any,
            ended_steps: BTreeSet::new(),
            secrets: None,
            main_ended: false,
            in_for_each: false,
            in_output_key: false,
            can_read_rows: false,
            extra_roots: &[],
        }
    }
}

/// The fields of `event`.
#[derive(Clone, Copy, Debug)]
pub enum EventRoot<'a> {
    /// The pipeline has no triggers, so there is no `event`.
    Never,
    /// Unknown, or any field.
    Any,
    /// Only these, with the fields of each.
    Only(&'a BTreeMap<String, FieldSet>),
}

/// The fields of a value.
#[derive(Clone, Debug)]
pub enum FieldSet {
    /// Unknown, or any field.
    Any,
    /// Only these; empty if the value is not a map.
    Only(Vec<String>),
    /// A database row. Only these fields are known without reading it.
    Row(Vec<String>),
}

/// An error and its position in the expression.
#[derive(Debug, PartialEq, Eq)]
pub struct ExprDiagnostic {
    /// The byte range in the expression.
    pub range: Range<usize>,
    /// The message.
    pub message: String,
    /// The hint; may be empty.
    pub hint: String,
}

/// Returns all errors of an expression (without its `${{ }}`).
pub fn check_expression(expression: &str, known: &NameScope<'_>) -> Vec<ExprDiagnostic> {
    if expression.is_empty() {
        return vec![expr_diagnostic(0..0, "an expression is missing between `${{` and `}}`", "")];
    }
    let compiled = match EXPRESSION_ENV.compile_expression(expression) {
        Ok(compiled) => compiled,
        Err(error) => {
            let why = error.detail().unwrap_or("it cannot be read");
            let message = format!("the expression `{expression}` is not valid: {why}");
            return vec![expr_diagnostic(0..expression.len(), message, operator_hint(expression))];
        }
    };
    let exact = rewrite_operators(expression);
    let is_readable = exact.is_some_and(|exact| EXPRESSION_ENV.compile_expression(&exact).is_ok());
    if !is_readable {
        let message = format!("the operators of the expression `{expression}` cannot be read");
        return vec![expr_diagnostic(0..expression.len(), message, "use parentheses, or fewer of them")];
    }
    let mut names: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
    // What is called is a function, and not a value.
    let called = called_functions(expression);
    names.retain(|name| !called.contains(&name.as_str()));
    names.sort();
    let mut findings: Vec<ExprDiagnostic> = names
        .iter()
        .filter_map(|name| check_name(name, known).map(|fault| locate_diagnostic(expression, name, fault)))
        .collect();
    let unknown = find_unknown_calls(expression).into_iter();
    findings.extend(unknown.map(|call| expr_diagnostic(call.range, call.message, call.hint)));
    findings.sort_by_key(|finding| finding.range.start);
    findings
}

/// Suggests the operator of this language for one of another language.
fn operator_hint(expression: &str) -> &'static str {
    match expression {
        _ if expression.contains("&&") => "write `and` for `&&`",
        _ if expression.contains("||") => "write `or` for `||`",
        _ if expression.starts_with('!') => "write `not` for `!`",
        _ if expression.contains("===") => "write `==` for `===`",
        _ => "",
    }
}

/// An error in a name: how many of its parts to mark, the message, the hint.
type NameDiagnostic = (usize, String, String);

fn check_name(name: &str, known: &NameScope<'_>) -> Option<NameDiagnostic> {
    let parts: Vec<&str> = name.split('.').collect();
    match (parts[0], parts.get(1).copied()) {
        ("params", Some(param)) => match known.params.get(param) {
            None => Some((2, format!("unknown param `{param}`"), params_hint(param, known))),
            Some(FieldSet::Row(names)) if !known.can_read_rows => check_row_field(names, &parts),
            Some(fields) => check_field(fields, &parts, 2),
        },
        ("steps", Some(step)) => check_step_output(step, &parts, known),
        ("event", field) => check_event_field(field, &parts, known.event),
        ("secrets", Some(secret)) => match known.secrets {
            Some(secrets) if !secrets.contains(secret) => {
                let hint = match suggestion_hint(secret, secrets.iter().map(String::as_str)) {
                    hint if hint.is_empty() => "set it under `secrets` of the configuration".into(),
                    hint => hint,
                };
                Some((2, format!("unknown secret `{secret}`"), hint))
            }
            _ => None,
        },
        ("run", Some(field)) => {
            let fields = if known.main_ended { &ENDED_RUN_FIELDS[..] } else { &RUN_FIELDS[..] };
            if fields.contains(&field) {
                return None;
            }
            let hint = match ENDED_RUN_FIELDS.contains(&field) {
                true => "it exists only in `on_success`, `on_failure` and `finally`".into(),
                false => suggestion_hint(field, fields.iter().copied()),
            };
            Some((2, format!("`run` has no `{field}`"), hint))
        }
        ("steps", None) => Some((1, "`steps` cannot be used as a whole".into(), "write `steps.ID.OUTPUT`".into())),
        ("secrets", None) => Some((1, "`secrets` cannot be used as a whole".into(), "write `secrets.NAME`".into())),
        (root @ ("item" | "index"), _) if !known.in_for_each => {
            Some((1, format!("`{root}` exists only in a step with `for_each`"), String::new()))
        }
        ("file", _) if !known.in_output_key => Some((1, "`file` exists only in `output.key`".into(), String::new())),
        ("file", Some(field)) if !OUTPUT_FILE_FIELDS.contains(&field) => {
            Some((2, format!("`file` has no `{field}`"), suggestion_hint(field, OUTPUT_FILE_FIELDS)))
        }
        (root, _) if EXPRESSION_ROOTS.contains(&root) || known.extra_roots.contains(&root) => None,
        (root, _) if is_builtin(BuiltinKind::Function, root) => {
            Some((1, format!("`{root}` is a function"), format!("write `{root}()`")))
        }
        ("null" | "nil" | "None", _) => Some((1, format!("unknown name `{}`", parts[0]), "write `none`".into())),
        (root, _) => Some((1, format!("unknown name `{root}`"), root_hint(root, known))),
    }
}

fn check_event_field(field: Option<&str>, parts: &[&str], event: EventRoot<'_>) -> Option<NameDiagnostic> {
    match (event, field) {
        (EventRoot::Never, _) => {
            let hint = "add the trigger under `triggers`, or use a param";
            Some((1, "`event` exists only in a pipeline with triggers".into(), hint.into()))
        }
        (EventRoot::Only(fields), Some(field)) => match fields.get(field) {
            None => {
                let hint = suggestion_hint(field, fields.keys().map(String::as_str));
                Some((2, format!("`event` has no `{field}`"), hint))
            }
            Some(fields) => check_field(fields, parts, 2),
        },
        _ => None,
    }
}

fn check_step_output(step: &str, parts: &[&str], known: &NameScope<'_>) -> Option<NameDiagnostic> {
    let Some(outputs) = known.steps.get(step) else {
        let hint = suggestion_hint(step, known.ended_steps.iter().copied());
        return Some((2, format!("unknown step `{step}`"), hint));
    };
    if !known.ended_steps.contains(step) {
        let hint = format!("only steps that have ended can be named; add `{step}` to `needs` or put it before");
        return Some((2, format!("step `{step}` does not come before this one"), hint));
    }
    let output = parts.get(2)?;
    match outputs {
        FieldSet::Only(names) if !names.iter().any(|name| name == output) && !COMMON_STEP_FIELDS.contains(output) => {
            let hint = suggestion_hint(output, names.iter().map(String::as_str).chain(COMMON_STEP_FIELDS));
            Some((3, format!("step `{step}` has no output `{output}`"), hint))
        }
        _ => None,
    }
}

fn check_field(fields: &FieldSet, parts: &[&str], at: usize) -> Option<NameDiagnostic> {
    let (FieldSet::Only(names), Some(field)) = (fields, parts.get(at)) else { return None };
    if names.iter().any(|name| name == field) {
        return None;
    }
    let owner = parts[..at].join(".");
    let hint = suggestion_hint(field, names.iter().map(String::as_str));
    Some((at + 1, format!("`{owner}` has no `{field}`"), hint))
}

/// Where rows cannot be read, only the fields of the reference can be used.
fn check_row_field(names: &[String], parts: &[&str]) -> Option<NameDiagnostic> {
    if parts.get(2).is_some_and(|field| names.iter().any(|name| name == field)) {
        return None;
    }
    let owner = parts[..2].join(".");
    let known = names.iter().map(|name| format!("`{owner}.{name}`")).collect::<Vec<_>>().join(" and ");
    let hint = format!("only {known} can be named here; let a step such as `sql.execute` read the row before");
    Some((parts.len().min(3), format!("the row of `{owner}` is read only for `with` and `output`"), hint))
}

fn params_hint(param: &str, known: &NameScope<'_>) -> String {
    match known.params.is_empty() {
        true => "declare it under `params`".into(),
        false => suggestion_hint(param, known.params.keys().map(String::as_str)),
    }
}

/// Suggests `params.` or `steps.` for a bare name, which is the most common mistake.
fn root_hint(root: &str, known: &NameScope<'_>) -> String {
    if known.params.contains_key(root) {
        return format!("did you mean `params.{root}`?");
    }
    if known.steps.contains_key(root) {
        return format!("did you mean `steps.{root}`?");
    }
    suggestion_hint(
        root,
        EXPRESSION_ROOTS
            .into_iter()
            .chain(known.extra_roots.iter().copied())
            .filter(|root| *root != "file" || known.in_output_key),
    )
}

/// Returns the span of the first `parts` parts of `name` where it first occurs.
fn locate_diagnostic(expression: &str, name: &str, (parts, message, hint): NameDiagnostic) -> ExprDiagnostic {
    let wanted: Vec<&str> = name.split('.').take(parts).collect();
    let wanted = wanted.join(".");
    let word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    let bytes = expression.as_bytes();
    let found = expression.match_indices(&wanted).map(|(at, _)| at..at + wanted.len()).find(|range| {
        let before = range.start.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(range.end).filter(|byte| **byte != b'.');
        !word(before) && !word(after)
    });
    expr_diagnostic(found.unwrap_or(0..expression.len()), message, hint)
}

fn expr_diagnostic(range: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> ExprDiagnostic {
    ExprDiagnostic { range, message: message.into(), hint: hint.into() }
}
