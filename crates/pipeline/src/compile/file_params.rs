//! Rejects what can be no file where a step kind expects one: a param of another type, or a file that is written out.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::super::expr::{has_expression, sole_expression};
use super::super::params::{Param, ParamType};
use super::Diagnostics;
use super::normalize::{WithNormalizer, field_schema};
use afterload_spanned_yaml::{YamlNode, YamlValue};

/// The reference to the file type in the input schema of a kind.
const FILE_SCHEMA_REF: &str = "#/$defs/File";

/// Reports each field of `with:` that expects a file but holds only a param of another type, or a file that is written
/// out. No run may read the latter.
pub fn check_file_params(with: &YamlNode, schema: &Json, params: &BTreeMap<String, Param>, faults: &mut Diagnostics) {
    check_file_node(with, &WithNormalizer { root: schema }, vec![schema], params, faults);
}

fn check_file_node<'a>(
    node: &YamlNode,
    settler: &WithNormalizer<'a>,
    schemas: Vec<&'a Json>,
    params: &BTreeMap<String, Param>,
    faults: &mut Diagnostics,
) {
    let mut all = Vec::new();
    schemas.into_iter().for_each(|schema| settler.expand_schema(schema, 0, &mut all));
    let expects_file = all.iter().any(|schema| schema.get("$ref").is_some_and(|target| target == FILE_SCHEMA_REF));
    match &node.value {
        YamlValue::Map(_) if expects_file && !contains_expression(node) => {
            let hint = "declare a param of type `file` with the file as its `default`, such as `s3://bucket/key`";
            faults.report_invalid(node.span, "a file cannot be written out here", hint);
        }
        YamlValue::Str(text) if expects_file => {
            let Some(name) = sole_expression(text).and_then(|range| text[range].trim().strip_prefix("params.")) else {
                return;
            };
            let Some(param) = params.get(name) else { return };
            if !matches!(param.kind, ParamType::File(_) | ParamType::Object) {
                let kind = serde_json::to_value(&param.kind).unwrap_or_default();
                let kind = kind["type"].as_str().unwrap_or_default();
                let hint = "declare the param with `type: file`, or name another one";
                faults.report_invalid(
                    node.span,
                    format!("expected a file, and param `{name}` has the type `{kind}`"),
                    hint,
                );
            }
        }
        YamlValue::Seq(items) => {
            let inner: Vec<&Json> = all.iter().filter_map(|schema| schema.get("items")).collect();
            items.iter().for_each(|item| check_file_node(item, settler, inner.clone(), params, faults));
        }
        YamlValue::Map(entries) => {
            for (key, value) in entries {
                let inner = all.iter().filter_map(|schema| field_schema(schema, &key.text)).collect();
                check_file_node(value, settler, inner, params, faults);
            }
        }
        _ => {}
    }
}

fn contains_expression(node: &YamlNode) -> bool {
    match &node.value {
        YamlValue::Str(text) => has_expression(text),
        YamlValue::Seq(items) => items.iter().any(contains_expression),
        YamlValue::Map(entries) => entries.iter().any(|(_, value)| contains_expression(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;

    use super::*;
    use crate::Templated;
    use crate::compile::params_of;
    use afterload_core::file::File;
    use afterload_spanned_yaml as yaml;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of interest")]
    struct Sample {
        source: Templated<File>,
        links: BTreeMap<String, Templated<Option<File>>>,
        subject: Templated<String>,
    }

    #[test]
    fn file_field_rejects_param_of_other_type() {
        let params = params_of("params: { email: { type: email }, file: { type: file }, any: { type: object } }");
        let text = "source: '${{ params.email }}'\nsubject: '${{ params.email }}'\n\
                    links:\n  a: '${{ params.email }}'\n  b: '${{ params.file }}'\n  c: '${{ params.any }}'\n  \
                    d: '${{ params.any.file }}'\n  e: { bucket: b, key: k, name: n }\n  \
                    f: { bucket: b, key: '${{ params.any.key }}' }\n";
        let mut faults = Diagnostics { problems: Vec::new(), warnings: Vec::new() };
        let schema = schemars::schema_for!(Sample);
        check_file_params(&yaml::parse(text).expect("valid"), schema.as_value(), &params, &mut faults);
        let places: Vec<_> = faults.problems.iter().map(|problem| (problem.span.line, problem.span.col)).collect();
        assert_eq!(places, [(1, 9), (4, 6), (8, 6)]);
        assert_eq!(faults.problems[2].message, "a file cannot be written out here");
        assert_eq!(faults.problems[0].message, "expected a file, and param `email` has the type `email`");
    }
}
