//! Converts a `with:` block to JSON for the plan. Where the kind expects text, an untyped `1.10` is stored as written,
//! because JSON would turn it into the number 1.1.

use serde_json::{Map, Value as Json};

use afterload_spanned_yaml::{YamlNode, YamlValue};

/// Limits how far `$ref` is followed, because a schema may refer to itself.
const MAX_REF_DEPTH: usize = 64;

/// Returns the block as JSON. A scalar is stored as text where `schema` (the root of a JSON Schema) allows only text.
pub fn normalize_with(node: &YamlNode, schema: &Json) -> Json {
    WithNormalizer { root: schema }.normalize_node(node, vec![schema])
}

pub(super) struct WithNormalizer<'a> {
    pub(super) root: &'a Json,
}

impl<'a> WithNormalizer<'a> {
    /// `schemas` are the alternatives for this node.
    fn normalize_node(&self, node: &YamlNode, schemas: Vec<&'a Json>) -> Json {
        let mut all = Vec::new();
        schemas.into_iter().for_each(|schema| self.expand_schema(schema, 0, &mut all));
        match &node.value {
            YamlValue::Bool(_) | YamlValue::Int(_) | YamlValue::Float(_) => match &node.source_text {
                Some(text) if accepts_only_text(&all) => text.as_ref().into(),
                _ => node.to_json(),
            },
            YamlValue::Seq(items) => {
                let inner: Vec<&Json> = all.iter().filter_map(|schema| schema.get("items")).collect();
                items.iter().map(|item| self.normalize_node(item, inner.clone())).collect()
            }
            YamlValue::Map(entries) => {
                let field = |name: &str| -> Vec<&'a Json> {
                    all.iter().filter_map(|schema| field_schema(schema, name)).collect()
                };
                let fields =
                    entries.iter().map(|(key, node)| (key.text.clone(), self.normalize_node(node, field(&key.text))));
                Json::Object(fields.collect::<Map<_, _>>())
            }
            _ => node.to_json(),
        }
    }

    /// Collects a schema, the schema it refers to, and its alternatives.
    pub(super) fn expand_schema(&self, schema: &'a Json, depth: usize, all: &mut Vec<&'a Json>) {
        if depth > MAX_REF_DEPTH {
            return;
        }
        all.push(schema);
        let target = schema.get("$ref").and_then(Json::as_str).and_then(|target| target.strip_prefix('#'));
        if let Some(target) = target.and_then(|pointer| self.root.pointer(pointer)) {
            self.expand_schema(target, depth + 1, all);
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            let choices = schema.get(choice).and_then(Json::as_array).into_iter().flatten();
            choices.for_each(|choice| self.expand_schema(choice, depth + 1, all));
        }
    }
}

pub(super) fn field_schema<'a>(schema: &'a Json, name: &str) -> Option<&'a Json> {
    let own = schema.get("properties").and_then(|fields| fields.get(name));
    own.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object()))
}

/// True if the schemas allow text (or an enum of words), but neither numbers nor booleans.
fn accepts_only_text(schemas: &[&Json]) -> bool {
    let mut types = Vec::new();
    for schema in schemas {
        match schema.get("type") {
            Some(Json::String(one)) => types.push(one.as_str()),
            Some(Json::Array(several)) => types.extend(several.iter().filter_map(Json::as_str)),
            _ if schema.get("enum").is_some() || schema.get("const").is_some() => types.push("string"),
            _ => {}
        }
    }
    types.contains(&"string") && !types.iter().any(|name| ["number", "integer", "boolean"].contains(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;
    use crate::Templated;
    use afterload_core::units::ByteSize;
    use afterload_spanned_yaml as yaml;

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    struct Sample {
        version: String,
        optional: Option<String>,
        dynamic: Templated<String>,
        size: ByteSize,
        list: Vec<Inner>,
        map: BTreeMap<String, String>,
        number: Templated<f64>,
        any: serde_json::Value,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    struct Inner {
        text: String,
        flag: bool,
    }

    #[test]
    fn untyped_scalars_stay_text_in_the_plan() {
        let text = "{ version: 1.10, optional: true, dynamic: 0x1f, size: 1024, list: [{ text: 1e3, flag: true }], \
                    map: { a: 2.0 }, number: 1.50, any: 1.0 }";
        let node = yaml::parse(text).expect("valid");
        let direct: Sample = yaml::read(&node).expect("read from the file");
        let settled = normalize_with(&node, schemars::schema_for!(Sample).as_value());
        assert_eq!(settled["any"], 1.0);
        let stored: Sample = serde_json::from_value(settled).expect("read from the plan");
        assert_eq!((stored.version.as_str(), stored.list[0].text.as_str()), ("1.10", "1e3"));
        assert_eq!(stored, direct);
    }
}
