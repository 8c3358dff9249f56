//! The schemas of the OpenAPI document.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// Requests and responses have separate schemas: a field with a default is optional in a request and always present in
/// a response.
pub(super) struct SchemaComponents {
    pub request: SchemaGenerator,
    pub response: SchemaGenerator,
}

impl SchemaComponents {
    pub(super) fn new() -> Self {
        let settings = |path: &str| {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = format!("/components/schemas{path}").into();
                settings.meta_schema = None;
            })
        };
        Self {
            request: settings("").for_deserialize().into_generator(),
            response: settings("").for_serialize().into_generator(),
        }
    }

    pub(super) fn finish(mut self) -> Map<String, Value> {
        let mut all = self.response.take_definitions(true);
        for (name, schema) in self.request.take_definitions(true) {
            let known = all.entry(name.clone()).or_insert_with(|| schema.clone());
            debug_assert_eq!(*known, schema, "`{name}` comes in in another shape than it goes out");
        }
        all
    }
}
