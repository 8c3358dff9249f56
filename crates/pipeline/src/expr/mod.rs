//! Expressions: finds them in text, checks them when a pipeline is loaded, and resolves them when a step runs.

mod builtins;
mod calls;
pub mod check;
mod context;
mod dates;
mod exact;
mod exact_language;
mod references;
mod rewrite;
mod safe_text;
mod template;
mod text_template;
mod url;

pub use builtins::{BUILTINS, Builtin, BuiltinKind};
pub use context::ExprContext;
pub use exact_language::add_exact_numbers;
pub use references::referenced_names;
pub use template::{TemplateSegment, has_expression, sole_expression, split_template};
pub use text_template::rewrite_template;

use std::sync::LazyLock;

use minijinja::{Environment, HtmlEscape, UndefinedBehavior};
use serde_json::Value;

use self::builtins::register_builtins;
use self::calls::{find_unknown_calls, suggest_builtin};
use self::safe_text::{SAFE_HTML_FILTER, SAFE_URL_FILTER, find_safe_text};
use self::url::{UrlBuilder, UrlFault};
use super::step_kind::{DeferredField, EncodedField, ValueEncoding};
use crate::codes;
use afterload_core::error::{Error, Result};

/// Bounds the work of one expression.
const EXPRESSION_FUEL: u64 = 100_000;

/// The expression language: minijinja with exact numbers and the built-ins of this language.
static EXPRESSION_ENV: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut language = new_environment();
    add_exact_numbers(&mut language);
    language
});

/// Minijinja with strict undefined behavior and the built-ins of this language.
fn new_environment() -> Environment<'static> {
    let mut language = Environment::new();
    language.set_undefined_behavior(UndefinedBehavior::Strict);
    language.set_fuel(Some(EXPRESSION_FUEL));
    language.set_recursion_limit(50);
    register_builtins(&mut language);
    language
}

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

