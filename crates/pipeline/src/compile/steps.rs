//! Compiles the steps of all sections.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ast::{RetryAst, StepAst};
use super::super::expr::Condition;
use super::super::expr::check::{FieldSet, NameScope};
use super::super::plan::{Backoff, PlanStep, RetryPolicy, Section, Sections};
use super::super::step_kind::{StepCatalog, StepKind, ValidationContext};
use super::context::CompileContext;
use super::dependencies::{self, ParsedStep};
use super::normalize::normalize_with;
use super::{Diagnostics, expressions, file_params, for_each, is_identifier, limits, list_items, output};
use afterload_core::units::{HumanDuration, is_queue_name};
use afterload_spanned_yaml::{self as yaml, SourceSpan, YamlNode, YamlValue, suggestion_hint};

/// Every step is a job. A pipeline with more steps should use one step that loops.
const MAX_PIPELINE_STEPS: usize = 500;
const HOUR_MS: i64 = 3_600_000;
const MAX_STEP_TIMEOUT_MS: i64 = 30 * 24 * HOUR_MS;

/// Compiles the steps of all sections. The result is valid only if no error was reported.
pub fn compile_steps(file: &CompileContext<'_>, faults: &mut Diagnostics) -> Sections {
    check_defaults(file, faults);
    let steps = parse_steps(file.root);
    if let Some(empty) = file.root.get("steps").filter(|node| list_items(Some(node)).is_empty()) {
        faults.report_invalid(empty.span, "a pipeline needs at least one step", "");
    }
    check_step_ids(&steps, faults);
    if let Some(step) = steps.get(MAX_PIPELINE_STEPS) {
        faults.report_invalid(step.node.span, format!("a pipeline may have at most {MAX_PIPELINE_STEPS} steps"), "");
        return Sections::default();
    }
    let outputs: BTreeMap<String, FieldSet> = steps
        .iter()
        .filter_map(|step| Some((step.id?.to_owned(), output_fields(step.raw.as_ref()?, file.kinds))))
        .collect();
    let mut sections = Sections::default();
    for section in Section::ALL {
        let own: Vec<&ParsedStep<'_>> = steps.iter().filter(|step| step.section == section).collect();
        let ids: Vec<Option<&str>> = own.iter().map(|step| step.id).collect();
        let needs = dependencies::resolve_needs(&steps, section, faults);
        let mut before = dependencies::transitive_needs(&ids, &needs);
        if section != Section::Main {
            let main: BTreeSet<&str> =
                steps.iter().filter(|step| step.section == Section::Main).filter_map(|step| step.id).collect();
            before.iter_mut().for_each(|ended| ended.extend(&main));
        }
        let mut settled = Vec::new();
        for ((step, needs), before) in own.iter().zip(needs).zip(before) {
            let known = NameScope {
                params: file.param_fields,
                steps: &outputs,
                ended_steps: before,
                event: file.event,
                secrets: file.ctx.secrets.as_ref(),
                main_ended: section != Section::Main,
                in_for_each: step.node.get("for_each").is_some(),
                in_output_key: false,
                can_read_rows: false,
                extra_roots: &[],
            };
            let inline = output::check_inline_step(step, &needs, &steps, faults);
            settled.extend(compile_step(file, step, inline, &needs, &known, faults));
        }
        *match section {
            Section::Main => &mut sections.main,
            Section::OnSuccess => &mut sections.on_success,
            Section::OnFailure => &mut sections.on_failure,
            Section::Finally => &mut sections.finally,
        } = settled;
    }
    sections
}

/// Returns all steps in file order. Errors in their fields are already reported, because the file is read as a whole
/// before.
fn parse_steps(root: &YamlNode) -> Vec<ParsedStep<'_>> {
    let sections = Section::ALL.into_iter();
    sections
        .flat_map(|section| list_items(root.get(section.field_name())).iter().map(move |node| (section, node)))
        .map(|(section, node)| {
            let id = node.get("id").and_then(YamlNode::as_str);
            ParsedStep { section, node, raw: yaml::read_partial(node).0, id }
        })
        .collect()
}

