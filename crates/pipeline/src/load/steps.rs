//! Checks the steps of all sections and settles them for the plan.

use std::collections::{BTreeMap, BTreeSet};

use super::super::expr::Condition;
use super::super::expr::check::{EventRoot, Fields, Known};
use super::super::kind::{Kind, Kinds, Surroundings};
use super::super::params::Param;
use super::super::plan::{Backoff, Retry, Section, Sections, Step};
use super::super::raw::{Defaults, RawRetry, RawStep};
use super::needs::{self, Written};
use super::settle::settle;
use super::{Faults, expressions, fan_out, files, is_id, items, limits, place};
use afterload_core::units::{Duration, is_name};
use afterload_spanned_yaml::{self as yaml, Node, Span, Value, choices};

/// Every step is a job; more than this is a loop that should be one step.
const MAX_STEPS: usize = 500;
const HOUR: i64 = 3_600_000;
const MAX_TIMEOUT: i64 = 30 * 24 * HOUR;

/// What the checks of a file look at.
pub struct File<'a> {
    pub root: &'a Node,
    pub kinds: &'a Kinds,
    pub around: &'a Surroundings,
    pub defaults: &'a Defaults,
    pub params: &'a BTreeMap<String, Fields>,
    pub types: &'a BTreeMap<String, Param>,
    pub event: EventRoot<'a>,
}

