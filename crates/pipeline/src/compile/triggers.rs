//! Compiles the triggers.

use std::collections::BTreeMap;

use serde_json::Map;

use super::super::ast::{TriggerAst, TriggerType};
use super::super::expr::check::{EventRoot, FieldSet, NameScope};
use super::super::expr::{self, has_expression};
use super::super::params::{Param, ParamType};
use super::super::plan::{CronTrigger, EventTrigger, S3Trigger, Trigger};
use super::super::schedule::{self, CronSchedule};
use super::super::step_kind::ValidationContext;
use super::batching::{compile_batching, is_batched};
use super::params::FILE_PARAM_FIELDS;
use super::{Diagnostics, expressions, list_items};
use afterload_core::object_names::is_valid_bucket_name;
use afterload_core::units::is_event_name;
use afterload_spanned_yaml::{self as yaml, YamlNode, YamlValue, suggestion_hint};

/// The fields of `event` for an s3 trigger. The `triggers` module fills them.
const S3_EVENT_FIELDS: [&str; 9] = ["type", "bucket", "key", "version", "etag", "size", "name", "content_type", "time"];
/// The fields of `event` for a cron trigger. The server fills them.
pub const CRON_EVENT_FIELDS: [&str; 6] = ["type", "time", "date", "local_time", "schedule", "timezone"];
/// The fields that not every type of trigger has.
const TRIGGER_TYPE_FIELDS: [&str; 11] =
    ["bucket", "prefix", "suffix", "poll", "schedule", "timezone", "catch_up", "name", "debounce", "max_wait", "batch"];
const MIN_POLL_INTERVAL_MS: i64 = 1_000;
const MAX_POLL_INTERVAL_MS: i64 = 86_400 * MIN_POLL_INTERVAL_MS;

/// The fields that expressions can use of `event`.
pub enum EventFields {
    Never,
    Any,
    Only(BTreeMap<String, FieldSet>),
}

impl EventFields {
    /// Derives the fields from the triggers of the file.
    pub fn from_triggers(root: &YamlNode) -> Self {
        let kinds = list_items(root.get("triggers")).iter().map(|node| {
            let kind = node.get("type").and_then(|kind| yaml::read::<TriggerType>(kind).ok());
            kind.map_or(Self::Any, |kind| Self::from_trigger(node, kind))
        });
        kinds.fold(Self::Never, |all, kind| match (all, kind) {
            (Self::Never, fields) | (fields, Self::Never) => fields,
            (Self::Only(all), Self::Only(fields)) => Self::Only(all.into_iter().chain(fields).collect()),
            _ => Self::Any,
        })
    }

    /// The fields of one trigger. The data of an application's event may have any.
    fn from_trigger(node: &YamlNode, kind: TriggerType) -> Self {
        match kind {
            TriggerType::S3 => Self::Only(s3_event_fields(is_batched(node))),
            TriggerType::Cron => Self::Only(plain_event_fields(CRON_EVENT_FIELDS)),
            TriggerType::Event => Self::Any,
        }
    }

    pub fn as_event_root(&self) -> EventRoot<'_> {
        match self {
            Self::Never => EventRoot::Never,
            Self::Any => EventRoot::Any,
            Self::Only(fields) => EventRoot::Only(fields),
        }
    }
}

/// Fields that hold text or a number, so that they have no fields of their own.
fn plain_event_fields<const N: usize>(names: [&str; N]) -> BTreeMap<String, FieldSet> {
    names.map(|name| (name.to_owned(), FieldSet::Only(Vec::new()))).into()
}

fn s3_event_fields(batched: bool) -> BTreeMap<String, FieldSet> {
    let mut fields = plain_event_fields(S3_EVENT_FIELDS);
    if batched {
        fields.insert("items".into(), FieldSet::Any);
    }
    fields.insert("file".into(), FieldSet::Only(FILE_PARAM_FIELDS.map(ToOwned::to_owned).to_vec()));
    fields
}

