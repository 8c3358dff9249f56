//! Routes with their descriptions: each entry adds a route to the router and an operation to the OpenAPI document, so
//! that neither exists without the other.

use std::collections::BTreeMap;

use axum::Router;
use axum::http::Method;
use axum::routing::MethodRouter;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::ApiState;
use super::problem::ProblemBody;
use super::schema_components::SchemaComponents;
use crate::codes;
use afterload_core::error::ErrorCode;
use afterload_egress::HOPS_HEADER;

/// The description of the service.
const DESCRIPTION: &str =
    "Everything that happens after the upload: YAML pipelines compiled into chains of durable jobs";

type SchemaFn = fn(&mut SchemaGenerator) -> Schema;

fn component_schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn inline_schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// Which callers an operation accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AccessRule {
    Public,
    Key,
    KeyOrToken,
    KeyOrSignature,
    KeyUnlessLoopback,
}

/// A successful response: its status, its meaning, and the media type and schema of its body.
struct ResponseSpec(u16, &'static str, Option<(&'static str, SchemaFn)>);

pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    access: AccessRule,
    query: Option<SchemaFn>,
    headers: Vec<(&'static str, &'static str, Value)>,
    path_pattern: Option<&'static str>,
    bodies: Vec<(&'static str, SchemaFn)>,
    needs_body: bool,
    responses: Vec<ResponseSpec>,
    error_codes: BTreeMap<&'static str, ErrorCode>,
}

impl Operation {
    /// An operation with an id for programs and a summary for people.
    pub(super) fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            access: AccessRule::Public,
            query: None,
            headers: Vec::new(),
            path_pattern: None,
            bodies: Vec::new(),
            needs_body: false,
            responses: Vec::new(),
            error_codes: BTreeMap::new(),
        }
        .with_errors(&[codes::INTERNAL_ERROR, codes::TEXT_INVALID])
    }

    pub(super) fn require_key(mut self) -> Self {
        self.access = AccessRule::Key;
        self.with_errors(&[codes::KEY_MISSING, codes::KEY_INVALID, codes::SCOPE_MISSING, codes::TOO_MANY_ATTEMPTS])
    }

    /// Requires an API key or the token of a link.
    pub(super) fn key_or_token(self) -> Self {
        let mut keyed = self.require_key();
        keyed.access = AccessRule::KeyOrToken;
        keyed.with_errors(&[codes::TOKEN_INVALID])
    }

    /// Requires an API key or the signature of a webhook.
    pub(super) fn key_or_signature(self) -> Self {
        let mut keyed = self.require_key();
        keyed.access = AccessRule::KeyOrSignature;
        keyed
            .request_header("webhook-id", "the id of a Standard Webhook: sent again, it is the same event")
            .request_header("webhook-timestamp", "when it was signed, in seconds since 1970")
            .request_header("webhook-signature", "in place of a key: `v1,` and the signature in Base64")
            .with_errors(&[codes::WEBHOOK_INVALID, codes::WEBHOOK_EXPIRED])
    }

    /// Requires an API key if other machines can reach the service.
    pub(super) fn key_unless_loopback(self) -> Self {
        let mut keyed = self.require_key();
        keyed.access = AccessRule::KeyUnlessLoopback;
        keyed
    }

    /// Adds the fields of `T` as query parameters. No others are accepted.
    pub(super) fn query_params<T: JsonSchema>(mut self) -> Self {
        self.query = Some(inline_schema::<T>);
        self.with_errors(&[codes::QUERY_INVALID])
    }

    pub(super) fn request_header(self, name: &'static str, what: &'static str) -> Self {
        self.request_header_with(name, what, json!({ "type": "string" }))
    }

    /// Adds a request header with this schema.
    pub(super) fn request_header_with(mut self, name: &'static str, what: &'static str, schema: Value) -> Self {
        self.headers.push((name, what, schema));
        self
    }

    /// Restricts the name in the path. Other names are no longer just unknown, but rejected.
    pub(super) fn path_pattern(mut self, pattern: &'static str) -> Self {
        self.path_pattern = Some(pattern);
        self
    }

    /// Adds the header of requests that may be repeated.
    pub(super) fn idempotency_key(self, what: &'static str) -> Self {
        // It may stand in quotes, as the draft standard writes it. Two quotes hold no key.
        let schema = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": r#"^(?!""$)[!-~]+$"# });
        self.request_header_with("Idempotency-Key", what, schema).with_errors(&[codes::HEADER_INVALID])
    }

    /// Adds the header of requests that a step may send.
    pub(super) fn hops_header(self) -> Self {
        let schema = json!({ "type": "string", "pattern": "^[0-9]{1,9}$" });
        let what = "how many runs came before in the chain; steps and notifications of runs send it";
        self.request_header_with(HOPS_HEADER, what, schema).with_errors(&[codes::HEADER_INVALID, codes::HOPS_EXCEEDED])
    }

    pub(super) fn json_body<T: JsonSchema>(self) -> Self {
        self.request_body::<T>("application/json").with_errors(&[codes::JSON_INVALID])
    }

    /// Adds a request body of this media type.
    pub(super) fn request_body<T: JsonSchema>(mut self, media: &'static str) -> Self {
        self.bodies.push((media, component_schema::<T>));
        self.with_errors(&[
            codes::UNSUPPORTED_MEDIA_TYPE,
            codes::BODY_TOO_LARGE,
            codes::BODY_INCOMPLETE,
            codes::REQUEST_TIMEOUT,
        ])
    }

    /// Says that the request has no meaning without a body.
    pub(super) fn needs_body(mut self) -> Self {
        self.needs_body = true;
        self
    }

    pub(super) fn json_response<T: JsonSchema>(self, status: u16, what: &'static str) -> Self {
        self.response_as::<T>(status, what, "application/json")
    }

    /// Adds a response of this media type.
    pub(super) fn response_as<T: JsonSchema>(mut self, status: u16, what: &'static str, media: &'static str) -> Self {
        self.responses.push(ResponseSpec(status, what, Some((media, component_schema::<T>))));
        self
    }

    pub(super) fn empty_response(mut self, status: u16, what: &'static str) -> Self {
        self.responses.push(ResponseSpec(status, what, None));
        self
    }

    /// Adds error codes to those that follow from the rest of the description. Codes that are not the caller's fault
    /// (500, 503) are left out.
    pub(super) fn with_errors(mut self, codes: &[ErrorCode]) -> Self {
        self.error_codes.extend(codes.iter().map(|code| (code.name(), *code)));
        self
    }
}

