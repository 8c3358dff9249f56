//! Loading: from the text of a file to a checked pipeline, or to every problem that it has.
//!
//! The text is parsed and read once as a whole; what could be read is checked even if other parts could not, so that
//! one look shows everything. Whatever is not reached by a check here is checked by the step's kind.

mod expressions;
mod fan_out;
mod files;
mod limits;
mod loops;
mod needs;
mod params;
mod place;
mod records;
mod settle;
mod steps;
mod triggers;

use std::path::Path;

use super::kind::{Kinds, Surroundings};
use super::plan::{self, Plan, digest};
use super::raw::{RawPipeline, Retention};
use afterload_core::units::Duration;
use afterload_spanned_yaml::{self as yaml, Node, Problem, Span, Value};

/// Ten years, in milliseconds.
const LONGEST_RETENTION: i64 = 3650 * 86_400_000;

/// A checked pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// What it is for, for people.
    pub description: Option<String>,
    /// What the engine executes.
    pub plan: Plan,
    /// What is allowed and yet worth a look.
    pub warnings: Vec<Problem>,
}

/// Reads and checks the text of a pipeline file. `file_name` is compared with the name in the file.
///
/// # Errors
/// All problems in the order of the file, at least one.
pub fn load(
    file_name: Option<&str>,
    text: &str,
    kinds: &Kinds,
    around: &Surroundings,
) -> Result<Pipeline, Vec<Problem>> {
    let root = yaml::parse(text)?;
    if matches!(root.value, Value::Null) {
        let problem = Problem::new("definition_invalid", root.span, "the file is empty");
        return Err(vec![problem.hint("a pipeline has at least `name` and `steps`")]);
    }
    let (raw, problems) = yaml::read_most::<RawPipeline>(&root);
    let Some(raw) = raw else { return Err(problems) };
    let mut faults = Faults { problems, warnings: Vec::new() };
    check_name(&root, file_name, &mut faults);
    let (params, fields) = params::check(&root, raw.params, around, &mut faults);
    let triggers = triggers::check(&root, &params, around, &mut faults);
    loops::check(&root, &triggers, &mut faults);
    let event = triggers::EventFields::of(&root);
    check_retention(&root, raw.retention.as_ref(), &mut faults);
    let (defaults, event) = (&raw.defaults, event.root());
    let file = steps::File { root: &root, kinds, around, defaults, params: &fields, types: &params, event };
    let concurrency = limits::concurrency(&file, raw.concurrency.as_ref(), &mut faults);
    let sections = steps::check(&file, &mut faults);
    if !faults.problems.is_empty() {
        return Err(yaml::sorted(faults.problems));
    }
    let retention = raw.retention.map(|Retention { runs, artifacts }| plan::Retention {
        runs_ms: runs.map(Duration::millis),
        artifacts_ms: artifacts.map(Duration::millis),
    });
    let plan = Plan { name: raw.name, digest: digest(text), params, triggers, concurrency, sections, retention };
    Ok(Pipeline { description: raw.description, plan, warnings: yaml::sorted(faults.warnings) })
}

/// Gathers what is wrong.
pub(super) struct Faults {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Faults {
    fn invalid(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new("definition_invalid", span, message).hint(hint));
    }

    fn warn(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(Problem::new("definition_suspicious", span, message).hint(hint));
    }
}

fn check_retention(root: &Node, retention: Option<&Retention>, faults: &mut Faults) {
    let Some(Retention { runs, artifacts }) = retention else { return };
    for (field, said) in [("runs", runs), ("artifacts", artifacts)] {
        if said.is_some_and(|said| said.millis() > LONGEST_RETENTION) {
            let span = root.nearest(&["retention", field]).span;
            faults.invalid(span, format!("`{field}` must be at most `3650d`"), "");
        }
    }
    if let (Some(runs), Some(artifacts)) = (runs, artifacts)
        && runs < artifacts
    {
        let message = "files are kept longer than their runs: the runs will be kept as long";
        faults.warn(root.nearest(&["retention", "runs"]).span, message, "raise `runs`, or lower `artifacts`");
    }
}

fn check_name(root: &Node, file_name: Option<&str>, faults: &mut Faults) {
    let Some(node) = root.get("name") else { return };
    let Some(name) = node.as_str() else { return };
    if !is_id(name, '-') {
        let hint = "start with a small letter, go on with small letters, digits and `-`, at most 63 characters";
        return faults.invalid(node.span, format!("`{name}` is not a name for a pipeline"), hint);
    }
    let stem = file_name.and_then(|file| Path::new(file).file_stem()).and_then(|stem| stem.to_str());
    if let Some(stem) = stem.filter(|stem| *stem != name) {
        let hint = format!("write `name: {stem}`, or rename the file to `{name}.yaml`");
        faults.invalid(node.span, format!("name `{name}` differs from the file's name `{stem}`"), hint);
    }
}

/// A small letter, then at most 62 small letters, digits and `joint`.
fn is_id(text: &str, joint: char) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == joint)
}

/// The entries of a list or map that is or is not there.
fn items(node: Option<&Node>) -> &[Node] {
    match node.map(|node| &node.value) {
        Some(Value::Seq(items)) => items,
        _ => &[],
    }
}

/// The checked params of a file, for tests that need no steps.
#[cfg(test)]
pub(super) fn params_of(text: &str) -> std::collections::BTreeMap<String, super::params::Param> {
    let root = yaml::parse(text).expect("valid YAML");
    let raw = yaml::read_most::<RawPipeline>(&root).0.expect("a pipeline");
    params::check(
        &root,
        raw.params,
        &Surroundings::default(),
        &mut Faults { problems: Vec::new(), warnings: Vec::new() },
    )
    .0
}