/// Compiles the triggers. The result is valid only if no error was reported.
pub fn compile_triggers(
    root: &YamlNode,
    params: &BTreeMap<String, Param>,
    around: &ValidationContext,
    faults: &mut Diagnostics,
) -> Vec<Trigger> {
    let mut triggers = Vec::new();
    for node in list_items(root.get("triggers")) {
        let (Some(trigger), _) = yaml::read_partial::<TriggerAst>(node) else { continue };
        // An unreadable type is already reported.
        if node.get("type").is_none_or(|kind| yaml::read::<TriggerType>(kind).is_err()) {
            continue;
        }
        let (name, needed, allowed): (_, _, &[&str]) = match trigger.kind {
            TriggerType::S3 => {
                ("s3", "bucket", &["bucket", "prefix", "suffix", "poll", "debounce", "max_wait", "batch"])
            }
            TriggerType::Cron => ("cron", "schedule", &["schedule", "timezone", "catch_up"]),
            TriggerType::Event => ("event", "name", &["name", "debounce", "max_wait", "batch"]),
        };
        check_trigger_fields(node, name, needed, allowed, faults);
        check_trigger_params(node, trigger.kind, params, faults);
        match trigger.kind {
            TriggerType::S3 => {
                triggers.extend(compile_s3_trigger(node, trigger, params, around, faults).map(Trigger::S3));
            }
            TriggerType::Cron => triggers.extend(compile_cron_trigger(node, trigger, faults).map(Trigger::Cron)),
            TriggerType::Event => triggers.extend(compile_event_trigger(node, trigger, faults).map(Trigger::Event)),
        }
    }
    triggers
}

fn compile_s3_trigger(
    node: &YamlNode,
    raw: TriggerAst,
    params: &BTreeMap<String, Param>,
    around: &ValidationContext,
    faults: &mut Diagnostics,
) -> Option<S3Trigger> {
    for field in ["bucket", "prefix", "suffix"] {
        let Some(node) = node.get(field) else { continue };
        let texts = std::iter::once(node).chain(list_items(Some(node)));
        if texts.filter_map(YamlNode::as_str).any(has_expression) {
            faults.report_invalid(node.span, format!("`{field}` cannot hold an expression"), "");
            return None;
        }
    }
    if raw.suffix.as_ref().is_some_and(|suffix| suffix.alternatives().is_empty()) {
        let hint = "name at least one ending, or leave `suffix` out: then every key fits";
        faults.report_invalid(node.closest_node(&["suffix"]).span, "`suffix` is an empty list", hint);
    }
    let batching = compile_batching(node, &raw, faults);
    let bucket = raw.bucket?;
    let place = node.closest_node(&["bucket"]).span;
    if around.artifacts_bucket.as_ref() == Some(&bucket) {
        let hint = "let the uploads go to a bucket of their own";
        let message =
            format!("bucket `{bucket}` holds what afterload itself writes, so that a run would start another");
        faults.report_invalid(place, message, hint);
    } else if !is_valid_bucket_name(&bucket) {
        let hint = "expected 3 to 63 lower-case letters, digits, `-` and `.`";
        faults.report_invalid(place, format!("`{bucket}` is not the name of a bucket"), hint);
    }
    if raw.prefix.as_ref().is_some_and(|prefix| prefix.starts_with('/')) {
        let hint = "keys seldom begin with `/`: `aws s3 cp a.csv s3://uploads/in/` makes the key `in/a.csv`";
        faults.report_warning(node.closest_node(&["prefix"]).span, "`prefix` begins with `/`", hint);
    }
    if raw.poll.is_some_and(|poll| !(MIN_POLL_INTERVAL_MS..=MAX_POLL_INTERVAL_MS).contains(&poll.as_millis())) {
        faults.report_invalid(node.closest_node(&["poll"]).span, "`poll` must be from 1s to 1d", "");
    }
    let with = trigger_params(node);
    let with = match find_default_param(params, batching.is_some()) {
        Some((name, value)) if with.is_empty() => Map::from_iter([(name.to_owned(), value.into())]),
        _ => with,
    };
    let (prefix, suffix) = (raw.prefix.unwrap_or_default(), raw.suffix.unwrap_or_default());
    Some(S3Trigger {
        bucket,
        prefix,
        suffix,
        poll_ms: raw.poll.map(afterload_core::units::HumanDuration::as_millis),
        batching,
        with,
    })
}

/// Returns `with`: the params that the trigger sets.
fn trigger_params(node: &YamlNode) -> Map<String, serde_json::Value> {
    match node.get("with").map(|with| &with.value) {
        Some(YamlValue::Map(entries)) => {
            entries.iter().map(|(key, value)| (key.text.clone(), value.to_json())).collect()
        }
        _ => Map::new(),
    }
}