fn check_step_ids(steps: &[ParsedStep<'_>], faults: &mut Diagnostics) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for step in steps {
        let (Some(id), Some(node)) = (step.id, step.node.get("id")) else { continue };
        if !is_identifier(id, '_') {
            let hint = "start with a small letter, go on with small letters, digits and `_`, at most 63 characters";
            faults.report_invalid(node.span, format!("`{id}` is not an id for a step"), hint);
        }
        if let Some(line) = seen.insert(id, node.span.line) {
            let hint = format!("it stands already on line {line}; ids are unique in the whole file");
            faults.report_invalid(node.span, format!("duplicate step id `{id}`"), hint);
        }
    }
}

/// Returns the outputs that expressions can use of a step: the properties of the kind's output schema.
fn output_fields(step: &StepAst, kinds: &StepCatalog) -> FieldSet {
    if step.for_each.is_some() {
        return FieldSet::Only([super::super::plan::ForEach::OUTPUT_NAME.to_owned()].into());
    }
    let Some(kind) = kinds.get(&step.uses) else { return FieldSet::Any };
    let schema = kind.output_schema();
    let object = schema.as_value();
    match object.get("properties").and_then(serde_json::Value::as_object) {
        Some(properties) if object.get("additionalProperties").is_none_or(|more| more == false) => {
            FieldSet::Only(properties.keys().cloned().collect())
        }
        _ => FieldSet::Any,
    }
}

fn compile_step(
    file: &CompileContext<'_>,
    step: &ParsedStep<'_>,
    inline: bool,
    needs: &[&str],
    known: &NameScope<'_>,
    faults: &mut Diagnostics,
) -> Option<PlanStep> {
    let (node, raw) = (step.node, step.raw.as_ref()?);
    let kind = find_step_kind(node, raw, file.kinds, faults);
    let nothing = YamlNode::new(node.span, YamlValue::Map(Vec::new()));
    let with = match node.get("with") {
        Some(with) if !matches!(with.value, YamlValue::Null) => with,
        _ => &nothing,
    };
    if !matches!(with.value, YamlValue::Map(_)) {
        faults.report_invalid(with.span, "`with` must be a map", "");
    } else {
        if let Some(kind) = kind {
            faults.problems.extend(kind.validate(with, file.ctx));
            file_params::check_file_params(with, kind.input_schema().as_value(), file.param_types, faults);
        }
        let repeated = kind.map_or(&[][..], StepKind::deferred_fields);
        expressions::check_with_block(with, &NameScope { can_read_rows: true, ..known.clone() }, repeated, faults);
    }
    // `if`, `for_each` and `delay` are evaluated once per step, before there are items.
    let whole = &NameScope { in_for_each: false, ..known.clone() };
    if let (Some(condition), Some(place)) = (&raw.condition, node.get("if")) {
        expressions::check_condition(place, condition, whole, faults);
    }
    let for_each = for_each::compile_for_each(node, raw, whole, faults);
    let rate_limit = limits::compile_rate_limit(node, raw, known, faults);
    if let Some(delay) = node.get("delay") {
        expressions::check_expressions(delay, whole, faults);
    }
    let output = output::compile_output(node, raw, kind, file.ctx, known, faults);
    check_queue(node.get("queue"), file.ctx, faults);
    check_limits(node, raw.timeout, raw.priority, raw.retry.as_ref(), faults);
    let retry = merge_retry(raw.retry.as_ref(), file.defaults.retry.as_ref());
    let pauses = raw.retry.as_ref().is_some_and(|retry| retry.delay.is_some() || retry.max_delay.is_some());
    if retry.delay_ms > retry.max_delay_ms && pauses {
        let span = node.closest_node(&["retry", "delay"]).span;
        faults.report_invalid(span, "`delay` is more than `max_delay`", "");
    }
    Some(PlanStep {
        id: raw.id.clone(),
        uses: raw.uses.clone(),
        needs: needs.iter().map(|id| (*id).to_owned()).collect(),
        condition: raw.condition.as_deref().map(|text| Condition::new(text).expression_text().to_owned()),
        continue_on_error: raw.continue_on_error,
        queue: raw.queue.clone().or_else(|| file.defaults.queue.clone()).unwrap_or_else(|| "default".into()),
        // A client waits for the result of an inline step.
        priority: raw.priority.or(file.defaults.priority).unwrap_or(if inline { 100 } else { 0 }),
        timeout_ms: raw.timeout.or(file.defaults.timeout).map_or(HOUR_MS, HumanDuration::as_millis),
        retry,
        own_retry: raw.retry.is_some(),
        delay: node.get("delay").and_then(YamlNode::as_str).map(str::to_owned),
        rate_limit,
        inline,
        for_each,
        output,
        with: kind.map_or_else(|| with.to_json(), |kind| normalize_with(with, kind.input_schema().as_value())),
    })
}

