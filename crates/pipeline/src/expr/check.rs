//! What is wrong with an expression before anything runs: every name in it is looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::LANGUAGE;
use afterload_spanned_yaml::choices;

const ROOTS: [&str; 8] = ["params", "event", "steps", "run", "secrets", "item", "index", "file"];
const FILE: [&str; 4] = ["name", "stem", "extension", "step"];
const RUN: [&str; 3] = ["id", "url", "pipeline"];
const RUN_ENDED: [&str; 5] = ["id", "url", "pipeline", "status", "error"];
/// What every step offers besides the outputs of its kind.
const STEP: [&str; 2] = ["state", "error"];

/// What an expression at some place of a pipeline may name.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// The params, with the fields of each.
    pub params: &'a BTreeMap<String, Fields>,
    /// All steps of the pipeline, with the outputs of each.
    pub steps: &'a BTreeMap<String, Fields>,
    /// What `event` has.
    pub event: EventRoot<'a>,
    /// The steps that have ended for certain.
    pub before: BTreeSet<&'a str>,
    /// The names of secrets, if they are known here.
    pub secrets: Option<&'a BTreeSet<String>>,
    /// Whether the main steps have ended, so that `run.status` and `run.error` exist.
    pub ended: bool,
    /// Whether `item` and `index` exist.
    pub items: bool,
    /// Whether `file` exists.
    pub file: bool,
    /// Whether the rows of records can be read.
    pub rows: bool,
    /// Further roots, with anything below them.
    pub more: &'a [&'a str],
}

static NOTHING: BTreeMap<String, Fields> = BTreeMap::new();

impl Default for Known<'_> {
    /// Knows no name but the roots.
    fn default() -> Self {
        Self {
            params: &NOTHING,
            steps: &NOTHING,
            event: EventRoot::Any,
            before: BTreeSet::new(),
            secrets: None,
            ended: false,
            items: false,
            file: false,
            rows: false,
            more: &[],
        }
    }
}

/// What `event` has.
#[derive(Clone, Copy, Debug)]
pub enum EventRoot<'a> {
    /// There never is one.
    Never,
    /// Not known, or anything.
    Any,
    /// These, with the fields of each.
    Only(&'a BTreeMap<String, Fields>),
}

/// The fields that a value has.
#[derive(Clone, Debug)]
pub enum Fields {
    /// Not known, or anything.
    Any,
    /// These; none if the value is not a map.
    Only(Vec<String>),
    /// A row, of which only these are known without reading it.
    Row(Vec<String>),
}

/// A fault of an expression and where in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The bytes of the expression.
    pub range: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

/// All faults of an expression (without its `${{ }}`).
pub fn check(expression: &str, known: &Known<'_>) -> Vec<Finding> {
    if expression.is_empty() {
        return vec![finding(0..0, "an expression is missing between `${{` and `}}`", "")];
    }
    let compiled = match LANGUAGE.compile_expression(expression) {
        Ok(compiled) => compiled,
        Err(error) => {
            let why = error.detail().unwrap_or("it cannot be read");
            let message = format!("the expression `{expression}` is not valid: {why}");
            return vec![finding(0..expression.len(), message, slips(expression))];
        }
    };
    let mut names: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
    names.sort();
    let mut findings: Vec<Finding> =
        names.iter().filter_map(|name| look_up(name, known).map(|fault| located(expression, name, fault))).collect();
    findings.extend(unknown_words(expression));
    findings.sort_by_key(|finding| finding.range.start);
    findings
}

/// What people write who know another language.
fn slips(expression: &str) -> &'static str {
    match expression {
        _ if expression.contains("&&") => "write `and` for `&&`",
        _ if expression.contains("||") => "write `or` for `||`",
        _ if expression.starts_with('!') => "write `not` for `!`",
        _ if expression.contains("===") => "write `==` for `===`",
        _ => "",
    }
}

/// A fault of a name: how many of its parts are to be marked, the message, the hint.
type Fault = (usize, String, String);

