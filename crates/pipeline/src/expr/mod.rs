//! Expressions: finds them in text, checks them when a pipeline is loaded, and resolves them when a step runs.

pub mod check;
mod context;
mod references;
mod template;

pub use context::ExprContext;
pub use references::referenced_names;
pub use template::{TemplateSegment, has_expression, sole_expression, split_template};

use std::sync::LazyLock;

use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;

use super::step_kind::DeferredField;
use crate::codes;
use afterload_core::error::{Error, Result};

/// Bounds the work of one expression.
const EXPRESSION_FUEL: u64 = 100_000;

/// The expression language: minijinja with strict undefined behavior and without functions.
static EXPRESSION_ENV: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut language = Environment::new();
    language.set_undefined_behavior(UndefinedBehavior::Strict);
    language.set_fuel(Some(EXPRESSION_FUEL));
    language.set_recursion_limit(50);
    let functions: Vec<String> = language.globals().map(|(name, _)| name.to_owned()).collect();
    for name in functions {
        language.remove_global(&name);
    }
    language
});

/// Resolves every expression of a `with:` block. A value that consists of one expression keeps its type. An expression
/// inside text becomes text.
///
/// # Errors
/// `expression_failed`. It names the expression, but never the value of a secret.
pub fn resolve(with: &Value, scope: &ExprContext) -> Result<Value> {
    match with {
        Value::String(text) if has_expression(text) => resolve_template(text, scope),
        Value::Array(items) => items.iter().map(|item| resolve(item, scope)).collect(),
        Value::Object(fields) => {
            let resolved = fields.iter().map(|(key, value)| Ok((key.clone(), resolve(value, scope)?)));
            resolved.collect::<Result<serde_json::Map<_, _>>>().map(Value::Object)
        }
        other => Ok(other.clone()),
    }
}

/// Resolves a `with:` block except for its deferred fields.
///
/// # Errors
/// `expression_failed`, as [`resolve`].
pub fn resolve_except(with: &Value, scope: &ExprContext, kept: &[DeferredField]) -> Result<Value> {
    let Value::Object(fields) = with else { return resolve(with, scope) };
    let resolved = fields.iter().map(|(key, value)| {
        let value = match DeferredField::match_key(kept, key) {
            Ok(_) => value.clone(),
            Err(below) => resolve_except(value, scope, &below)?,
        };
        Ok((key.clone(), value))
    });
    resolved.collect::<Result<serde_json::Map<_, _>>>().map(Value::Object)
}

fn resolve_template(text: &str, scope: &ExprContext) -> Result<Value> {
    if let Some(range) = sole_expression(text) {
        return evaluate_expression(&text[range], scope);
    }
    let pieces = split_template(text).map_err(|_| expression_error(text, "it does not end with `}}`"))?;
    let mut whole = String::with_capacity(text.len());
    for piece in pieces {
        match piece {
            TemplateSegment::Text(range) => whole.push_str(&text[range]),
            TemplateSegment::Expression(range) => {
                whole.push_str(&value_to_text(&text[range.clone()], evaluate_expression(&text[range], scope)?)?);
            }
        }
    }
    Ok(Value::String(whole))
}

/// Resolves a text to a text.
///
/// # Errors
/// `expression_failed`, also if the expression gives none.
pub fn resolve_to_text(text: &str, scope: &ExprContext) -> Result<String> {
    value_to_text(text, resolve(&Value::String(text.to_owned()), scope)?)
}

fn value_to_text(expression: &str, value: Value) -> Result<String> {
    match value {
        Value::Null => Err(expression_error(expression, "it gives none, which has no text")
            .with_hint("write `default('…', true)` after it, or use it as the whole value")),
        Value::String(text) => Ok(text),
        other => Ok(other.to_string()),
    }
}

/// The condition of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition(String);

impl Condition {
    /// Creates a condition from `text`, with or without `${{ }}`.
    pub fn new(text: &str) -> Self {
        match sole_expression(text) {
            Some(range) => Self(text[range].to_owned()),
            None => Self(text.trim().to_owned()),
        }
    }

    /// Returns the expression without `${{ }}`.
    pub fn expression_text(&self) -> &str {
        &self.0
    }

    /// True if the step should run.
    ///
    /// # Errors
    /// `expression_failed`, also if the result is not a boolean.
    pub fn is_met(&self, scope: &ExprContext) -> Result<bool> {
        match evaluate_expression(&self.0, scope)? {
            Value::Bool(holds) => Ok(holds),
            other => {
                let error = expression_error(
                    &self.0,
                    format!("`if` must give true or false, but it gives {}", json_type_name(&other)),
                );
                Err(error.with_hint("compare it with something, such as `… > 0` or `… is not none`"))
            }
        }
    }
}

