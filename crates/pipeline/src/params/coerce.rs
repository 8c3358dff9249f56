//! Converts one value to the type of its param. Text is accepted for every type, because form fields are text.

use std::borrow::Cow;
use std::net::IpAddr;

use chrono::{DateTime, NaiveDate};
use serde_json::{Number, Value};

use super::email::is_email;
use super::{FileRule, ParamType, TextPattern};
use crate::codes;
use afterload_core::decimal::{is_number_text, parse_exact_json};
use afterload_core::error::ErrorCode;
use afterload_core::exact_decimal::{ExactDecimal, number_digits};
use afterload_core::file::File;
use afterload_core::text::shorten_text;
use afterload_core::units::ByteSize;
use afterload_core::work::count_steps;
use afterload_media_type as media;
use afterload_spanned_yaml::suggestion_hint;

/// The reason why a value does not match its param.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidParam {
    /// The stable error code.
    pub code: ErrorCode,
    /// The message, without the name of the param.
    pub message: String,
}

impl InvalidParam {
    /// Creates the reason from a stable code and a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The reason for a list that is longer than its `max_items`.
    pub fn too_many_items(found: usize, most: usize) -> Self {
        Self::new(codes::PARAM_TOO_MANY_ITEMS, format!("it has {found} items; at most {most} are accepted"))
    }
}

/// From here on not every whole number has a double of its own.
const MAX_EXACT_WHOLE: f64 = 9_007_199_254_740_992.0;

type Coerced<T = Value> = Result<T, InvalidParam>;

/// Converts a value to a type.
///
/// # Errors
/// The reason why the value does not match.
pub fn coerce_value(kind: &ParamType, value: Value) -> Coerced {
    match kind {
        ParamType::String { min_length, max_length, pattern } => {
            let text = to_text(value)?;
            check_length(&text, *min_length, *max_length)?;
            check_pattern(&text, pattern.as_ref())?;
            Ok(text.into())
        }
        ParamType::Integer { min, max } => {
            let number = to_integer(&value).ok_or_else(|| wrong_type("a whole number", &value))?;
            check_range(&number.to_string(), min.as_ref(), max.as_ref())?;
            Ok(number.into())
        }
        ParamType::Number { min, max } => {
            let (number, digits) = to_number(&value).ok_or_else(|| wrong_type("a number", &value))?;
            check_range(&digits, min.as_ref(), max.as_ref())?;
            Ok(number)
        }
        ParamType::Boolean => match &value {
            Value::Bool(_) => Ok(value),
            Value::String(text) if text == "true" || text == "false" => Ok((text == "true").into()),
            _ => Err(wrong_type("`true` or `false`", &value)),
        },
        ParamType::Date => coerce_text_if(value, "a day such as `2026-01-31`", is_date),
        ParamType::Datetime => coerce_text_if(value, "a moment such as `2026-01-31T09:30:00Z`", |text| {
            DateTime::parse_from_rfc3339(text).is_ok()
        }),
        ParamType::Email { smtputf8 } => coerce_email(value, *smtputf8),
        ParamType::Url => coerce_text_if(value, "an address that starts with `http://` or `https://`", is_url),
        ParamType::Ip => coerce_text_if(value, "an IP address", |text| text.parse::<IpAddr>().is_ok()),
        ParamType::Enum { values } => {
            let text = match value {
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(wrong_type("one of the choices", &value));
                }
                scalar => to_text(scalar)?,
            };
            match values.contains(&text) {
                true => Ok(text.into()),
                false => {
                    let hint = suggestion_hint(&text, values.iter().map(String::as_str));
                    Err(InvalidParam::new(
                        codes::PARAM_NOT_A_CHOICE,
                        format!("`{}` is not one of its values; {hint}", truncate_text(&text)),
                    ))
                }
            }
        }
        ParamType::List { items, .. } => coerce_list(items.as_deref(), kind.max_items(), value),
        ParamType::Object => match parse_json_text(value) {
            value @ Value::Object(_) => Ok(value),
            other => Err(wrong_type("a map", &other)),
        },
        ParamType::File(rule) => coerce_file(rule, value),
        ParamType::Record(rule) => rule.to_reference(&value).map(Value::String),
    }
}