fn look_up(name: &str, known: &Known<'_>) -> Option<Fault> {
    let parts: Vec<&str> = name.split('.').collect();
    match (parts[0], parts.get(1).copied()) {
        ("params", Some(param)) => match known.params.get(param) {
            None => Some((2, format!("unknown param `{param}`"), params_hint(param, known))),
            Some(Fields::Row(names)) if !known.rows => unread(names, &parts),
            Some(fields) => missing_field(fields, &parts, 2),
        },
        ("steps", Some(step)) => step_fault(step, &parts, known),
        ("event", field) => event_fault(field, &parts, known.event),
        ("secrets", Some(secret)) => match known.secrets {
            Some(secrets) if !secrets.contains(secret) => {
                let hint = match choices(secret, secrets.iter().map(String::as_str)) {
                    hint if hint.is_empty() => "set it under `secrets` of the configuration".into(),
                    hint => hint,
                };
                Some((2, format!("unknown secret `{secret}`"), hint))
            }
            _ => None,
        },
        ("run", Some(field)) => {
            let fields = if known.ended { &RUN_ENDED[..] } else { &RUN[..] };
            if fields.contains(&field) {
                return None;
            }
            let hint = match RUN_ENDED.contains(&field) {
                true => "it exists only in `on_success`, `on_failure` and `finally`".into(),
                false => choices(field, fields.iter().copied()),
            };
            Some((2, format!("`run` has no `{field}`"), hint))
        }
        ("steps", None) => Some((1, "`steps` cannot be used as a whole".into(), "write `steps.ID.OUTPUT`".into())),
        ("secrets", None) => Some((1, "`secrets` cannot be used as a whole".into(), "write `secrets.NAME`".into())),
        (root @ ("item" | "index"), _) if !known.items => {
            Some((1, format!("`{root}` exists only in a step with `for_each`"), String::new()))
        }
        ("file", _) if !known.file => Some((1, "`file` exists only in `output.key`".into(), String::new())),
        ("file", Some(field)) if !FILE.contains(&field) => {
            Some((2, format!("`file` has no `{field}`"), choices(field, FILE)))
        }
        (root, _) if ROOTS.contains(&root) || known.more.contains(&root) => None,
        ("null" | "nil" | "None", _) => Some((1, format!("unknown name `{}`", parts[0]), "write `none`".into())),
        (root, _) => Some((1, format!("unknown name `{root}`"), root_hint(root, known))),
    }
}

fn event_fault(field: Option<&str>, parts: &[&str], event: EventRoot<'_>) -> Option<Fault> {
    match (event, field) {
        (EventRoot::Never, _) => {
            let hint = "add the trigger under `triggers`, or use a param";
            Some((1, "`event` exists only in a pipeline with triggers".into(), hint.into()))
        }
        (EventRoot::Only(fields), Some(field)) => match fields.get(field) {
            None => {
                let hint = choices(field, fields.keys().map(String::as_str));
                Some((2, format!("`event` has no `{field}`"), hint))
            }
            Some(fields) => missing_field(fields, parts, 2),
        },
        _ => None,
    }
}

fn step_fault(step: &str, parts: &[&str], known: &Known<'_>) -> Option<Fault> {
    let Some(outputs) = known.steps.get(step) else {
        let hint = choices(step, known.before.iter().copied());
        return Some((2, format!("unknown step `{step}`"), hint));
    };
    if !known.before.contains(step) {
        let hint = format!("only steps that have ended can be named; add `{step}` to `needs` or put it before");
        return Some((2, format!("step `{step}` does not come before this one"), hint));
    }
    let output = parts.get(2)?;
    match outputs {
        Fields::Only(names) if !names.iter().any(|name| name == output) && !STEP.contains(output) => {
            let hint = choices(output, names.iter().map(String::as_str).chain(STEP));
            Some((3, format!("step `{step}` has no output `{output}`"), hint))
        }
        _ => None,
    }
}