/// The routes of the service.
#[derive(Default)]
pub(super) struct ApiRoutes {
    router: Router<ApiState>,
    operations: Vec<(Method, &'static str, Operation)>,
}

impl ApiRoutes {
    /// Adds a route. `handler` is an axum handler for one method.
    pub(super) fn add_route(
        mut self,
        method: Method,
        path: &'static str,
        handler: MethodRouter<ApiState>,
        mut operation: Operation,
    ) -> Self {
        if path.contains('{') {
            // A path that is not UTF-8 names nothing.
            operation.error_codes.insert(codes::NOT_FOUND.name(), codes::NOT_FOUND);
        }
        self.router = self.router.route(path, handler);
        self.operations.push((method, path, operation));
        self
    }

    pub(super) fn into_router(self) -> Router<ApiState> {
        self.router
    }

    pub(super) fn to_openapi(&self) -> Value {
        let mut schemas = SchemaComponents::new();
        let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for (method, path, operation) in &self.operations {
            let described = operation.to_json(path, &mut schemas);
            paths.entry(path).or_default().insert(method.as_str().to_ascii_lowercase(), described);
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "afterload",
                "version": env!("CARGO_PKG_VERSION"),
                "description": DESCRIPTION,
                "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
            },
            "paths": paths,
            "components": {
                "schemas": schemas.finish(),
                "securitySchemes": {
                    "key": { "type": "http", "scheme": "bearer", "description": "an API key" },
                    "token": { "type": "apiKey", "in": "query", "name": "token",
                               "description": "the token of a link, good for the one thing that it was made for" },
                },
            },
        })
    }
}

