//! Compiles the params: which rules a type allows, and whether the default is valid.

use std::collections::BTreeMap;

use super::super::ast::{ParamAst, ParamTypeName};
use super::super::expr::check::FieldSet;
use super::super::expr::has_expression;
use super::super::params::{FileRule, Param, ParamType, TextPattern, coerce_value};
use super::super::step_kind::ValidationContext;
use super::{Diagnostics, is_identifier, record_params};
use afterload_spanned_yaml::{self as yaml, YamlNode, YamlValue};

const COMMON_PARAM_FIELDS: [&str; 4] = ["type", "description", "required", "default"];
pub(super) const FILE_PARAM_FIELDS: [&str; 9] =
    ["artifact_id", "bucket", "key", "version", "etag", "name", "size", "content_type", "url"];

/// Returns the compiled params, and the fields that expressions can use of every param of the file.
pub fn compile_params(
    root: &YamlNode,
    raw: BTreeMap<String, ParamAst>,
    around: &ValidationContext,
    faults: &mut Diagnostics,
) -> (BTreeMap<String, Param>, BTreeMap<String, FieldSet>) {
    let mut params = BTreeMap::new();
    let mut fields = BTreeMap::new();
    let Some(YamlValue::Map(entries)) = root.get("params").map(|node| &node.value) else { return (params, fields) };
    let mut raw = raw;
    for (key, node) in entries {
        let name = key.text.as_str();
        if !is_identifier(name, '_') {
            let hint = "start with a small letter, go on with small letters, digits and `_`, at most 63 characters";
            faults.report_invalid(key.span, format!("`{name}` is not a name for a param"), hint);
        }
        fields.insert(name.to_owned(), FieldSet::Any);
        let Some(param) = raw.remove(name) else { continue };
        if node.get("type").is_none_or(|kind| yaml::read::<ParamTypeName>(kind).is_err()) {
            continue;
        }
        fields.insert(name.to_owned(), fields_for_type(&param));
        if let Some(param) = compile_param(node, param, around, faults) {
            params.insert(name.to_owned(), param);
        }
    }
    (params, fields)
}

/// Returns the fields that expressions can use of a value of this type.
fn fields_for_type(param: &ParamAst) -> FieldSet {
    match param.kind {
        ParamTypeName::File => FieldSet::Only(FILE_PARAM_FIELDS.map(ToOwned::to_owned).to_vec()),
        ParamTypeName::Record => {
            FieldSet::Row(record_params::record_rule(param).field_names().map(ToOwned::to_owned).to_vec())
        }
        ParamTypeName::Object | ParamTypeName::List => FieldSet::Any,
        _ => FieldSet::Only(Vec::new()),
    }
}

fn compile_param(
    node: &YamlNode,
    mut raw: ParamAst,
    around: &ValidationContext,
    faults: &mut Diagnostics,
) -> Option<Param> {
    let (description, default) = (raw.description.take(), raw.default.take());
    let required = raw.required.unwrap_or(default.is_none());
    if raw.required == Some(true) && default.is_some() {
        let hint = "leave one of them out";
        faults.report_invalid(field_span(node, "required"), "a required param has no use for a default", hint);
    }
    let kind = compile_param_type(node, raw, around, faults)?;
    let default = match default {
        None | Some(serde_json::Value::Null) => None,
        Some(value) => check_default(node, &kind, value, faults),
    };
    Some(Param { description, kind, required, default })
}

fn check_default(
    node: &YamlNode,
    kind: &ParamType,
    value: serde_json::Value,
    faults: &mut Diagnostics,
) -> Option<serde_json::Value> {
    let span = field_span(node, "default");
    if value.as_str().is_some_and(has_expression) {
        faults.report_invalid(span, "a default cannot hold an expression", "");
        return None;
    }
    // Where the param is text, an untyped `1.10` keeps its source text.
    let written = node.get("default").and_then(|node| node.source_text.as_deref());
    let value = match (kind, written) {
        (ParamType::String { .. } | ParamType::Enum { .. }, Some(text)) => text.into(),
        _ => value,
    };
    match coerce_value(kind, value) {
        Ok(value) => Some(value),
        Err(fault) => {
            faults.report_invalid(span, format!("the default does not fit: {}", fault.message), "");
            None
        }
    }
}

