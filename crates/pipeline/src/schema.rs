//! Builds one JSON Schema of a pipeline file for editors: the types of the language, with the fields of each step kind
//! bound to its `uses`.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::ast::PipelineAst;
use super::step_kind::{StepCatalog, StepKind};

const DEFS_KEY: &str = "$defs";

/// Returns the JSON Schema of a pipeline file.
pub fn pipeline_schema(kinds: &StepCatalog) -> Value {
    let mut root = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<PipelineAst>().to_value();
    let mut rules = Vec::new();
    let mut hoisted = Map::new();
    for kind in &kinds.0 {
        let with = kind_input_schema(kind.as_ref(), &mut hoisted);
        let needed = with.get("required").and_then(Value::as_array).is_some_and(|required| !required.is_empty());
        let mut then = json!({ "properties": { "with": with } });
        if needed {
            then["required"] = json!(["with"]);
        }
        rules.push(json!({
            "if": { "properties": { "uses": { "const": kind.name() } }, "required": ["uses"] },
            "then": then,
        }));
    }
    if let Some(definitions) = root.get_mut(DEFS_KEY).and_then(Value::as_object_mut) {
        if let Some(step) = definitions.get_mut("Step").and_then(Value::as_object_mut) {
            constrain_step(step, rules, kinds);
        }
        definitions.extend(hoisted);
    }
    root
}

fn constrain_step(step: &mut Map<String, Value>, rules: Vec<Value>, kinds: &StepCatalog) {
    let names: Vec<&str> = kinds.0.iter().map(|kind| kind.name()).collect();
    if let Some(uses) = step.get_mut("properties").and_then(|fields| fields.get_mut("uses")) {
        uses["enum"] = json!(names);
    }
    if !rules.is_empty() {
        step.insert("allOf".into(), rules.into());
    }
}

/// Returns the schema of a kind's `with:`. Its definitions move to the root under unique names.
fn kind_input_schema(kind: &dyn StepKind, hoisted: &mut Map<String, Value>) -> Value {
    let mut schema = kind.input_schema().clone().to_value();
    let definitions = schema.as_object_mut().and_then(|schema| {
        schema.remove("$schema");
        schema.remove(DEFS_KEY)
    });
    rewrite_refs(&mut schema, kind.name());
    if let Some(Value::Object(definitions)) = definitions {
        for (name, mut definition) in definitions {
            rewrite_refs(&mut definition, kind.name());
            hoisted.insert(format!("{}.{name}", kind.name()), definition);
        }
    }
    schema
}

fn rewrite_refs(schema: &mut Value, kind: &str) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref")
                && let Some(name) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/$defs/{kind}.{name}");
            }
            fields.values_mut().for_each(|field| rewrite_refs(field, kind));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite_refs(item, kind)),
        _ => {}
    }
}