/// Evaluates one expression, without `${{ }}`.
///
/// # Errors
/// `expression_failed`.
pub fn evaluate_expression(expression: &str, scope: &ExprContext) -> Result<Value> {
    let compiled = EXPRESSION_ENV.compile_expression(expression);
    let mut eventless = false;
    let value = compiled.and_then(|compiled| {
        let value = compiled.eval(scope.to_jinja());
        eventless = !scope.has_event() && compiled.undeclared_variables(false).contains("event");
        value
    });
    // The message of an operator or filter may quote its operand, and the operand may be a secret.
    let quiet = mentions_secrets(expression);
    let no_event = || {
        expression_error(expression, "the run has no `event`: no trigger started it")
            .with_hint("write `default('…', true)` after it, or ask with `event is not none`")
    };
    let value = value.map_err(|error| match quiet {
        _ if eventless && error.kind() == minijinja::ErrorKind::UndefinedError => no_event(),
        true => expression_error(expression, "it cannot be evaluated"),
        false => expression_error(expression, describe_jinja_error(&error)),
    })?;
    if value.is_undefined() {
        return Err(if eventless {
            no_event()
        } else {
            expression_error(expression, "it gives something that does not exist")
        });
    }
    serde_json::to_value(&value).map_err(|_| expression_error(expression, "its result is not a plain value"))
}

/// True if an expression reads a secret. Its result must not be shown.
pub fn mentions_secrets(expression: &str) -> bool {
    expression.contains("secrets")
}

fn describe_jinja_error(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (minijinja::ErrorKind::OutOfFuel, _) => "it takes too much work".into(),
        (minijinja::ErrorKind::UndefinedError, detail) => {
            detail.map_or_else(|| "it reads something that does not exist".into(), ToOwned::to_owned)
        }
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    }
}

fn expression_error(expression: &str, why: impl std::fmt::Display) -> Error {
    Error::new(codes::EXPRESSION_FAILED, format!("the expression `{expression}` failed: {why}"))
}

fn json_type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "none",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope() -> ExprContext {
        let params = json!({ "name": "Ada", "list": [1, 2], "none": null, "price": 1.5 });
        ExprContext::new()
            .with_params(params.as_object().expect("a map"))
            .with_run(&json!({ "id": "r1" }))
            .with_step("import", &json!({ "rows": 3 }), "succeeded", &Value::Null)
            .with_step("skipped", &Value::Null, "skipped", &Value::Null)
            .with_secrets(|name| (name == "KEY").then(|| "canary".to_owned()))
    }

    fn one(text: &str) -> Result<Value> {
        resolve(&json!({ "a": [text] }), &scope()).map(|value| value["a"][0].clone())
    }

    #[test]
    fn sole_expression_keeps_its_type() {
        for (text, expected) in [
            ("${{ params.list }}", json!([1, 2])),
            (" ${{ steps.import.rows + 1 }} ", json!(4)),
            ("${{ params.none }}", json!(null)),
            ("${{ steps.skipped.anything }}", json!(null)),
            ("${{ steps.skipped.state }}", json!("skipped")),
            ("${{ {'a': {'b': params.name}} }}", json!({ "a": { "b": "Ada" } })),
            (
                "Hi ${{ params.name | upper }}: ${{ steps.import.rows }} ${{ params.list }} ${{ true }}",
                json!("Hi ADA: 3 [1,2] true"),
            ),
            ("${{ params.price }} ${{ '}}' }}", json!("1.5 }}")),
            ("${{ params.missing | default('x') }}", json!("x")),
            ("${{ secrets.KEY }}", json!("canary")),
            ("$ {{ x }}", json!("$ {{ x }}")),
        ] {
            assert_eq!(one(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn unresolvable_expression_fails_and_is_named() {
        for text in [
            "${{ params.missing }}",
            "${{ params.missing.more }}",
            "x ${{ params.none }}",
            "${{ steps.nobody.rows }}",
            "${{ 1 / 0 }}",
            "${{ 'x' * 100000000 }}",
            "${{ secrets.OTHER }}",
        ] {
            let error = one(text).expect_err(text);
            assert_eq!(error.code(), codes::EXPRESSION_FAILED);
            let inner = text.trim_start_matches("x ").trim_start_matches("${{ ").trim_end_matches(" }}");
            assert!(error.message().contains(inner), "{}", error.message());
        }
    }

    #[test]
    fn expression_errors_never_show_a_secret() {
        for text in [
            "${{ secrets.KEY | int }}",
            "${{ secrets.KEY.more.more }}",
            "${{ secrets.KEY + 1 }}",
            "${{ (secrets.KEY ~ 'x') | abs }}",
        ] {
            let error = one(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }

    #[test]
    fn condition_must_be_a_boolean() {
        for (text, expected) in
            [("steps.import.rows > 2", true), ("${{ params.name == 'Bob' }}", false), ("false", false)]
        {
            assert_eq!(Condition::new(text).is_met(&scope()).expect(text), expected, "{text}");
        }
        let error = Condition::new("params.name").is_met(&scope()).expect_err("text");
        assert_eq!(
            error.message(),
            "the expression `params.name` failed: `if` must give true or false, but it gives text"
        );
    }
}