fn compile_cron_trigger(node: &YamlNode, raw: TriggerAst, faults: &mut Diagnostics) -> Option<CronTrigger> {
    let schedule = raw.schedule?;
    let timezone = raw.timezone.unwrap_or_else(|| "UTC".into());
    if let Err(fault) = CronSchedule::parse(&schedule, &timezone) {
        let (place, message, hint) = match fault {
            schedule::ScheduleError::Expression => {
                let hint = "minute, hour, day, month and weekday, such as `0 6 * * MON`";
                ("schedule", format!("`{schedule}` is not a schedule"), hint)
            }
            schedule::ScheduleError::TimeZone => {
                ("timezone", format!("`{timezone}` is not a time zone"), "such as `Europe/Paris` or `UTC`")
            }
        };
        faults.report_invalid(node.closest_node(&[place]).span, message, hint);
        return None;
    }
    Some(CronTrigger { schedule, timezone, catch_up: raw.catch_up.unwrap_or_default(), with: trigger_params(node) })
}

fn compile_event_trigger(node: &YamlNode, raw: TriggerAst, faults: &mut Diagnostics) -> Option<EventTrigger> {
    let batching = compile_batching(node, &raw, faults);
    let name = raw.name?;
    if !is_event_name(&name) {
        let hint = "letters, digits, `.`, `_` and `-`, such as `user.signed_in`; it cannot hold an expression";
        faults.report_invalid(node.closest_node(&["name"]).span, format!("`{name}` is not a name for an event"), hint);
    }
    Some(EventTrigger { name, batching, with: trigger_params(node) })
}

/// Returns the param that an s3 trigger without `with` fills, and its value: the file of its object, or the files of its
/// batch.
fn find_default_param(params: &BTreeMap<String, Param>, batched: bool) -> Option<(&str, &'static str)> {
    let takes: fn(&ParamType) -> bool = if batched { is_file_list } else { is_file };
    let value = if batched { "${{ event.items | map(attribute='file') | list }}" } else { "${{ event.file }}" };
    let mut fitting = params.iter().filter(|(_, param)| takes(&param.kind));
    match (fitting.next(), fitting.next()) {
        (Some((name, _)), None) => Some((name.as_str(), value)),
        _ => None,
    }
}

fn is_file(kind: &ParamType) -> bool {
    matches!(kind, ParamType::File(_))
}

fn is_file_list(kind: &ParamType) -> bool {
    matches!(kind, ParamType::List { items: Some(items), .. } if is_file(items))
}

fn value_mentions_secrets(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => has_expression(text) && expr::mentions_secrets(text),
        serde_json::Value::Array(items) => items.iter().any(value_mentions_secrets),
        serde_json::Value::Object(fields) => fields.values().any(value_mentions_secrets),
        _ => false,
    }
}

fn check_trigger_fields(node: &YamlNode, name: &str, needed: &str, allowed: &[&str], faults: &mut Diagnostics) {
    if node.get(needed).is_none() {
        faults.report_invalid(node.span, format!("a trigger of type `{name}` needs `{needed}`"), "");
    }
    let YamlValue::Map(entries) = &node.value else { return };
    for (key, _) in entries {
        if TRIGGER_TYPE_FIELDS.contains(&key.text.as_str()) && !allowed.contains(&key.text.as_str()) {
            faults.report_invalid(key.span, format!("a trigger of type `{name}` has no `{}`", key.text), "");
        }
    }
}

