//! The form that starts a run, made from the params of a pipeline.

use serde_json::{Map, Value};

use afterload_core::exact_decimal::ExactDecimal;
use afterload_core::units::ByteSize;
use afterload_engine::registry::PipelineSummary;
use afterload_pipeline::params::value_from_form;
use afterload_pipeline::{Param, ParamType};

/// Longer texts get more than one line.
const MAX_LINE_BYTES: usize = 120;

/// A field of the form.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ParamField {
    pub name: String,
    /// The type in the language of pipelines.
    pub kind: &'static str,
    pub description: Option<String>,
    /// What the value must be, beyond its type.
    pub rule: Option<String>,
    pub is_required: bool,
    /// The text in the field.
    pub value: String,
    pub control: Control,
    /// The media types of a file.
    pub accept: String,
    pub takes_many: bool,
    /// The choices of a list of words, each with whether it is chosen.
    pub choices: Vec<(String, bool)>,
}

/// How a value is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Control {
    #[default]
    Line,
    Lines,
    Choice,
    File,
}

impl ParamField {
    pub(crate) fn is_file(&self) -> bool {
        self.control == Control::File
    }

    pub(crate) fn is_choice(&self) -> bool {
        self.control == Control::Choice
    }

    pub(crate) fn is_lines(&self) -> bool {
        self.control == Control::Lines
    }
}

/// The fields for a new run.
pub(crate) fn new_run_fields(pipeline: &PipelineSummary) -> Vec<ParamField> {
    let field = |(name, param): (&String, &Param)| param_field(name, param, param.default.as_ref());
    pipeline.declared.iter().map(field).collect()
}

/// The fields to run again, filled in from an earlier run. Files stay those of the earlier run.
pub(crate) fn again_fields(pipeline: &PipelineSummary, params: &Value) -> Vec<ParamField> {
    let fields = pipeline.declared.iter().map(|(name, param)| param_field(name, param, params.get(name)));
    fields.filter(|field| !field.is_file()).collect()
}

/// The params that a filled-in form changes. What was left as it was is not sent, so that it keeps its exact value.
pub(crate) fn changed_params(
    pipeline: &PipelineSummary,
    params: &Value,
    form: &[(String, String)],
) -> Map<String, Value> {
    let mut changes = Map::new();
    for field in again_fields(pipeline, params) {
        let Some((_, text)) = form.iter().find(|(name, _)| *name == field.name) else { continue };
        let text = with_plain_line_ends(text);
        let is_same = text == with_plain_line_ends(&field.value);
        let Some(param) = pipeline.declared.get(&field.name).filter(|_| !is_same) else { continue };
        changes.insert(field.name, value_from_form(param, text).unwrap_or_default());
    }
    changes
}