/// The settled steps; only of use if no fault was found.
pub fn check(file: &File<'_>, faults: &mut Faults) -> Sections {
    check_defaults(file, faults);
    let steps = read(file.root);
    if let Some(empty) = file.root.get("steps").filter(|node| items(Some(node)).is_empty()) {
        faults.invalid(empty.span, "a pipeline needs at least one step", "");
    }
    check_ids(&steps, faults);
    if let Some(step) = steps.get(MAX_STEPS) {
        faults.invalid(step.node.span, format!("a pipeline may have at most {MAX_STEPS} steps"), "");
        return Sections::default();
    }
    let outputs: BTreeMap<String, Fields> =
        steps.iter().filter_map(|step| Some((step.id?.to_owned(), outputs(step.raw.as_ref()?, file.kinds)))).collect();
    let mut sections = Sections::default();
    for section in Section::ALL {
        let own: Vec<&Written<'_>> = steps.iter().filter(|step| step.section == section).collect();
        let ids: Vec<Option<&str>> = own.iter().map(|step| step.id).collect();
        let needs = needs::resolve(&steps, section, faults);
        let mut before = needs::ancestors(&ids, &needs);
        if section != Section::Main {
            let main: BTreeSet<&str> =
                steps.iter().filter(|step| step.section == Section::Main).filter_map(|step| step.id).collect();
            before.iter_mut().for_each(|ended| ended.extend(&main));
        }
        let mut settled = Vec::new();
        for ((step, needs), before) in own.iter().zip(needs).zip(before) {
            let known = Known {
                params: file.params,
                steps: &outputs,
                before,
                event: file.event,
                secrets: file.around.secrets.as_ref(),
                ended: section != Section::Main,
                items: step.node.get("for_each").is_some(),
                file: false,
                rows: false,
                more: &[],
            };
            let inline = place::inline(step, &needs, &steps, faults);
            settled.extend(check_step(file, step, inline, &needs, &known, faults));
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

/// All steps in the order of the file. What is wrong with their fields has been told by reading the file as a whole.
fn read(root: &Node) -> Vec<Written<'_>> {
    let sections = Section::ALL.into_iter();
    sections
        .flat_map(|section| items(root.get(section.field())).iter().map(move |node| (section, node)))
        .map(|(section, node)| {
            let id = node.get("id").and_then(Node::as_str);
            Written { section, node, raw: yaml::read_most(node).0, id }
        })
        .collect()
}

fn check_ids(steps: &[Written<'_>], faults: &mut Faults) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for step in steps {
        let (Some(id), Some(node)) = (step.id, step.node.get("id")) else { continue };
        if !is_id(id, '_') {
            let hint = "start with a small letter, go on with small letters, digits and `_`, at most 63 characters";
            faults.invalid(node.span, format!("`{id}` is not an id for a step"), hint);
        }
        if let Some(line) = seen.insert(id, node.span.line) {
            let hint = format!("it stands already on line {line}; ids are unique in the whole file");
            faults.invalid(node.span, format!("duplicate step id `{id}`"), hint);
        }
    }
}

/// What expressions may name of a step: the properties of its kind's outputs.
fn outputs(step: &RawStep, kinds: &Kinds) -> Fields {
    if step.for_each.is_some() {
        return Fields::Only([super::super::plan::ForEach::OUTPUT.to_owned()].into());
    }
    let Some(kind) = kinds.get(&step.uses) else { return Fields::Any };
    let schema = kind.outputs();
    let object = schema.as_value();
    match object.get("properties").and_then(serde_json::Value::as_object) {
        Some(properties) if object.get("additionalProperties").is_none_or(|more| more == false) => {
            Fields::Only(properties.keys().cloned().collect())
        }
        _ => Fields::Any,
    }
}

fn check_step(
    file: &File<'_>,
    step: &Written<'_>,
    inline: bool,
    needs: &[&str],
    known: &Known<'_>,
    faults: &mut Faults,
) -> Option<Step> {
    let (node, raw) = (step.node, step.raw.as_ref()?);
    let kind = check_kind(node, raw, file.kinds, faults);
    let nothing = Node::new(node.span, Value::Map(Vec::new()));
    let with = match node.get("with") {
        Some(with) if !matches!(with.value, Value::Null) => with,
        _ => &nothing,
    };
    if !matches!(with.value, Value::Map(_)) {
        faults.invalid(with.span, "`with` must be a map", "");
    } else {
        if let Some(kind) = kind {
            faults.problems.extend(kind.check(with, file.around));
            files::check(with, kind.schema().as_value(), file.types, faults);
        }
        let repeated = kind.map_or(&[][..], Kind::repeated);
        expressions::check_parts(with, &Known { rows: true, ..known.clone() }, repeated, faults);
    }
    // Asked once for the whole step, before there are items.
    let whole = &Known { items: false, ..known.clone() };
    if let (Some(condition), Some(place)) = (&raw.condition, node.get("if")) {
        expressions::check_condition(place, condition, whole, faults);
    }
    let for_each = fan_out::check(node, raw, whole, faults);
    let rate_limit = limits::rate(node, raw, known, faults);
    if let Some(delay) = node.get("delay") {
        expressions::check_all(delay, whole, faults);
    }
    let output = place::output(node, raw, kind, file.around, known, faults);
    check_queue(node.get("queue"), file.around, faults);
    check_limits(node, raw.timeout, raw.priority, raw.retry.as_ref(), faults);
    let retry = settle_retry(raw.retry.as_ref(), file.defaults.retry.as_ref());
    let pauses = raw.retry.as_ref().is_some_and(|retry| retry.delay.is_some() || retry.max_delay.is_some());
    if retry.delay_ms > retry.max_delay_ms && pauses {
        let span = node.nearest(&["retry", "delay"]).span;
        faults.invalid(span, "`delay` is more than `max_delay`", "");
    }
    Some(Step {
        id: raw.id.clone(),
        uses: raw.uses.clone(),
        needs: needs.iter().map(|id| (*id).to_owned()).collect(),
        condition: raw.condition.as_deref().map(|text| Condition::new(text).expression().to_owned()),
        continue_on_error: raw.continue_on_error,
        queue: raw.queue.clone().or_else(|| file.defaults.queue.clone()).unwrap_or_else(|| "default".into()),
        // Somebody waits for an inline step.
        priority: raw.priority.or(file.defaults.priority).unwrap_or(if inline { 100 } else { 0 }),
        timeout_ms: raw.timeout.or(file.defaults.timeout).map_or(HOUR, Duration::millis),
        retry,
        delay: node.get("delay").and_then(Node::as_str).map(str::to_owned),
        rate_limit,
        inline,
        for_each,
        output,
        with: kind.map_or_else(|| with.to_json(), |kind| settle(with, kind.schema().as_value())),
    })
}

fn check_kind<'a>(node: &Node, raw: &RawStep, kinds: &'a Kinds, faults: &mut Faults) -> Option<&'a dyn Kind> {
    let place = node.get("uses").filter(|place| place.as_str().is_some())?;
    let uses = raw.uses.as_str();
    if let Some(kind) = kinds.get(uses) {
        return Some(kind);
    }
    let hint = choices(uses, kinds.0.iter().map(|kind| kind.name()).collect::<Vec<_>>());
    faults.invalid(place.span, format!("unknown step kind `{uses}`"), hint);
    None
}