fn coerce_list(items: Option<&ParamType>, max_items: Option<usize>, value: Value) -> Coerced {
    let Value::Array(values) = parse_json_text(value) else {
        return Err(InvalidParam::new(codes::PARAM_WRONG_TYPE, "expected a list"));
    };
    if let Some(most) = max_items.filter(|most| values.len() > *most) {
        return Err(InvalidParam::too_many_items(values.len(), most));
    }
    let Some(kind) = items else { return Ok(Value::Array(values)) };
    let each = values.into_iter().enumerate().map(|(index, value)| {
        coerce_value(kind, value)
            .map_err(|fault| InvalidParam::new(fault.code, format!("item {}: {}", index + 1, fault.message)))
    });
    each.collect::<Coerced<Vec<_>>>().map(Value::Array)
}

/// Accepts a file as a map, or as `s3://bucket/key`. The latter has no ETag, size or media type yet.
fn coerce_file(rule: &FileRule, value: Value) -> Coerced {
    let value = parse_json_text(value);
    let file = match &value {
        Value::String(place) => file_from_s3_url(place)?,
        Value::Object(_) => serde_json::from_value::<File>(value)
            .map_err(|error| InvalidParam::new(codes::PARAM_WRONG_TYPE, format!("it is not a file: {error}")))?,
        _ => return Err(wrong_type("a file such as `s3://bucket/key`", &value)),
    };
    if file.bucket.is_empty() || file.key.is_empty() {
        return Err(InvalidParam::new(codes::PARAM_WRONG_TYPE, "a file needs a bucket and a key"));
    }
    check_file(rule, &file)?;
    serde_json::to_value(file).map_err(|error| InvalidParam::new(codes::PARAM_WRONG_TYPE, error.to_string()))
}

fn file_from_s3_url(place: &str) -> Coerced<File> {
    let parts = place.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
    let Some((bucket, key)) = parts.filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty()) else {
        return Err(wrong_type("a file such as `s3://bucket/key`", &place.into()));
    };
    let name = key.rsplit('/').find(|part| !part.is_empty()).unwrap_or(key);
    Ok(File {
        artifact_id: None,
        bucket: bucket.into(),
        key: key.into(),
        version: None,
        etag: String::new(),
        name: name.into(),
        size: 0,
        content_type: String::new(),
        url: None,
    })
}

/// Checks a file against the rule of its param. Unknown properties (size 0, no media type) pass, so check again once
/// they are known.
///
/// # Errors
/// `param_file_too_large` or `param_file_type`.
pub fn check_file(rule: &FileRule, file: &File) -> Coerced<()> {
    if let Some(most) = rule.max_size.filter(|most| file.size > *most) {
        let message = format!("the file has {} bytes; at most {} are accepted", file.size, ByteSize(most));
        return Err(InvalidParam::new(codes::PARAM_FILE_TOO_LARGE, message));
    }
    let found = file.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if found.is_empty() || media::accepts_media_type(&rule.accept, &found, &file.name) {
        return Ok(());
    }
    let message =
        format!("files of type `{}` are not accepted; expected {}", truncate_text(&found), rule.accept.join(", "));
    Err(InvalidParam::new(codes::PARAM_FILE_TYPE, message))
}

/// Parses lists, maps and files, which forms send as JSON text.
pub(super) fn parse_json_text(value: Value) -> Value {
    match &value {
        Value::String(text) if text.trim_start().starts_with(['[', '{']) => parse_exact_json(text).unwrap_or(value),
        _ => value,
    }
}

fn coerce_text_if(value: Value, expected: &str, fits: impl Fn(&str) -> bool) -> Coerced {
    let found = expect_text(value, expected)?;
    match fits(&found) {
        true => Ok(found.into()),
        false => Err(InvalidParam::new(
            codes::PARAM_WRONG_TYPE,
            format!("expected {expected}, found `{}`", truncate_text(&found)),
        )),
    }
}

fn expect_text(value: Value, expected: &str) -> Coerced<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(expected, &other)),
    }
}

/// Converts a value to text. Events, rows and callers do not agree on whether an id such as `5` is text, so numbers and
/// booleans are taken as their JSON text. A number that JSON readers round is refused, because its digits are lost.
fn to_text(value: Value) -> Coerced<String> {
    match &value {
        Value::Number(number)
            if number.is_f64() && number.as_f64().is_none_or(|number| number.abs() >= MAX_EXACT_WHOLE) =>
        {
            Err(InvalidParam::new(
                codes::PARAM_WRONG_TYPE,
                "a number this large has lost digits; send it as text, in quotes",
            ))
        }
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => expect_text(value, "text"),
    }
}

