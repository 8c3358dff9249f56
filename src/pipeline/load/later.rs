//! Checks the parts that this version does not execute, and then refuses them: a slip inside is told as well.

use std::collections::BTreeMap;

use super::super::expr::check::{Fields, Known};
use super::super::params::{Param, ParamType};
use super::super::raw::{Concurrency, RawStep, Trigger, TriggerType};
use super::{Faults, expressions, items};
use crate::yaml::{self, Node, Value, choices};

/// Triggers are checked as a whole, then refused.
pub fn check_triggers(root: &Node, params: &BTreeMap<String, Param>, faults: &mut Faults) {
    for node in items(root.get("triggers")) {
        let (Some(trigger), _) = yaml::read_most::<Trigger>(node) else { continue };
        // A type that could not be read has been told.
        if node.get("type").is_none_or(|kind| yaml::read::<TriggerType>(kind).is_err()) {
            continue;
        }
        let (name, needed, allowed): (_, _, &[&str]) = match trigger.kind {
            TriggerType::S3 => ("s3", "bucket", &["bucket", "prefix", "suffix"]),
            TriggerType::Cron => ("cron", "schedule", &["schedule", "timezone", "catch_up"]),
            TriggerType::Event => ("event", "name", &["name"]),
        };
        check_fields(node, name, needed, allowed, faults);
        if let Some(schedule) = node.get("schedule").filter(|_| trigger.kind == TriggerType::Cron) {
            check_schedule(schedule, faults);
        }
        check_filling(node, trigger.kind, params, faults);
        faults.later(node.nearest(&["type"]).span, &format!("a trigger of type `{name}`"));
    }
}

fn check_fields(node: &Node, name: &str, needed: &str, allowed: &[&str], faults: &mut Faults) {
    if node.get(needed).is_none() {
        faults.invalid(node.span, format!("a trigger of type `{name}` needs `{needed}`"), "");
    }
    let Value::Map(entries) = &node.value else { return };
    for (key, _) in entries {
        let own =
            ["bucket", "prefix", "suffix", "schedule", "timezone", "catch_up", "name"].contains(&key.text.as_str());
        if own && !allowed.contains(&key.text.as_str()) {
            faults.invalid(key.span, format!("a trigger of type `{name}` has no `{}`", key.text), "");
        }
    }
}

fn check_schedule(node: &Node, faults: &mut Faults) {
    let Some(text) = node.as_str() else { return };
    let field = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-?#".contains(c));
    let fields: Vec<&str> = text.split_whitespace().collect();
    if !text.starts_with('@') && (fields.len() != 5 || !fields.iter().all(|part| field(part))) {
        let hint = "minute, hour, day, month and weekday, such as `0 6 * * MON`";
        faults.invalid(node.span, format!("`{text}` is not a schedule"), hint);
    }
}

/// `with` names params and reads `event`; a required param that nothing fills could never start.
fn check_filling(node: &Node, kind: TriggerType, params: &BTreeMap<String, Param>, faults: &mut Faults) {
    let entries = match node.get("with").map(|with| &with.value) {
        Some(Value::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    for (key, value) in entries {
        if !params.contains_key(&key.text) {
            let hint = choices(&key.text, params.keys().map(String::as_str));
            faults.invalid(key.span, format!("unknown param `{}`", key.text), hint);
        }
        expressions::check_all(value, &Known::default(), faults);
    }
    let files = params.values().filter(|param| matches!(param.kind, ParamType::File(_))).count();
    for (name, param) in params.iter().filter(|(_, param)| param.required) {
        let filled = entries.iter().any(|(key, _)| key.text == *name);
        let only_file = kind == TriggerType::S3 && files == 1 && matches!(param.kind, ParamType::File(_));
        if !(filled || only_file && entries.is_empty()) {
            let hint = format!("add `with: {{ {name}: … }}`, or give the param a default");
            faults.invalid(node.span, format!("nothing fills the required param `{name}`"), hint);
        }
    }
}

/// `concurrency` and `retention`.
pub fn check_pipeline(root: &Node, concurrency: &Option<Concurrency>, faults: &mut Faults) {
    let keys = [("concurrency", "`concurrency`"), ("retention", "`retention`")];
    if concurrency.as_ref().is_some_and(|concurrency| concurrency.limit == Some(0)) {
        faults.invalid(root.nearest(&["concurrency", "limit"]).span, "`limit` must be at least 1", "");
    }
    for (field, what) in keys {
        if let Some(key) = root.key(field) {
            faults.later(key.span, what);
        }
    }
}

/// The fields of a step that are not executed yet.
pub fn check_step(node: &Node, raw: &RawStep, known: &Known<'_>, faults: &mut Faults) {
    if let Some(for_each) = &raw.for_each {
        let max = node.nearest(&["for_each", "max_concurrency"]).span;
        if for_each.max_concurrency.is_some_and(|most| !(1..=1000).contains(&most)) {
            faults.invalid(max, "`max_concurrency` must be from 1 to 1000", "");
        }
        let items = &for_each.items;
        if !(items.is_array() || items.as_str().is_some_and(super::super::expr::dynamic)) {
            let span = node.nearest(&["for_each", "items"]).span;
            faults.invalid(span, "`items` must be a list or an expression", "");
        }
    }
    if raw.rate_limit.as_ref().is_some_and(|limit| limit.per_second <= 0.0) {
        faults.invalid(node.nearest(&["rate_limit", "per_second"]).span, "`per_second` must be more than 0", "");
    }
    for field in ["for_each", "rate_limit", "delay"] {
        if let (Some(key), Some(value)) = (node.key(field), node.get(field)) {
            expressions::check_all(value, known, faults);
            faults.later(key.span, &format!("`{field}`"));
        }
    }
}

/// `concurrency.key` may name params and the event.
pub fn check_concurrency_key(root: &Node, params: &BTreeMap<String, Fields>, faults: &mut Faults) {
    let Some(key) = root.get("concurrency").and_then(|node| node.get("key")) else { return };
    expressions::check_all(key, &Known { params, ..Known::default() }, faults);
}