fn check_defaults(file: &File<'_>, faults: &mut Faults) {
    let Some(node) = file.root.get("defaults") else { return };
    let defaults = file.defaults;
    check_queue(node.get("queue"), file.around, faults);
    check_limits(node, defaults.timeout, defaults.priority, defaults.retry.as_ref(), faults);
    let retry = settle_retry(defaults.retry.as_ref(), None);
    if retry.delay_ms > retry.max_delay_ms {
        faults.invalid(node.nearest(&["retry", "delay"]).span, "`delay` is more than `max_delay`", "");
    }
}

fn check_queue(node: Option<&Node>, around: &Surroundings, faults: &mut Faults) {
    let Some((node, name)) = node.and_then(|node| Some((node, node.as_str()?))) else { return };
    if !is_name(name) {
        let hint = "start with a small letter, go on with small letters, digits, `-` and `_`, at most 63 characters";
        return faults.invalid(node.span, format!("`{name}` is not a name for a queue"), hint);
    }
    if let Some(known) = around.queues.as_ref().filter(|known| !known.contains(name) && name != "default") {
        let hint = match yaml::closest(name, known.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "every `serve` works it with the default settings".into(),
        };
        faults.warn(node.span, format!("queue `{name}` is not declared in the configuration"), hint);
    }
}

fn check_limits(
    node: &Node,
    timeout: Option<Duration>,
    priority: Option<i32>,
    retry: Option<&RawRetry>,
    faults: &mut Faults,
) {
    let place = |path: &[&str]| -> Span { node.nearest(path).span };
    if timeout.is_some_and(|timeout| !(1..=MAX_TIMEOUT).contains(&timeout.millis())) {
        faults.invalid(place(&["timeout"]), "`timeout` must be more than 0 and at most 30d", "");
    }
    if priority.is_some_and(|priority| !(-100..=100).contains(&priority)) {
        faults.invalid(place(&["priority"]), "`priority` must be from -100 to 100", "");
    }
    if retry.and_then(|retry| retry.attempts).is_some_and(|attempts| !(1..=100).contains(&attempts)) {
        let hint = "1 is no retry";
        faults.invalid(place(&["retry", "attempts"]), "`attempts` must be from 1 to 100", hint);
    }
}

/// The step's own settings, else the file's, else 5 attempts from 2 s to 10 min. A step that sets only the first pause
/// raises the longest one with it.
fn settle_retry(own: Option<&RawRetry>, defaults: Option<&RawRetry>) -> Retry {
    fn first<T>(
        own: Option<&RawRetry>,
        defaults: Option<&RawRetry>,
        get: impl Fn(&RawRetry) -> Option<T>,
    ) -> Option<T> {
        own.and_then(&get).or_else(|| defaults.and_then(&get))
    }
    let delay_ms = first(own, defaults, |retry| retry.delay).map_or(2_000, Duration::millis);
    let max_delay_ms = first(own, defaults, |retry| retry.max_delay).map_or(delay_ms.max(600_000), Duration::millis);
    Retry {
        attempts: first(own, defaults, |retry| retry.attempts).unwrap_or(5),
        backoff: first(own, defaults, |retry| retry.backoff).unwrap_or(Backoff::Exponential),
        delay_ms,
        max_delay_ms,
    }
}
