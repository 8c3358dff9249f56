//! Checks the triggers, and settles those that this version executes.

use std::collections::BTreeMap;

use serde_json::Map;

use super::super::expr::check::{EventRoot, Fields, Known};
use super::super::expr::{self, dynamic};
use super::super::kind::Surroundings;
use super::super::params::{Param, ParamType};
use super::super::plan::{CronTrigger, EventTrigger, S3Trigger, Trigger};
use super::super::raw::{RawTrigger, TriggerType};
use super::super::schedule::{self, Schedule};
use super::params::FILE_FIELDS;
use super::{Faults, expressions, items};
use afterload_core::object_names::is_bucket;
use afterload_core::units::is_event;
use afterload_spanned_yaml::{self as yaml, Node, Value, choices};

/// What an `event` of an s3 trigger has. `triggers/` makes them.
const S3_FIELDS: [&str; 9] = ["type", "bucket", "key", "version", "etag", "size", "name", "content_type", "time"];
const SECOND: i64 = 1_000;
const DAY: i64 = 86_400 * SECOND;

/// What expressions may name of the `event` of a pipeline.
pub enum EventFields {
    Never,
    Any,
    Only(BTreeMap<String, Fields>),
}

impl EventFields {
    /// By the triggers of the file.
    pub fn of(root: &Node) -> Self {
        let triggers = items(root.get("triggers"));
        let s3 = |node: &Node| {
            node.get("type").and_then(|kind| yaml::read::<TriggerType>(kind).ok()) == Some(TriggerType::S3)
        };
        match triggers {
            [] => Self::Never,
            triggers if triggers.iter().all(s3) => Self::Only(s3_fields()),
            _ => Self::Any,
        }
    }

    /// The same for a check.
    pub fn root(&self) -> EventRoot<'_> {
        match self {
            Self::Never => EventRoot::Never,
            Self::Any => EventRoot::Any,
            Self::Only(fields) => EventRoot::Only(fields),
        }
    }
}

fn s3_fields() -> BTreeMap<String, Fields> {
    let mut fields: BTreeMap<_, _> = S3_FIELDS.map(|name| (name.to_owned(), Fields::Only(Vec::new()))).into();
    fields.insert("file".into(), Fields::Only(FILE_FIELDS.map(ToOwned::to_owned).to_vec()));
    fields
}

/// The settled triggers; only of use if no fault was found.
pub fn check(
    root: &Node,
    params: &BTreeMap<String, Param>,
    around: &Surroundings,
    faults: &mut Faults,
) -> Vec<Trigger> {
    let mut triggers = Vec::new();
    for node in items(root.get("triggers")) {
        let (Some(trigger), _) = yaml::read_most::<RawTrigger>(node) else { continue };
        // A type that could not be read has been told.
        if node.get("type").is_none_or(|kind| yaml::read::<TriggerType>(kind).is_err()) {
            continue;
        }
        let (name, needed, allowed): (_, _, &[&str]) = match trigger.kind {
            TriggerType::S3 => ("s3", "bucket", &["bucket", "prefix", "suffix", "poll"]),
            TriggerType::Cron => ("cron", "schedule", &["schedule", "timezone", "catch_up"]),
            TriggerType::Event => ("event", "name", &["name"]),
        };
        check_fields(node, name, needed, allowed, faults);
        check_filling(node, trigger.kind, params, faults);
        match trigger.kind {
            TriggerType::S3 => triggers.extend(s3(node, trigger, params, around, faults).map(Trigger::S3)),
            TriggerType::Cron => triggers.extend(cron(node, trigger, faults).map(Trigger::Cron)),
            TriggerType::Event => triggers.extend(app_event(node, trigger, faults).map(Trigger::Event)),
        }
    }
    triggers
}

fn s3(
    node: &Node,
    raw: RawTrigger,
    params: &BTreeMap<String, Param>,
    around: &Surroundings,
    faults: &mut Faults,
) -> Option<S3Trigger> {
    for field in ["bucket", "prefix", "suffix"] {
        let Some(node) = node.get(field) else { continue };
        if node.as_str().is_some_and(dynamic) {
            faults.invalid(node.span, format!("`{field}` cannot hold an expression"), "");
            return None;
        }
    }
    let bucket = raw.bucket?;
    let place = node.nearest(&["bucket"]).span;
    if around.artifacts.as_ref() == Some(&bucket) {
        let hint = "let the uploads go to a bucket of their own";
        let message =
            format!("bucket `{bucket}` holds what afterload itself writes, so that a run would start another");
        faults.invalid(place, message, hint);
    } else if !is_bucket(&bucket) {
        let hint = "expected 3 to 63 lower-case letters, digits, `-` and `.`";
        faults.invalid(place, format!("`{bucket}` is not the name of a bucket"), hint);
    }
    if raw.prefix.as_ref().is_some_and(|prefix| prefix.starts_with('/')) {
        let hint = "keys seldom begin with `/`: `aws s3 cp a.csv s3://uploads/in/` makes the key `in/a.csv`";
        faults.warn(node.nearest(&["prefix"]).span, "`prefix` begins with `/`", hint);
    }
    if raw.poll.is_some_and(|poll| !(SECOND..=DAY).contains(&poll.millis())) {
        faults.invalid(node.nearest(&["poll"]).span, "`poll` must be from 1s to 1d", "");
    }
    let with = with(node);
    let with = match only_file(params) {
        Some(name) if with.is_empty() => Map::from_iter([(name.to_owned(), "${{ event.file }}".into())]),
        _ => with,
    };
    let (prefix, suffix) = (raw.prefix.unwrap_or_default(), raw.suffix.unwrap_or_default());
    Some(S3Trigger { bucket, prefix, suffix, poll_ms: raw.poll.map(afterload_core::units::Duration::millis), with })
}