fn missing_field(fields: &Fields, parts: &[&str], at: usize) -> Option<Fault> {
    let (Fields::Only(names), Some(field)) = (fields, parts.get(at)) else { return None };
    if names.iter().any(|name| name == field) {
        return None;
    }
    let owner = parts[..at].join(".");
    let hint = choices(field, names.iter().map(String::as_str));
    Some((at + 1, format!("`{owner}` has no `{field}`"), hint))
}

/// Where a row cannot be read, only its reference can be named.
fn unread(names: &[String], parts: &[&str]) -> Option<Fault> {
    if parts.get(2).is_some_and(|field| names.iter().any(|name| name == field)) {
        return None;
    }
    let owner = parts[..2].join(".");
    let known = names.iter().map(|name| format!("`{owner}.{name}`")).collect::<Vec<_>>().join(" and ");
    let hint = format!("only {known} can be named here; let a step such as `sql.execute` read the row before");
    Some((parts.len().min(3), format!("the row of `{owner}` is read only for `with` and `output`"), hint))
}

fn params_hint(param: &str, known: &Known<'_>) -> String {
    match known.params.is_empty() {
        true => "declare it under `params`".into(),
        false => choices(param, known.params.keys().map(String::as_str)),
    }
}

/// A bare name that is a param or a step is the usual slip.
fn root_hint(root: &str, known: &Known<'_>) -> String {
    if known.params.contains_key(root) {
        return format!("did you mean `params.{root}`?");
    }
    if known.steps.contains_key(root) {
        return format!("did you mean `steps.{root}`?");
    }
    choices(root, ROOTS.into_iter().chain(known.more.iter().copied()).filter(|root| *root != "file" || known.file))
}

/// Marks the first `parts` parts of `name` where it first occurs.
fn located(expression: &str, name: &str, (parts, message, hint): Fault) -> Finding {
    let wanted: Vec<&str> = name.split('.').take(parts).collect();
    let wanted = wanted.join(".");
    let word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    let bytes = expression.as_bytes();
    let found = expression.match_indices(&wanted).map(|(at, _)| at..at + wanted.len()).find(|range| {
        let before = range.start.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(range.end).filter(|byte| **byte != b'.');
        !word(before) && !word(after)
    });
    finding(found.unwrap_or(0..expression.len()), message, hint)
}

/// Filters (behind `|`) and tests (behind `is`) that do not exist.
fn unknown_words(expression: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut before: &str = "";
    for (range, word) in words(expression) {
        let kind = match before {
            "|" => Some("filter"),
            "is" | "is not" if word != "not" => Some("test"),
            _ => None,
        };
        if let Some(kind) = kind.filter(|kind| is_name(word) && !exists(kind, word)) {
            findings.push(finding(range, format!("unknown {kind} `{word}`"), ""));
        }
        before = if before == "is" && word == "not" { "is not" } else { word };
    }
    findings
}

fn exists(kind: &str, word: &str) -> bool {
    let question = format!("word is {kind}");
    let answer = LANGUAGE.compile_expression(&question).and_then(|asked| asked.eval(minijinja::context!(word)));
    answer.is_ok_and(|answer| answer.is_true())
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// Words (with the dots between them) and single marks, without what stands in quotes.
fn words(expression: &str) -> Vec<(Range<usize>, &str)> {
    let bytes = expression.as_bytes();
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let (mut words, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        let byte = bytes[at];
        at += 1;
        if matches!(byte, b'"' | b'\'') {
            while at < bytes.len() && bytes[at] != byte {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if part(byte) {
            while at < bytes.len() && part(bytes[at]) {
                at += 1;
            }
        } else if byte.is_ascii_whitespace() || !byte.is_ascii() {
            continue;
        }
        words.push((start..at.min(bytes.len()), expression.get(start..at).unwrap_or_default()));
    }
    words
}

fn finding(range: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { range, message: message.into(), hint: hint.into() }
}