impl Operation {
    fn to_json(&self, path: &str, schemas: &mut SchemaComponents) -> Value {
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next()).unwrap_or("service")],
            "parameters": self.parameters_json(path, schemas),
            "responses": self.responses_json(schemas),
            "security": match self.access {
                AccessRule::Public => json!([]),
                AccessRule::Key => json!([{ "key": [] }]),
                AccessRule::KeyOrToken => json!([{ "key": [] }, { "token": [] }]),
                // The signature is in headers of its own; OpenAPI has no scheme for that.
                AccessRule::KeyUnlessLoopback | AccessRule::KeyOrSignature => json!([{}, { "key": [] }]),
            },
        });
        if !self.bodies.is_empty() {
            let content: Map<String, Value> = self
                .bodies
                .iter()
                .map(|(media, make)| ((*media).to_owned(), json!({ "schema": make(&mut schemas.request) })))
                .collect();
            operation["requestBody"] = json!({ "required": self.needs_body, "content": content });
        }
        operation
    }

    fn parameters_json(&self, path: &str, schemas: &mut SchemaComponents) -> Vec<Value> {
        let text = match self.path_pattern {
            Some(pattern) => json!({ "type": "string", "pattern": pattern }),
            None => json!({ "type": "string" }),
        };
        let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let mut parameters: Vec<Value> =
            names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text })).collect();
        if let Some(make) = self.query {
            let schema = make(&mut schemas.request).to_value();
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                // The security scheme already describes this token.
                if name == "token" && self.access == AccessRule::KeyOrToken {
                    continue;
                }
                let mut schema = without_null(schema.clone());
                let what = schema.as_object_mut().and_then(|schema| schema.remove("description"));
                let is_required = required.iter().any(|field| field == name.as_str());
                let mut parameter = json!({ "name": name, "in": "query", "required": is_required, "schema": schema });
                if let Some(what) = what {
                    parameter["description"] = what;
                }
                parameters.push(parameter);
            }
        }
        for (name, what, schema) in &self.headers {
            let header = json!({ "name": name, "in": "header", "required": false, "description": what,
                                 "schema": schema });
            parameters.push(header);
        }
        parameters
    }

    fn responses_json(&self, schemas: &mut SchemaComponents) -> Map<String, Value> {
        let mut responses = Map::new();
        for ResponseSpec(status, what, body) in &self.responses {
            let answer = responses.entry(status.to_string()).or_insert_with(|| json!({ "description": what }));
            if let Some((media, make)) = body {
                answer["content"][*media] = json!({ "schema": make(&mut schemas.response) });
            }
        }
        let mut refusals: BTreeMap<u16, Vec<(&str, &str)>> = BTreeMap::new();
        for (name, code) in &self.error_codes {
            refusals.entry(code.status()).or_default().push((name, code.summary()));
        }
        let problem = schemas.response.subschema_for::<ProblemBody>();
        for (status, codes) in refusals {
            let lines: Vec<_> = codes.iter().map(|(code, title)| format!("`{code}`: {title}")).collect();
            let names: Vec<_> = codes.iter().map(|(code, _)| code).collect();
            let schema = json!({ "allOf": [problem, { "properties": { "code": { "enum": names } } }] });
            let content = json!({ "application/problem+json": { "schema": schema } });
            let mut answer = json!({ "description": lines.join("\n\n"), "content": content });
            if status == codes::TOO_MANY_ATTEMPTS.status() {
                answer["headers"] = retry_after_json();
            }
            responses.insert(status.to_string(), answer);
        }
        let content = json!({ "application/problem+json": { "schema": problem } });
        let away = "something that the service needs does not answer; `Retry-After` says when to try again";
        let answer = json!({ "description": away, "content": content, "headers": retry_after_json() });
        responses.insert("503".into(), answer);
        responses
    }
}

/// The schema without null, which a query cannot hold.
fn without_null(mut schema: Value) -> Value {
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.retain(|kind| kind != "null");
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
    }
    if let Some(fields) = schema.as_object_mut().filter(|fields| fields.get("default").is_some_and(Value::is_null)) {
        fields.remove("default");
    }
    schema
}

fn retry_after_json() -> Value {
    json!({ "Retry-After": { "description": "seconds", "schema": { "type": "integer", "minimum": 1 } } })
}

#[cfg(test)]
pub(super) mod tests {
    use axum::http::StatusCode;

    use super::super::routes::openapi_document;
    use super::*;

    /// True if the document describes the response; `None` if there is no such route.
    pub(in crate::api) fn is_documented(method: &Method, path: &str, status: StatusCode, code: &str) -> Option<bool> {
        let matches = |template: &str| {
            let (mut parts, mut given) = (template.split('/'), path.split('/'));
            loop {
                match (parts.next(), given.next()) {
                    (None, None) => return true,
                    (Some(part), Some(_)) if part.starts_with('{') => {}
                    (Some(part), Some(given)) if part == given => {}
                    _ => return false,
                }
            }
        };
        let method = if method == Method::HEAD { "get".to_owned() } else { method.as_str().to_ascii_lowercase() };
        let paths = openapi_document()["paths"].as_object().unwrap();
        let (_, operations) = paths.iter().find(|(template, _)| matches(template))?;
        let Some(operation) = operations.get(&method) else { return Some(status == StatusCode::METHOD_NOT_ALLOWED) };
        let Some(answer) = operation["responses"].get(status.as_str()) else { return Some(false) };
        let codes = &answer["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"];
        Some(codes.as_array().is_none_or(|codes| codes.iter().any(|known| known == code)))
    }

    #[test]
    fn every_operation_has_a_unique_id_and_a_success_response() {
        let mut ids = std::collections::BTreeSet::new();
        for (path, operations) in openapi_document()["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
                assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 10), "{method} {path}");
                let fine = operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2'));
                assert!(fine, "{method} {path} says no good answer");
            }
        }
        assert!(ids.len() >= 10, "{ids:?}");
    }
}