/// The params as the trigger fills them.
fn with(node: &Node) -> Map<String, serde_json::Value> {
    match node.get("with").map(|with| &with.value) {
        Some(Value::Map(entries)) => entries.iter().map(|(key, value)| (key.text.clone(), value.to_json())).collect(),
        _ => Map::new(),
    }
}

fn cron(node: &Node, raw: RawTrigger, faults: &mut Faults) -> Option<CronTrigger> {
    let schedule = raw.schedule?;
    let timezone = raw.timezone.unwrap_or_else(|| "UTC".into());
    if let Err(fault) = Schedule::parse(&schedule, &timezone) {
        let (place, message, hint) = match fault {
            schedule::Fault::Schedule => {
                let hint = "minute, hour, day, month and weekday, such as `0 6 * * MON`";
                ("schedule", format!("`{schedule}` is not a schedule"), hint)
            }
            schedule::Fault::Zone => {
                ("timezone", format!("`{timezone}` is not a time zone"), "such as `Europe/Paris` or `UTC`")
            }
        };
        faults.invalid(node.nearest(&[place]).span, message, hint);
        return None;
    }
    Some(CronTrigger { schedule, timezone, catch_up: raw.catch_up.unwrap_or_default(), with: with(node) })
}

fn app_event(node: &Node, raw: RawTrigger, faults: &mut Faults) -> Option<EventTrigger> {
    let name = raw.name?;
    if !is_event(&name) {
        let hint = "letters, digits, `.`, `_` and `-`, such as `user.signed_in`; it cannot hold an expression";
        faults.invalid(node.nearest(&["name"]).span, format!("`{name}` is not a name for an event"), hint);
    }
    Some(EventTrigger { name, with: with(node) })
}

/// The param that an s3 trigger without `with` fills.
fn only_file(params: &BTreeMap<String, Param>) -> Option<&str> {
    let mut files = params.iter().filter(|(_, param)| matches!(param.kind, ParamType::File(_)));
    match (files.next(), files.next()) {
        (Some((name, _)), None) => Some(name),
        _ => None,
    }
}

fn mentions_secrets(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => dynamic(text) && expr::mentions_secrets(text),
        serde_json::Value::Array(items) => items.iter().any(mentions_secrets),
        serde_json::Value::Object(fields) => fields.values().any(mentions_secrets),
        _ => false,
    }
}

fn check_fields(node: &Node, name: &str, needed: &str, allowed: &[&str], faults: &mut Faults) {
    if node.get(needed).is_none() {
        faults.invalid(node.span, format!("a trigger of type `{name}` needs `{needed}`"), "");
    }
    let Value::Map(entries) = &node.value else { return };
    for (key, _) in entries {
        let own = ["bucket", "prefix", "suffix", "poll", "schedule", "timezone", "catch_up", "name"]
            .contains(&key.text.as_str());
        if own && !allowed.contains(&key.text.as_str()) {
            faults.invalid(key.span, format!("a trigger of type `{name}` has no `{}`", key.text), "");
        }
    }
}

/// `with` names params and reads `event`; a required param that nothing fills could never start.
fn check_filling(node: &Node, kind: TriggerType, params: &BTreeMap<String, Param>, faults: &mut Faults) {
    let entries = match node.get("with").map(|with| &with.value) {
        Some(Value::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let fields = s3_fields();
    let event = if kind == TriggerType::S3 { EventRoot::Only(&fields) } else { EventRoot::Any };
    let known = Known { event, ..Known::default() };
    for (key, value) in entries {
        if !params.contains_key(&key.text) {
            let hint = choices(&key.text, params.keys().map(String::as_str));
            faults.invalid(key.span, format!("unknown param `{}`", key.text), hint);
        }
        expressions::check_all(value, &known, faults);
        if mentions_secrets(&value.to_json()) {
            let hint = "name the secret in the step that uses it";
            faults.invalid(value.span, "a param cannot hold a secret: params are stored and shown", hint);
        }
    }
    let only_file = only_file(params).filter(|_| kind == TriggerType::S3 && entries.is_empty());
    for (name, _) in params.iter().filter(|(_, param)| param.required) {
        let filled = entries.iter().any(|(key, _)| key.text == *name);
        if !filled && only_file != Some(name) {
            let hint = format!("add `with: {{ {name}: … }}`, or give the param a default");
            faults.invalid(node.span, format!("nothing fills the required param `{name}`"), hint);
        }
    }
}
