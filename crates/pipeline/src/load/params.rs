//! Checks the params: which rules a type has, and that a default fits.

use std::collections::BTreeMap;

use serde_json::Number;

use super::super::expr::check::Fields;
use super::super::expr::dynamic;
use super::super::kind::Surroundings;
use super::super::params::{FileRule, Param, ParamType, coerce};
use super::super::raw::{RawParam, TypeName};
use super::{Faults, is_id, records};
use afterload_spanned_yaml::{self as yaml, Node, Value};

const EVERY: [&str; 4] = ["type", "description", "required", "default"];
pub(super) const FILE_FIELDS: [&str; 9] =
    ["artifact_id", "bucket", "key", "version", "etag", "name", "size", "content_type", "url"];

/// The checked params, and what expressions may name of every param that stands in the file.
pub fn check(
    root: &Node,
    raw: BTreeMap<String, RawParam>,
    around: &Surroundings,
    faults: &mut Faults,
) -> (BTreeMap<String, Param>, BTreeMap<String, Fields>) {
    let mut params = BTreeMap::new();
    let mut fields = BTreeMap::new();
    let Some(Value::Map(entries)) = root.get("params").map(|node| &node.value) else { return (params, fields) };
    let mut raw = raw;
    for (key, node) in entries {
        let name = key.text.as_str();
        if !is_id(name, '_') {
            let hint = "start with a small letter, go on with small letters, digits and `_`, at most 63 characters";
            faults.invalid(key.span, format!("`{name}` is not a name for a param"), hint);
        }
        fields.insert(name.to_owned(), Fields::Any);
        let Some(param) = raw.remove(name) else { continue };
        if node.get("type").is_none_or(|kind| yaml::read::<TypeName>(kind).is_err()) {
            continue;
        }
        fields.insert(name.to_owned(), fields_of(&param));
        if let Some(param) = check_one(node, param, around, faults) {
            params.insert(name.to_owned(), param);
        }
    }
    (params, fields)
}

/// What an expression may name of a value of this type.
fn fields_of(param: &RawParam) -> Fields {
    match param.kind {
        TypeName::File => Fields::Only(FILE_FIELDS.map(ToOwned::to_owned).to_vec()),
        TypeName::Record => Fields::Row(records::rule(param).field_names().map(ToOwned::to_owned).to_vec()),
        TypeName::Object | TypeName::List => Fields::Any,
        _ => Fields::Only(Vec::new()),
    }
}

fn check_one(node: &Node, mut raw: RawParam, around: &Surroundings, faults: &mut Faults) -> Option<Param> {
    let (description, default) = (raw.description.take(), raw.default.take());
    let required = raw.required.unwrap_or(default.is_none());
    if raw.required == Some(true) && default.is_some() {
        let hint = "leave one of them out";
        faults.invalid(place(node, "required"), "a required param has no use for a default", hint);
    }
    let kind = kind(node, raw, around, faults)?;
    let default = match default {
        None | Some(serde_json::Value::Null) => None,
        Some(value) => check_default(node, &kind, value, faults),
    };
    Some(Param { description, kind, required, default })
}

fn check_default(
    node: &Node,
    kind: &ParamType,
    value: serde_json::Value,
    faults: &mut Faults,
) -> Option<serde_json::Value> {
    let span = place(node, "default");
    if value.as_str().is_some_and(dynamic) {
        faults.invalid(span, "a default cannot hold an expression", "");
        return None;
    }
    // An untyped `1.10` stays as it was written where text is wanted.
    let written = node.get("default").and_then(|node| node.written.as_deref());
    let value = match (kind, written) {
        (ParamType::String { .. } | ParamType::Enum { .. }, Some(text)) => text.into(),
        _ => value,
    };
    match coerce(kind, value) {
        Ok(value) => Some(value),
        Err(fault) => {
            faults.invalid(span, format!("the default does not fit: {}", fault.message), "");
            None
        }
    }
}