fn param_field(name: &str, param: &Param, value: Option<&Value>) -> ParamField {
    let mut field = ParamField {
        name: name.to_owned(),
        description: param.description.clone(),
        is_required: param.required,
        value: value.map(field_text).unwrap_or_default(),
        ..ParamField::default()
    };
    let bounds = |min: &Option<ExactDecimal>, max: &Option<ExactDecimal>| match (min, max) {
        (Some(min), Some(max)) => Some(format!("from {min} to {max}")),
        (Some(min), None) => Some(format!("at least {min}")),
        (None, Some(max)) => Some(format!("at most {max}")),
        (None, None) => None,
    };
    match &param.kind {
        ParamType::String { .. } => {
            field.kind = "text";
            // A field of one line would lose the ends of lines.
            if field.value.contains(['\n', '\r']) || field.value.len() > MAX_LINE_BYTES {
                field.control = Control::Lines;
            }
        }
        ParamType::Integer { min, max } => (field.kind, field.rule) = ("whole number", bounds(min, max)),
        ParamType::Number { min, max } => (field.kind, field.rule) = ("number", bounds(min, max)),
        ParamType::Boolean => {
            field.kind = "true or false";
            set_choices(&mut field, &["true".to_owned(), "false".to_owned()]);
        }
        ParamType::Date => (field.kind, field.rule) = ("day", Some("such as 2030-01-31".into())),
        ParamType::Datetime => (field.kind, field.rule) = ("time", Some("such as 2030-01-31T08:00:00Z".into())),
        ParamType::Email { .. } => field.kind = "e-mail address",
        ParamType::Url => (field.kind, field.rule) = ("address", Some("starts with https:// or http://".into())),
        ParamType::Ip => field.kind = "IP address",
        ParamType::Enum { values } => {
            field.kind = "choice";
            set_choices(&mut field, values);
        }
        ParamType::List { items, .. } => match items.as_deref() {
            Some(ParamType::File(rule)) => {
                set_files(&mut field, &rule.accept, rule.max_size);
                field.takes_many = true;
            }
            _ => {
                (field.kind, field.rule, field.control) =
                    ("list", Some(r#"JSON, such as ["a", "b"]"#.into()), Control::Lines);
            }
        },
        ParamType::Object => {
            (field.kind, field.rule, field.control) = ("map", Some(r#"JSON, such as {"a": 1}"#.into()), Control::Lines);
        }
        ParamType::File(rule) => set_files(&mut field, &rule.accept, rule.max_size),
        ParamType::Record(_) => (field.kind, field.rule) = ("row", Some("its key".into())),
    }
    field
}

fn set_choices(field: &mut ParamField, choices: &[String]) {
    field.control = Control::Choice;
    field.choices = choices.iter().map(|choice| (choice.clone(), *choice == field.value)).collect();
}

fn set_files(field: &mut ParamField, accept: &[String], max_size: Option<u64>) {
    (field.kind, field.control, field.value) = ("file", Control::File, String::new());
    field.accept = accept.join(",");
    field.rule = max_size.map(|most| format!("at most {}", ByteSize(most)));
}

/// Browsers send every end of a line as CR and LF.
fn with_plain_line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The value as the text of a field.
fn field_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn pipeline(params: Value) -> PipelineSummary {
        let declared: BTreeMap<String, Param> = serde_json::from_value(params).unwrap();
        PipelineSummary { name: "a".into(), declared, ..PipelineSummary::default() }
    }

    fn param(kind: Value) -> Value {
        let mut param = json!({ "description": null, "required": true, "default": null });
        param.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        param
    }

    #[test]
    fn every_type_has_its_field() {
        let pipeline = pipeline(json!({
            "choice": param(json!({ "type": "enum", "values": ["a", "b"], "default": "b", "required": false })),
            "count": param(json!({ "type": "integer", "min": 1.0, "max": 5.0 })),
            "file": param(json!({ "type": "file", "accept": ["text/csv", "image/*"], "max_size": 1000 })),
            "names": param(json!({ "type": "list" })),
        }));
        let fields = new_run_fields(&pipeline);
        assert_eq!(fields[0].choices, [("a".to_owned(), false), ("b".to_owned(), true)]);
        assert_eq!((fields[1].kind, fields[1].rule.as_deref()), ("whole number", Some("from 1 to 5")));
        assert_eq!((fields[2].control, fields[2].accept.as_str()), (Control::File, "text/csv,image/*"));
        assert!(fields[3].is_lines());
    }

    #[test]
    fn only_changed_fields_are_sent_again() {
        let pipeline = pipeline(json!({
            "count": param(json!({ "type": "integer" })),
            "names": param(json!({ "type": "list" })),
            "note": param(json!({ "type": "string" })),
            "file": param(json!({ "type": "file", "accept": [] })),
        }));
        let params = json!({ "count": 3, "names": ["a"], "note": "two\nlines", "file": { "key": "x" } });
        assert_eq!(again_fields(&pipeline, &params).len(), 3, "files stay as they are");
        let form = |fields: &[(&str, &str)]| -> Vec<(String, String)> {
            fields.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        assert!(again_fields(&pipeline, &params)[2].is_lines(), "its lines are kept");
        let same = form(&[("count", "3"), ("names", "[\"a\"]"), ("note", "two\r\nlines")]);
        assert!(changed_params(&pipeline, &params, &same).is_empty());
        let other = form(&[("count", "4"), ("names", "[\"a\", \"b\"]"), ("other", "x"), ("file", "s3://a/b")]);
        let changes = changed_params(&pipeline, &params, &other);
        assert_eq!(Value::Object(changes), json!({ "count": "4", "names": ["a", "b"] }));
    }
}