/// Returns `None` if the type cannot be built.
fn compile_param_type(
    node: &YamlNode,
    raw: ParamAst,
    around: &ValidationContext,
    faults: &mut Diagnostics,
) -> Option<ParamType> {
    let allowed: &[&str] = match raw.kind {
        ParamTypeName::String => &["min_length", "max_length", "pattern"],
        ParamTypeName::Integer | ParamTypeName::Number => &["min", "max"],
        ParamTypeName::Enum => &["values"],
        ParamTypeName::List => &["items", "max_items"],
        ParamTypeName::File => &["accept", "max_size"],
        ParamTypeName::Record => &["connection", "table", "key", "missing"],
        _ => &[],
    };
    reject_foreign_fields(node, allowed, faults);
    let (min, max) = (raw.min.clone(), raw.max.clone());
    if min.as_ref().zip(max.as_ref()).is_some_and(|(min, max)| min.compare_digits(max.as_digits()).is_gt()) {
        faults.report_invalid(field_span(node, "min"), "`min` is more than `max`", "");
    }
    let kind = match raw.kind {
        ParamTypeName::String => {
            let pattern = compile_text_rules(node, raw.min_length, raw.max_length, raw.pattern.as_deref(), faults);
            ParamType::String { min_length: raw.min_length, max_length: raw.max_length, pattern }
        }
        ParamTypeName::Integer => ParamType::Integer { min, max },
        ParamTypeName::Number => ParamType::Number { min, max },
        ParamTypeName::Boolean => ParamType::Boolean,
        ParamTypeName::Date => ParamType::Date,
        ParamTypeName::Datetime => ParamType::Datetime,
        ParamTypeName::Email => ParamType::Email { smtputf8: around.smtputf8 },
        ParamTypeName::Url => ParamType::Url,
        ParamTypeName::Ip => ParamType::Ip,
        ParamTypeName::Enum => {
            let values = raw.values.unwrap_or_default();
            if values.is_empty() {
                // An unreadable field is already reported.
                if node
                    .get("values")
                    .is_some_and(|node| !matches!(&node.value, YamlValue::Seq(items) if items.is_empty()))
                {
                    return None;
                }
                faults.report_invalid(
                    field_span(node, "values"),
                    "an enum needs `values`",
                    "write `values: [small, large]`",
                );
                return None;
            }
            ParamType::Enum { values }
        }
        ParamTypeName::List => {
            let items = match (raw.items, node.get("items")) {
                (Some(item), Some(node)) => Some(Box::new(compile_item_type(node, item.into(), around, faults)?)),
                _ => None,
            };
            ParamType::List { items, max_items: raw.max_items }
        }
        ParamTypeName::Object => ParamType::Object,
        ParamTypeName::File => {
            check_accept(node, faults);
            let accept = raw.accept.unwrap_or_default().iter().map(|media| media.to_ascii_lowercase()).collect();
            ParamType::File(FileRule { accept, max_size: raw.max_size.map(|size| size.0) })
        }
        ParamTypeName::Record => ParamType::Record(record_params::compile_record_rule(node, &raw, around, faults)?),
    };
    Some(kind)
}

fn compile_item_type(
    node: &YamlNode,
    item: ParamAst,
    around: &ValidationContext,
    faults: &mut Diagnostics,
) -> Option<ParamType> {
    if item.kind == ParamTypeName::List {
        faults.report_invalid(field_span(node, "type"), "a list of lists is not allowed", "use a list of objects");
        return None;
    }
    if item.kind == ParamTypeName::Record {
        faults.report_invalid(field_span(node, "type"), "a list of records is not allowed", "use a list of their keys");
        return None;
    }
    compile_param_type(node, item, around, faults)
}

fn compile_text_rules(
    node: &YamlNode,
    min: Option<usize>,
    max: Option<usize>,
    pattern: Option<&str>,
    faults: &mut Diagnostics,
) -> Option<TextPattern> {
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        faults.report_invalid(field_span(node, "min_length"), "`min_length` is more than `max_length`", "");
    }
    match pattern.map(TextPattern::compile)? {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            faults.report_invalid(field_span(node, "pattern"), format!("not a regular expression: {why}"), "");
            None
        }
    }
}

fn check_accept(node: &YamlNode, faults: &mut Diagnostics) {
    for media in super::list_items(node.get("accept")) {
        let Some(text) = media.as_str() else { continue };
        let fits = text.split_once('/').is_some_and(|(family, kind)| !family.is_empty() && !kind.is_empty());
        if !fits {
            faults.report_invalid(
                media.span,
                format!("`{text}` is not a media type"),
                "such as `text/csv` or `image/*`",
            );
        }
    }
}

/// Rejects fields of other types, because they would have no effect.
fn reject_foreign_fields(node: &YamlNode, allowed: &[&str], faults: &mut Diagnostics) {
    let YamlValue::Map(entries) = &node.value else { return };
    let known =
        ["min_length", "max_length", "pattern", "min", "max", "values", "items", "max_items", "accept", "max_size"];
    let kind = node.get("type").and_then(YamlNode::as_str).unwrap_or_default();
    for (key, _) in entries {
        let name = key.text.as_str();
        let foreign = known.contains(&name) || ["connection", "table", "key", "missing"].contains(&name);
        if foreign && !allowed.contains(&name) && !COMMON_PARAM_FIELDS.contains(&name) {
            let hint = match allowed {
                [] => String::new(),
                _ => {
                    format!("it has {}", allowed.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
                }
            };
            faults.report_invalid(key.span, format!("a param of type `{kind}` has no `{name}`"), hint);
        }
    }
}

fn field_span(node: &YamlNode, field: &str) -> afterload_spanned_yaml::SourceSpan {
    node.closest_node(&[field]).span
}