fn to_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let whole = number.as_f64().filter(|whole| whole.fract() == 0.0 && whole.abs() < 9e15)?;
            Some(whole as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Returns the number and its digits. A number that JSON would round stays text.
fn to_number(value: &Value) -> Option<(Value, String)> {
    match value {
        Value::Number(number) => Some((value.clone(), number_digits(number))),
        Value::String(text) => {
            let text = text.trim();
            let rounded = text.parse::<f64>().ok()?;
            let number = match is_number_text(text) {
                true => parse_exact_json(text).ok()?,
                // JSON has no number such as `+5` or `.5`.
                false => text
                    .parse::<i64>()
                    .map_or_else(|_| Number::from_f64(rounded).map(Value::Number), |whole| Some(whole.into()))?,
            };
            let digits = match &number {
                Value::Number(number) => number_digits(number),
                _ => text.to_owned(),
            };
            Some((number, digits))
        }
        _ => None,
    }
}

fn check_range(digits: &str, min: Option<&ExactDecimal>, max: Option<&ExactDecimal>) -> Coerced<()> {
    let out_of_range = |limit: &ExactDecimal, how: &str| {
        let message = format!("{} is {how} than {limit}", truncate_text(digits));
        Err(InvalidParam::new(codes::PARAM_OUT_OF_RANGE, message))
    };
    match (min, max) {
        (Some(min), _) if min.compare_digits(digits).is_gt() => out_of_range(min, "less"),
        (_, Some(max)) if max.compare_digits(digits).is_lt() => out_of_range(max, "more"),
        _ => Ok(()),
    }
}

fn check_length(text: &str, min: Option<usize>, max: Option<usize>) -> Coerced<()> {
    let length = text.chars().count();
    count_steps(text.len());
    match (min, max) {
        (Some(min), _) if length < min => Err(InvalidParam::new(
            codes::PARAM_TOO_SHORT,
            format!("it has {length} characters; at least {min} are expected"),
        )),
        (_, Some(max)) if length > max => Err(InvalidParam::new(
            codes::PARAM_TOO_LONG,
            format!("it has {length} characters; at most {max} are expected"),
        )),
        _ => Ok(()),
    }
}

fn check_pattern(text: &str, pattern: Option<&TextPattern>) -> Coerced<()> {
    let Some(pattern) = pattern else { return Ok(()) };
    count_steps(text.len());
    match pattern.is_match(text) {
        true => Ok(()),
        false => Err(InvalidParam::new(
            codes::PARAM_NO_MATCH,
            format!("`{}` does not match `{}`", truncate_text(text), pattern.as_str()),
        )),
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

/// Accepts an address that mail can be sent to. The host may hold letters outside ASCII, because mail converts it. The
/// part before the `@` can only with `smtputf8`: our mail server and that of the recipient both need the extension SMTPUTF8.
fn coerce_email(value: Value, smtputf8: bool) -> Coerced {
    let text = coerce_text_if(value, "an e-mail address", is_email)?;
    let local = text.as_str().and_then(|text| text.rsplit_once('@')).map_or("", |(local, _)| local);
    match smtputf8 || local.is_ascii() {
        true => Ok(text),
        false => Err(InvalidParam::new(
            codes::PARAM_EMAIL_NOT_ASCII,
            format!("only ASCII can stand before the `@`, found `{}`", truncate_text(local)),
        )),
    }
}

fn is_url(text: &str) -> bool {
    let parsed = url::Url::parse(text).ok();
    parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

pub(super) fn wrong_type(expected: &str, found: &Value) -> InvalidParam {
    let found = match found {
        Value::Null => "nothing".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
        Value::String(text) => format!("`{}`", truncate_text(text)),
        other => format!("`{other}`"),
    };
    InvalidParam::new(codes::PARAM_WRONG_TYPE, format!("expected {expected}, found {found}"))
}

/// Shortens to 60 characters, for messages.
pub(super) fn truncate_text(text: &str) -> Cow<'_, str> {
    shorten_text(text, 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_booleans_are_text_for_a_string() {
        let kind = ParamType::String { min_length: None, max_length: Some(20), pattern: None };
        let text = |json: &str| coerce_value(&kind, serde_json::from_str(json).unwrap());
        for (json, expected) in [
            ("\"0049\"", "0049"),
            ("5", "5"),
            ("-7", "-7"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1.5", "1.5"),
            // JSON readers do not keep zeros at the end.
            ("1.50", "1.5"),
            ("2.0", "2.0"),
            ("true", "true"),
            ("false", "false"),
        ] {
            assert_eq!(text(json).unwrap(), expected, "{json}");
        }
        for json in ["18446744073709551616", "-9223372036854775809", "1e300", "9007199254740993.0", "null", "[5]", "{}"]
        {
            assert_eq!(text(json).unwrap_err().code, codes::PARAM_WRONG_TYPE, "{json}");
        }
        let list = ParamType::List { items: Some(Box::new(kind.clone())), max_items: None };
        assert_eq!(
            coerce_value(&list, serde_json::json!([1, "a", true])).unwrap(),
            serde_json::json!(["1", "a", "true"])
        );
        let short = ParamType::String { min_length: None, max_length: Some(1), pattern: None };
        assert_eq!(coerce_value(&short, 12.into()).unwrap_err().code, codes::PARAM_TOO_LONG);
    }

    #[test]
    fn numbers_keep_every_digit() {
        let coerce = |kind: &ParamType, text: &str| coerce_value(kind, text.into()).ok().map(|value| value.to_string());
        let (integer, number) =
            (ParamType::Integer { min: None, max: None }, ParamType::Number { min: None, max: None });
        for (kind, text, found) in [
            (&integer, "9007199254740993", Some("9007199254740993")),
            (&integer, "-9223372036854775808", Some("-9223372036854775808")),
            (&integer, "9223372036854775808", None),
            (&number, "9007199254740993", Some("9007199254740993")),
            (&number, "18446744073709551615", Some("18446744073709551615")),
            (&number, "123456789012345678.95", Some("\"123456789012345678.95\"")),
            (&number, " 19.90 ", Some("19.9")),
            (&number, "+5", Some("5")),
            (&number, ".5", Some("0.5")),
            (&number, "1e3", Some("1000.0")),
            (&number, "1e400", None),
            (&number, "NaN", None),
        ] {
            assert_eq!(coerce(kind, text).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn limits_are_compared_by_all_their_digits() {
        let limit = |json: &str| Some(serde_json::from_str::<ExactDecimal>(json).unwrap());
        let number = ParamType::Number { min: limit("\"1234567890123456.77\""), max: limit("\"1234567890123456.78\"") };
        for (text, is_valid) in [
            ("1234567890123456.76", false),
            ("1234567890123456.77", true),
            ("1234567890123456.78", true),
            ("1234567890123456.79", false),
            ("-1234567890123456.78", false),
        ] {
            assert_eq!(coerce_value(&number, text.into()).is_ok(), is_valid, "{text}");
        }
        let integer = ParamType::Integer { min: None, max: limit("9007199254740992") };
        assert!(coerce_value(&integer, 9_007_199_254_740_992_i64.into()).is_ok());
        let fault = coerce_value(&integer, 9_007_199_254_740_993_i64.into()).unwrap_err();
        assert_eq!(fault.message, "9007199254740993 is more than 9007199254740992");
        let small = ParamType::Number { min: limit("0.1"), max: limit("1e3") };
        for (value, is_valid) in [(0.1.into(), true), (".1".into(), true), (0.09.into(), false), ("1e3".into(), true)] {
            assert_eq!(coerce_value(&small, value).is_ok(), is_valid);
        }
    }

    #[test]
    fn csv_is_accepted_under_every_media_type_of_clients() {
        let accepts = |accept: &[&str], content_type: &str, name: &str| {
            let rule = FileRule { accept: accept.iter().map(|media| (*media).to_owned()).collect(), max_size: None };
            let file = file_from_s3_url(&format!("s3://uploads/{name}")).unwrap();
            check_file(&rule, &File { content_type: content_type.into(), ..file }).is_ok()
        };
        for media in [
            "text/csv",
            "text/csv; charset=utf-8",
            "application/vnd.ms-excel",
            "application/csv",
            "Text/Plain",
            "application/octet-stream",
        ] {
            assert!(accepts(&["text/csv"], media, "Contacts.CSV"), "{media}");
            assert!(accepts(&["text/*"], media, "contacts.csv"), "{media}");
            assert!(!accepts(&["image/png"], media, "contacts.csv"), "{media}");
        }
        assert!(accepts(&["text/csv"], "application/csv", "contacts"));
        for (media, name) in [
            ("application/vnd.ms-excel", "contacts.xls"),
            ("application/octet-stream", "contacts"),
            ("text/plain", "notes.txt"),
            ("image/png", "contacts.csv"),
        ] {
            assert!(!accepts(&["text/csv"], media, name), "{media} {name}");
        }
        assert!(accepts(&["application/vnd.ms-excel"], "application/vnd.ms-excel", "contacts.csv"));
    }
}
