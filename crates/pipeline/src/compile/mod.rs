//! Compiles the text of a file to a checked pipeline, or to all of its diagnostics.
//!
//! The text is parsed once. Readable parts are checked even if other parts are not readable, so one compilation reports
//! every error. The step kind checks the content of `with:`.

mod batching;
mod context;
mod dependencies;
mod expressions;
mod file_params;
mod for_each;
mod limits;
mod normalize;
mod output;
mod params;
mod record_params;
mod run_effects;
mod run_timeouts;
mod self_trigger;
mod steps;
mod triggers;

pub use triggers::CRON_EVENT_FIELDS;

use std::path::Path;

use super::ast::{PipelineAst, RetentionAst};
use super::plan::{self, PipelinePlan, definition_digest};
use super::run_effect::CertainEffect;
use super::step_kind::{StepCatalog, ValidationContext};
use crate::codes;
use afterload_core::units::HumanDuration;
use afterload_spanned_yaml::{self as yaml, Diagnostic, SourceSpan, YamlNode, YamlValue};

/// Ten years, in milliseconds.
const MAX_RETENTION_MS: i64 = 3650 * 86_400_000;

/// A checked pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The description for people.
    pub description: Option<String>,
    /// The plan that the engine executes.
    pub plan: PipelinePlan,
    /// What each successful run does that may start other runs.
    pub effects: Vec<CertainEffect>,
    /// Warnings: valid, but probably a mistake.
    pub warnings: Vec<Diagnostic>,
}

/// Compiles the text of a pipeline file. `file_name` must match the name in the file.
///
/// # Errors
/// All diagnostics in file order, at least one.
pub fn compile_definition(
    file_name: Option<&str>,
    text: &str,
    kinds: &StepCatalog,
    around: &ValidationContext,
) -> Result<Pipeline, Vec<Diagnostic>> {
    let root = yaml::parse(text)?;
    if matches!(root.value, YamlValue::Null) {
        let problem = Diagnostic::new(codes::DEFINITION_INVALID, root.span, "the file is empty");
        return Err(vec![problem.with_hint("a pipeline has at least `name` and `steps`")]);
    }
    let (raw, problems) = yaml::read_partial::<PipelineAst>(&root);
    let Some(raw) = raw else { return Err(problems) };
    let mut faults = Diagnostics { problems, warnings: Vec::new() };
    check_name(&root, file_name, &mut faults);
    let (params, fields) = params::compile_params(&root, raw.params, around, &mut faults);
    let triggers = triggers::compile_triggers(&root, &params, around, &mut faults);
    self_trigger::check_self_trigger(&root, &triggers, &mut faults);
    let event = triggers::EventFields::from_triggers(&root);
    check_retention(&root, raw.retention.as_ref(), &mut faults);
    run_timeouts::check_run_timeouts(&root, raw.timeout, raw.queue_timeout, &mut faults);
    let (defaults, event) = (&raw.defaults, event.as_event_root());
    let file = context::CompileContext {
        root: &root,
        kinds,
        ctx: around,
        defaults,
        param_fields: &fields,
        param_types: &params,
        event,
    };
    let concurrency = limits::compile_concurrency(&file, raw.concurrency.as_ref(), &mut faults);
    let sections = steps::compile_steps(&file, &mut faults);
    if !faults.problems.is_empty() {
        return Err(yaml::sort_diagnostics(faults.problems));
    }
    let retention = raw.retention.map(|RetentionAst { runs, artifacts }| plan::Retention {
        runs_ms: runs.map(HumanDuration::as_millis),
        artifacts_ms: artifacts.map(HumanDuration::as_millis),
    });
    let plan = PipelinePlan {
        name: raw.name,
        digest: definition_digest(text),
        params,
        triggers,
        concurrency,
        timeout_ms: raw.timeout.map(HumanDuration::as_millis),
        queue_timeout_ms: raw.queue_timeout.map(HumanDuration::as_millis),
        sections,
        retention,
    };
    let effects = run_effects::find_certain_effects(&root, kinds, around);
    Ok(Pipeline { description: raw.description, plan, effects, warnings: yaml::sort_diagnostics(faults.warnings) })
}

/// Collects errors and warnings during a compilation.
pub(super) struct Diagnostics {
    problems: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Diagnostics {
    fn report_invalid(&mut self, span: SourceSpan, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Diagnostic::new(codes::DEFINITION_INVALID, span, message).with_hint(hint));
    }

    fn report_warning(&mut self, span: SourceSpan, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(Diagnostic::new(codes::DEFINITION_SUSPICIOUS, span, message).with_hint(hint));
    }
}

fn check_retention(root: &YamlNode, retention: Option<&RetentionAst>, faults: &mut Diagnostics) {
    let Some(RetentionAst { runs, artifacts }) = retention else { return };
    for (field, said) in [("runs", runs), ("artifacts", artifacts)] {
        if said.is_some_and(|said| said.as_millis() > MAX_RETENTION_MS) {
            let span = root.closest_node(&["retention", field]).span;
            faults.report_invalid(span, format!("`{field}` must be at most `3650d`"), "");
        }
    }
    if let (Some(runs), Some(artifacts)) = (runs, artifacts)
        && runs < artifacts
    {
        let message = "files are kept longer than their runs: the runs will be kept as long";
        faults.report_warning(
            root.closest_node(&["retention", "runs"]).span,
            message,
            "raise `runs`, or lower `artifacts`",
        );
    }
}

fn check_name(root: &YamlNode, file_name: Option<&str>, faults: &mut Diagnostics) {
    let Some(node) = root.get("name") else { return };
    let Some(name) = node.as_str() else { return };
    if !is_identifier(name, '-') {
        let hint = "start with a small letter, go on with small letters, digits and `-`, at most 63 characters";
        return faults.report_invalid(node.span, format!("`{name}` is not a name for a pipeline"), hint);
    }
    let stem = file_name.and_then(|file| Path::new(file).file_stem()).and_then(|stem| stem.to_str());
    if let Some(stem) = stem.filter(|stem| *stem != name) {
        let hint = format!("write `name: {stem}`, or rename the file to `{name}.yaml`");
        faults.report_invalid(node.span, format!("name `{name}` differs from the file's name `{stem}`"), hint);
    }
}

/// Accepts a small letter, then at most 62 small letters, digits and `joint`.
fn is_identifier(text: &str, joint: char) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == joint)
}

/// The entries of a list; empty if the node is missing or not a list.
fn list_items(node: Option<&YamlNode>) -> &[YamlNode] {
    match node.map(|node| &node.value) {
        Some(YamlValue::Seq(items)) => items,
        _ => &[],
    }
}

/// Compiles only the params of a file, for tests that need no steps.
#[cfg(test)]
pub(super) fn params_of(text: &str) -> std::collections::BTreeMap<String, super::params::Param> {
    let root = yaml::parse(text).expect("valid YAML");
    let raw = yaml::read_partial::<PipelineAst>(&root).0.expect("a pipeline");
    params::compile_params(
        &root,
        raw.params,
        &ValidationContext::default(),
        &mut Diagnostics { problems: Vec::new(), warnings: Vec::new() },
    )
    .0
}