/// Resolves a `with:` block except for its deferred fields. The fields `encoded` encode the values in their text.
///
/// # Errors
/// `expression_failed`, as [`resolve`], [`resolve_url`] and [`resolve_html`].
pub fn resolve_except(
    with: &Value,
    scope: &ExprContext,
    kept: &[DeferredField],
    encoded: &[EncodedField],
) -> Result<Value> {
    let encoding = encoded.iter().find(|field| field.path.is_empty()).map(|field| field.encoding);
    let fields = match (with, encoding) {
        (Value::Object(fields), _) => fields,
        (Value::String(text), Some(encoding)) if has_expression(text) => {
            let resolved = match encoding {
                ValueEncoding::Url => resolve_url(text, scope),
                ValueEncoding::Html => resolve_html(text, scope),
            };
            return resolved.map(Value::String);
        }
        (other, _) => return resolve(other, scope),
    };
    let resolved = fields.iter().map(|(key, value)| {
        let value = match DeferredField::match_key(kept, key) {
            Ok(_) => value.clone(),
            Err(below) => resolve_except(value, scope, &below, &EncodedField::below(encoded, key))?,
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

/// Resolves a URL. Its literal text stays as it is, and each value is percent-encoded, unless it is marked by `safe_url`.
/// One expression can give the whole URL.
///
/// # Errors
/// `expression_failed`, also for a value where the scheme or the host stands, and for one that leads to another path.
pub fn resolve_url(text: &str, scope: &ExprContext) -> Result<String> {
    if sole_expression(text).is_some() {
        return resolve_to_text(text, scope);
    }
    let pieces = split_template(text).map_err(|_| expression_error(text, "it does not end with `}}`"))?;
    let mut url = UrlBuilder::new();
    let mut last_expression = "";
    for piece in pieces {
        let pushed = match piece {
            TemplateSegment::Text(range) => url.push_literal(&text[range]),
            TemplateSegment::Expression(range) => {
                let expression = &text[range];
                last_expression = expression;
                let value = evaluate_to_jinja(expression, scope)?;
                match find_safe_text(&value, ValueEncoding::Url) {
                    Some(safe) => url.push_literal(safe),
                    None => url.push_value(&value_to_text(expression, to_plain_value(expression, &value)?)?),
                }
            }
        };
        pushed.map_err(|fault| url_value_error(last_expression, fault))?;
    }
    url.finish().map_err(|fault| url_value_error(last_expression, fault))
}

/// Resolves HTML. Its literal text stays as it is, and each value is escaped, unless it is marked by `safe_html`. A value
/// stays inside of an attribute only if quotes surround it there.
///
/// # Errors
/// `expression_failed`.
pub fn resolve_html(text: &str, scope: &ExprContext) -> Result<String> {
    let pieces = split_template(text).map_err(|_| expression_error(text, "it does not end with `}}`"))?;
    let mut html = String::with_capacity(text.len());
    for piece in pieces {
        match piece {
            TemplateSegment::Text(range) => html.push_str(&text[range]),
            TemplateSegment::Expression(range) => {
                let expression = &text[range];
                let value = evaluate_to_jinja(expression, scope)?;
                match find_safe_text(&value, ValueEncoding::Html) {
                    Some(safe) => html.push_str(safe),
                    None => {
                        let value = value_to_text(expression, to_plain_value(expression, &value)?)?;
                        html.push_str(&HtmlEscape(&value).to_string());
                    }
                }
            }
        }
    }
    Ok(html)
}

/// The HTML with `value` in the place of each expression, as far as it is known before the expressions are resolved. The
/// second result is true if an expression may add elements.
pub fn fill_html_template(text: &str, value: &str) -> (String, bool) {
    let (mut html, mut is_open) = (String::with_capacity(text.len()), false);
    for piece in split_template(text).unwrap_or_default() {
        match piece {
            TemplateSegment::Text(range) => html.push_str(&text[range]),
            TemplateSegment::Expression(range) => {
                is_open |= text[range].contains(SAFE_HTML_FILTER);
                html.push_str(value);
            }
        }
    }
    (html, is_open)
}

/// Checks what is known of a URL before its expressions are resolved.
///
/// # Errors
/// `expression_failed` for a value that cannot be marked as safe where the scheme or the host stands.
pub fn check_url_template(text: &str) -> Result<()> {
    let (Ok(pieces), None) = (split_template(text), sole_expression(text)) else { return Ok(()) };
    let mut url = UrlBuilder::new();
    for piece in pieces {
        let (pushed, expression) = match piece {
            TemplateSegment::Text(range) => (url.push_literal(&text[range]), ""),
            // Such a value may hold everything up to the path.
            TemplateSegment::Expression(range) if text[range.clone()].contains(SAFE_URL_FILTER) => return Ok(()),
            TemplateSegment::Expression(range) => (url.push_value("x"), &text[range]),
        };
        pushed.map_err(|fault| url_value_error(expression, fault))?;
    }
    Ok(())
}

fn url_value_error(expression: &str, fault: UrlFault) -> Error {
    expression_error(expression, fault.message()).with_hint(fault.hint())
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
            .with_hint("write `default('…')` after it, or use it as the whole value")),
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
    to_plain_value(expression, &evaluate_to_jinja(expression, scope)?)
}

fn to_plain_value(expression: &str, value: &minijinja::Value) -> Result<Value> {
    serde_json::to_value(value).map_err(|_| expression_error(expression, "its result is not a plain value"))
}

fn evaluate_to_jinja(expression: &str, scope: &ExprContext) -> Result<minijinja::Value> {
    let compiled = EXPRESSION_ENV.compile_expression(expression);
    let mut eventless = false;
    let value = compiled.and_then(|compiled| {
        let exact = rewrite::rewrite_operators(expression).ok_or_else(unknown_grammar_error)?;
        let value = EXPRESSION_ENV.compile_expression(&exact)?.eval(scope.to_jinja());
        eventless = !scope.has_event() && compiled.undeclared_variables(false).contains("event");
        value
    });
    // The message of an operator or filter may quote its operand, and the operand may be a secret.
    let quiet = mentions_secrets(expression);
    let no_event = || {
        expression_error(expression, "the run has no `event`: no trigger started it")
            .with_hint("write `default('…')` after it, or ask with `event is not none`")
    };
    let value = value.map_err(|error| match quiet {
        _ if unknown_kind(&error).is_some() => unknown_call_error(expression, &error),
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
    Ok(value)
}

fn unknown_kind(error: &minijinja::Error) -> Option<BuiltinKind> {
    match error.kind() {
        minijinja::ErrorKind::UnknownFilter => Some(BuiltinKind::Filter),
        minijinja::ErrorKind::UnknownTest => Some(BuiltinKind::Test),
        minijinja::ErrorKind::UnknownFunction => Some(BuiltinKind::Function),
        _ => None,
    }
}

/// The error for a filter, test or function that does not exist. Its name may be the value of an expression, which is not
/// shown.
fn unknown_call_error(expression: &str, error: &minijinja::Error) -> Error {
    let kind = unknown_kind(error).unwrap_or(BuiltinKind::Filter);
    match find_unknown_calls(expression).into_iter().next() {
        Some(call) => expression_error(expression, call.message).with_hint(call.hint),
        None => {
            let error = expression_error(expression, format!("it calls an unknown {}", kind.label()));
            error.with_hint(suggest_builtin(kind, ""))
        }
    }
}

fn unknown_grammar_error() -> minijinja::Error {
    minijinja::Error::new(minijinja::ErrorKind::SyntaxError, "its operators cannot be read; use parentheses")
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
mod tests;