/// Checks `with`: it must name params, may read `event`, and must fill every required param, or no run could start.
fn check_trigger_params(
    node: &YamlNode,
    kind: TriggerType,
    params: &BTreeMap<String, Param>,
    faults: &mut Diagnostics,
) {
    let entries = match node.get("with").map(|with| &with.value) {
        Some(YamlValue::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let fields = EventFields::from_trigger(node, kind);
    let known = NameScope { event: fields.as_event_root(), ..NameScope::default() };
    for (key, value) in entries {
        if !params.contains_key(&key.text) {
            let hint = suggestion_hint(&key.text, params.keys().map(String::as_str));
            faults.report_invalid(key.span, format!("unknown param `{}`", key.text), hint);
        }
        expressions::check_expressions(value, &known, faults);
        if value_mentions_secrets(&value.to_json()) {
            let hint = "name the secret in the step that uses it";
            faults.report_invalid(value.span, "a param cannot hold a secret: params are stored and shown", hint);
        }
    }
    let batched = is_batched(node);
    let by_default = find_default_param(params, batched).filter(|_| kind == TriggerType::S3 && entries.is_empty());
    let by_default = by_default.map(|(name, _)| name);
    for (name, _) in params.iter().filter(|(_, param)| param.required) {
        let filled = entries.iter().any(|(key, _)| key.text == *name);
        if !filled && by_default != Some(name) {
            let hint = format!("add `with: {{ {name}: … }}`, or give the param a default");
            faults.report_invalid(node.span, format!("nothing fills the required param `{name}`"), hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::plan::TriggerBatching;
    use super::*;

    /// The errors, each with its line, and the triggers.
    fn compile(text: &str) -> (Vec<String>, Vec<Trigger>) {
        let text = format!("name: t\nsteps: []\n{text}");
        let root = yaml::parse(&text).expect("valid YAML");
        let params = crate::compile::params_of(&text);
        let mut faults = Diagnostics { problems: Vec::new(), warnings: Vec::new() };
        let triggers = compile_triggers(&root, &params, &ValidationContext::default(), &mut faults);
        let problems = faults.problems.iter().map(|problem| format!("{}: {}", problem.span.line, problem.message));
        (problems.collect(), triggers)
    }

    #[test]
    fn contradictory_debounce_and_batch_are_refused() {
        let text = r#"params: { n: { type: integer, default: 1 } }
triggers:
  - { type: event, name: a, debounce: 30s, batch: { size: 10, within: 1m } }
  - { type: event, name: b, debounce: 0s, max_wait: 1m }
  - { type: event, name: c, debounce: 30s, max_wait: 20s }
  - { type: event, name: d, max_wait: 20s }
  - { type: event, name: e, batch: { size: 0, within: 2d } }
  - { type: s3, bucket: uploads, batch: { size: 1001, within: 0s } }
  - { type: cron, schedule: "0 6 * * *", debounce: 30s, batch: { size: 2, within: 1m } }
  - { type: s3, bucket: uploads, with: { n: "${{ event.items | length }}" } }
"#;
        let problems = [
            "5: a trigger has either `debounce` or `batch`",
            "6: `debounce` must be from 1s to 1d",
            "7: `max_wait` must be from 30s, the time of `debounce`, to 10d",
            "8: `max_wait` needs `debounce`",
            "9: `size` must be from 1 to 1000",
            "9: `within` must be from 1s to 1d",
            "10: `size` must be from 1 to 1000",
            "10: `within` must be from 1s to 1d",
            "11: a trigger of type `cron` has no `debounce`",
            "11: a trigger of type `cron` has no `batch`",
            "12: `event` has no `items`",
        ];
        assert_eq!(compile(text).0, problems);
    }

    #[test]
    fn batched_objects_fill_the_only_list_of_files() {
        let text = "params: { files: { type: list, items: { type: file } }, one: { type: file, required: false } }\n\
                    triggers:\n  - { type: s3, bucket: uploads, debounce: 30s }\n  \
                    - { type: s3, bucket: uploads, batch: { size: 2, within: 1m } }\n";
        let (problems, triggers) = compile(text);
        assert_eq!(problems, Vec::<String>::new());
        let triggers: Vec<_> = triggers.iter().filter_map(Trigger::as_s3).collect();
        assert_eq!(triggers[0].with["files"], "${{ event.items | map(attribute='file') | list }}");
        let debounce = TriggerBatching::Debounce { quiet_ms: 30_000, max_wait_ms: 300_000 };
        let batch = TriggerBatching::Batch { size: 2, within_ms: 60_000 };
        assert_eq!([triggers[0].batching, triggers[1].batching], [Some(debounce), Some(batch)]);
        // One file of several would be lost.
        let text = "params: { file: { type: file } }\ntriggers: [{ type: s3, bucket: uploads, debounce: 30s }]\n";
        assert_eq!(compile(text).0, ["4: nothing fills the required param `file`"]);
    }
}