fn find_step_kind<'a>(
    node: &YamlNode,
    raw: &StepAst,
    kinds: &'a StepCatalog,
    faults: &mut Diagnostics,
) -> Option<&'a dyn StepKind> {
    let place = node.get("uses").filter(|place| place.as_str().is_some())?;
    let uses = raw.uses.as_str();
    if let Some(kind) = kinds.get(uses) {
        return Some(kind);
    }
    let hint = suggestion_hint(uses, kinds.0.iter().map(|kind| kind.name()).collect::<Vec<_>>());
    faults.report_invalid(place.span, format!("unknown step kind `{uses}`"), hint);
    None
}

fn check_defaults(file: &CompileContext<'_>, faults: &mut Diagnostics) {
    let Some(node) = file.root.get("defaults") else { return };
    let defaults = file.defaults;
    check_queue(node.get("queue"), file.ctx, faults);
    check_limits(node, defaults.timeout, defaults.priority, defaults.retry.as_ref(), faults);
    let retry = merge_retry(defaults.retry.as_ref(), None);
    if retry.delay_ms > retry.max_delay_ms {
        faults.report_invalid(node.closest_node(&["retry", "delay"]).span, "`delay` is more than `max_delay`", "");
    }
}

fn check_queue(node: Option<&YamlNode>, around: &ValidationContext, faults: &mut Diagnostics) {
    let Some((node, name)) = node.and_then(|node| Some((node, node.as_str()?))) else { return };
    if !is_queue_name(name) {
        let hint = "start with a small letter, go on with small letters, digits, `-` and `_`, at most 63 characters";
        return faults.report_invalid(node.span, format!("`{name}` is not a name for a queue"), hint);
    }
    if let Some(known) = around.queues.as_ref().filter(|known| !known.contains(name) && name != "default") {
        let hint = match yaml::closest_name(name, known.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "every `serve` works it with the default settings".into(),
        };
        faults.report_warning(node.span, format!("queue `{name}` is not declared in the configuration"), hint);
    }
}

fn check_limits(
    node: &YamlNode,
    timeout: Option<HumanDuration>,
    priority: Option<i32>,
    retry: Option<&RetryAst>,
    faults: &mut Diagnostics,
) {
    let place = |path: &[&str]| -> SourceSpan { node.closest_node(path).span };
    if timeout.is_some_and(|timeout| !(1..=MAX_STEP_TIMEOUT_MS).contains(&timeout.as_millis())) {
        faults.report_invalid(place(&["timeout"]), "`timeout` must be more than 0 and at most 30d", "");
    }
    if priority.is_some_and(|priority| !(-100..=100).contains(&priority)) {
        faults.report_invalid(place(&["priority"]), "`priority` must be from -100 to 100", "");
    }
    if retry.and_then(|retry| retry.attempts).is_some_and(|attempts| !(1..=100).contains(&attempts)) {
        let hint = "1 is no retry";
        faults.report_invalid(place(&["retry", "attempts"]), "`attempts` must be from 1 to 100", hint);
    }
}

/// Merges the step's own settings, the file's defaults, and 5 attempts from 2 s to 10 min. A step that sets only
/// `delay` raises `max_delay` to at least the same value.
fn merge_retry(own: Option<&RetryAst>, defaults: Option<&RetryAst>) -> RetryPolicy {
    fn first_set<T>(
        own: Option<&RetryAst>,
        defaults: Option<&RetryAst>,
        get: impl Fn(&RetryAst) -> Option<T>,
    ) -> Option<T> {
        own.and_then(&get).or_else(|| defaults.and_then(&get))
    }
    let delay_ms = first_set(own, defaults, |retry| retry.delay).map_or(2_000, HumanDuration::as_millis);
    let max_delay_ms =
        first_set(own, defaults, |retry| retry.max_delay).map_or(delay_ms.max(600_000), HumanDuration::as_millis);
    RetryPolicy {
        attempts: first_set(own, defaults, |retry| retry.attempts).unwrap_or(5),
        backoff: first_set(own, defaults, |retry| retry.backoff).unwrap_or(Backoff::Exponential),
        delay_ms,
        max_delay_ms,
    }
}