/// The checked type; none if it cannot be made.
fn kind(node: &Node, raw: RawParam, around: &Surroundings, faults: &mut Faults) -> Option<ParamType> {
    let allowed: &[&str] = match raw.kind {
        TypeName::String => &["min_length", "max_length", "pattern"],
        TypeName::Integer | TypeName::Number => &["min", "max"],
        TypeName::Enum => &["values"],
        TypeName::List => &["items"],
        TypeName::File => &["accept", "max_size"],
        TypeName::Record => &["connection", "table", "key", "missing"],
        _ => &[],
    };
    only_fields(node, allowed, faults);
    let (min, max) = (raw.min.as_ref().and_then(Number::as_f64), raw.max.as_ref().and_then(Number::as_f64));
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        faults.invalid(place(node, "min"), "`min` is more than `max`", "");
    }
    let kind = match raw.kind {
        TypeName::String => {
            check_text(node, raw.min_length, raw.max_length, raw.pattern.as_deref(), faults);
            ParamType::String { min_length: raw.min_length, max_length: raw.max_length, pattern: raw.pattern }
        }
        TypeName::Integer => ParamType::Integer { min, max },
        TypeName::Number => ParamType::Number { min, max },
        TypeName::Boolean => ParamType::Boolean,
        TypeName::Date => ParamType::Date,
        TypeName::Datetime => ParamType::Datetime,
        TypeName::Email => ParamType::Email,
        TypeName::Url => ParamType::Url,
        TypeName::Ip => ParamType::Ip,
        TypeName::Enum => {
            let values = raw.values.unwrap_or_default();
            if values.is_empty() {
                // What is there and could not be read has been told.
                if node.get("values").is_some_and(|node| !matches!(&node.value, Value::Seq(items) if items.is_empty()))
                {
                    return None;
                }
                faults.invalid(place(node, "values"), "an enum needs `values`", "write `values: [small, large]`");
                return None;
            }
            ParamType::Enum { values }
        }
        TypeName::List => {
            let items = match (raw.items, node.get("items")) {
                (Some(item), Some(node)) => Some(Box::new(kind_of_item(node, item.into(), around, faults)?)),
                _ => None,
            };
            ParamType::List { items }
        }
        TypeName::Object => ParamType::Object,
        TypeName::File => {
            check_accept(node, faults);
            let accept = raw.accept.unwrap_or_default().iter().map(|media| media.to_ascii_lowercase()).collect();
            ParamType::File(FileRule { accept, max_size: raw.max_size.map(|size| size.0) })
        }
        TypeName::Record => ParamType::Record(records::check(node, &raw, around, faults)?),
    };
    Some(kind)
}

fn kind_of_item(node: &Node, item: RawParam, around: &Surroundings, faults: &mut Faults) -> Option<ParamType> {
    if item.kind == TypeName::List {
        faults.invalid(place(node, "type"), "a list of lists is not allowed", "use a list of objects");
        return None;
    }
    if item.kind == TypeName::Record {
        faults.invalid(place(node, "type"), "a list of records is not allowed", "use a list of their keys");
        return None;
    }
    kind(node, item, around, faults)
}

fn check_text(node: &Node, min: Option<usize>, max: Option<usize>, pattern: Option<&str>, faults: &mut Faults) {
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        faults.invalid(place(node, "min_length"), "`min_length` is more than `max_length`", "");
    }
    if let Some(Err(error)) = pattern.map(regex::Regex::new) {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        faults.invalid(place(node, "pattern"), format!("not a regular expression: {why}"), "");
    }
}

fn check_accept(node: &Node, faults: &mut Faults) {
    for media in super::items(node.get("accept")) {
        let Some(text) = media.as_str() else { continue };
        let fits = text.split_once('/').is_some_and(|(family, kind)| !family.is_empty() && !kind.is_empty());
        if !fits {
            faults.invalid(media.span, format!("`{text}` is not a media type"), "such as `text/csv` or `image/*`");
        }
    }
}

/// Fields of other types are slips that would silently do nothing.
fn only_fields(node: &Node, allowed: &[&str], faults: &mut Faults) {
    let Value::Map(entries) = &node.value else { return };
    let known = ["min_length", "max_length", "pattern", "min", "max", "values", "items", "accept", "max_size"];
    let kind = node.get("type").and_then(Node::as_str).unwrap_or_default();
    for (key, _) in entries {
        let name = key.text.as_str();
        let foreign = known.contains(&name) || ["connection", "table", "key", "missing"].contains(&name);
        if foreign && !allowed.contains(&name) && !EVERY.contains(&name) {
            let hint = match allowed {
                [] => String::new(),
                _ => {
                    format!("it has {}", allowed.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
                }
            };
            faults.invalid(key.span, format!("a param of type `{kind}` has no `{name}`"), hint);
        }
    }
}

fn place(node: &Node, field: &str) -> afterload_spanned_yaml::Span {
    node.nearest(&[field]).span
}
