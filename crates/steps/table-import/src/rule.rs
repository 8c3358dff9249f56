//! A column's rules, compiled: from the text of a cell to what the table receives, or why not.

use std::borrow::Cow;
use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use super::columns::{Case, Column, ColumnType};
use super::value::{self, BadInteger};
use afterload_target_db::{self as connections, Batch, Cell, Kind, Shape};

/// Why a cell, and so its row, is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// A stable code.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The rules of one column.
pub struct Rule {
    /// The column of the table.
    pub name: String,
    /// What its cells are.
    pub shape: Shape,
    kind: ColumnType,
    single: bool,
    required: bool,
    trim: bool,
    nulls: Vec<String>,
    default: Option<String>,
    case: Option<Case>,
    pattern: Option<Regex>,
    values: Option<BTreeSet<String>>,
    formats: Vec<String>,
    min_length: usize,
    max_length: usize,
    bounds: Bounds,
}

/// Text that the rules made, on its way to the end of the batch's.
#[derive(Debug, Default)]
pub struct Fresh {
    /// The text.
    pub text: Vec<u8>,
    /// Where it will stand.
    pub at: usize,
}

impl Fresh {
    fn add(&mut self, text: &str) -> Cell {
        let start = self.at + self.text.len();
        self.text.extend_from_slice(text.as_bytes());
        Batch::text_cell(start..start + text.len())
    }
}

/// The least and the greatest value.
enum Bounds {
    None,
    /// Whole numbers, days, microseconds.
    Whole(i64, i64),
    /// Decimal numbers.
    Decimal(f64, f64),
}

/// What a cell turned out to be.
enum Read {
    Cell(Cell),
    Same,
    Text(String),
}

impl Rule {
    /// Compiles the rules of a column, with what the table's column adds to them.
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub fn new(column: &Column, target: &connections::Column, triggers: bool) -> Result<Self, (&'static str, String)> {
        let kind = column.kind.unwrap_or_else(|| ColumnType::of(target.kind));
        let pattern = match column.pattern.as_deref().map(Regex::new).transpose() {
            Ok(pattern) => pattern,
            Err(error) => return Err(("pattern", format!("`pattern` is not a regular expression: {error}"))),
        };
        if kind == ColumnType::Enum && column.values.as_ref().is_none_or(Vec::is_empty) {
            return Err(("type", "a column of type `enum` needs `values`".into()));
        }
        if let Some(format) = column.formats.iter().find(|format| !value::is_format(format)) {
            return Err(("formats", format!("`{format}` is not a format of dates")));
        }
        if let Some(format) =
            column.formats.iter().find(|format| kind == ColumnType::Date && !value::names_a_day(format))
        {
            return Err((
                "formats",
                format!("`{format}` does not say which day it is; expected one such as `%Y-%m-%d`"),
            ));
        }
        let default = match &column.default {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => Some(value.to_string()),
            Some(_) => return Err(("default", "`default` must be a single value".into())),
        };
        let bounds = bounds(kind, column, target.kind)?;
        if matches!(bounds, Bounds::Whole(min, max) if min > max)
            || matches!(bounds, Bounds::Decimal(min, max) if min > max)
        {
            return Err(("max", "nothing lies between `min` and `max`".into()));
        }
        let rule = Self {
            name: target.name.clone(),
            shape: kind.shape(),
            kind,
            single: target.kind == Kind::Float4,
            // A trigger may yet fill what is missing.
            required: column.required || (target.not_null && !triggers),
            trim: column.trim.unwrap_or(true),
            nulls: column.null_values.clone().unwrap_or_else(|| vec![String::new()]),
            default,
            case: column.case,
            pattern,
            values: column.values.as_ref().map(|values| values.iter().cloned().collect()),
            formats: column.formats.clone(),
            min_length: column.min_length.unwrap_or(0),
            max_length: column.max_length.unwrap_or(usize::MAX).min(target.max_length.unwrap_or(usize::MAX)),
            bounds,
        };
        match rule.default.as_deref().map(|default| rule.read(default)) {
            Some(Err(fault)) => Err(("default", format!("`default` breaks the column's own rules: {}", fault.message))),
            _ => Ok(rule),
        }
    }

    /// Turns the text of a cell, which stands at `at` in the batch, into a value.
    ///
    /// # Errors
    /// Why the cell is not taken.
    pub fn cell(&self, whole: &str, at: usize, fresh: &mut Fresh) -> Result<Cell, Fault> {
        let trimmed = if self.trim && !is_trimmed(whole) { whole.trim() } else { whole };
        let start = if trimmed.len() < whole.len() { at + whole.len() - whole.trim_start().len() } else { at };
        let same = start..start + trimmed.len();
        let (read, value) = if self.nulls.iter().any(|null| null == trimmed) {
            match &self.default {
                None if self.required => return Err(fault("value_required", "a value is required")),
                None => return Ok(Cell::Null),
                Some(default) => (self.read(default)?, Cow::Owned(default.clone())),
            }
        } else {
            let value = match self.case {
                None => Cow::Borrowed(trimmed),
                Some(Case::Upper) if is_ascii_but(trimmed, u8::is_ascii_lowercase) => Cow::Borrowed(trimmed),
                Some(Case::Lower) if is_ascii_but(trimmed, u8::is_ascii_uppercase) => Cow::Borrowed(trimmed),
                Some(Case::Upper) => Cow::Owned(trimmed.to_uppercase()),
                Some(Case::Lower) => Cow::Owned(trimmed.to_lowercase()),
            };
            (self.read(&value)?, value)
        };
        match (read, value) {
            (Read::Cell(cell), _) => Ok(cell),
            (Read::Same, Cow::Borrowed(_)) => Ok(Batch::text_cell(same)),
            (Read::Same, Cow::Owned(value)) | (Read::Text(value), _) => Ok(fresh.add(&value)),
        }
    }

    fn read(&self, value: &str) -> Result<Read, Fault> {
        let read = self.typed(value)?;
        if self.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(value)) {
            return Err(fault("value_pattern", format!("{} does not match the pattern", shown(value))));
        }
        if let Some(values) = self.values.as_ref().filter(|values| !values.contains(value)) {
            let some = values.iter().take(10).map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
            let more = if values.len() > 10 { ", …" } else { "" };
            return Err(fault("value_not_allowed", format!("{} is not one of {some}{more}", shown(value))));
        }
        let kept = match &read {
            Read::Cell(_) => return Ok(read),
            Read::Same => value,
            Read::Text(text) => text,
        };
        if self.min_length > 0 || self.max_length < kept.len() {
            let length = kept.chars().count();
            if length < self.min_length {
                let message =
                    format!("{} has {length} characters, at least {} are needed", shown(kept), self.min_length);
                return Err(fault("value_too_short", message));
            }
            if length > self.max_length {
                let message = format!("{} has {length} characters, at most {} fit", shown(kept), self.max_length);
                return Err(fault("value_too_long", message));
            }
        }
        Ok(read)
    }

    fn typed(&self, value: &str) -> Result<Read, Fault> {
        let same = |good: bool, what: &str| if good { Ok(Read::Same) } else { Err(invalid(value, what)) };
        let maybe = |text: Option<Cow<'_, str>>, what: &str| match text {
            Some(Cow::Borrowed(text)) if text.len() == value.len() => Ok(Read::Same),
            Some(text) => Ok(Read::Text(text.into_owned())),
            None => Err(invalid(value, what)),
        };
        match self.kind {
            ColumnType::String | ColumnType::Enum => Ok(Read::Same),
            ColumnType::Integer => match value::integer(value) {
                Ok(number) => self.whole(number, value).map(|()| Read::Cell(Cell::Int(number))),
                Err(BadInteger::Invalid) => Err(invalid(value, "a whole number")),
                Err(BadInteger::TooLarge) => Err(out_of_range(value, "does not fit 64 bits")),
            },
            ColumnType::Decimal => {
                let number = value::decimal(value);
                self.decimal(number.as_deref().unwrap_or("0"), value)?;
                maybe(number, "a number")
            }
            ColumnType::Boolean => match value::boolean(value) {
                Some(truth) => Ok(Read::Cell(Cell::Bool(truth))),
                None => Err(invalid(value, "`true` or `false`")),
            },
            ColumnType::Date => match value::date(value, &self.formats) {
                Some(days) => self.whole(days.into(), value).map(|()| Read::Cell(Cell::Date(days))),
                None => Err(invalid(value, &self.written("a date", "`2024-12-31`"))),
            },
            ColumnType::Datetime => match value::datetime(value, &self.formats) {
                Some(micros) => self.whole(micros, value).map(|()| Read::Cell(Cell::DateTime(micros))),
                None => Err(invalid(value, &self.written("a time", "`2024-12-31T23:59:59Z`"))),
            },
            ColumnType::Email => same(value::email(value), "an e-mail address"),
            ColumnType::Url => same(value::url(value), "a URL"),
            ColumnType::Uuid => maybe(value::uuid(value), "a UUID"),
            ColumnType::Json => same(serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok(), "JSON"),
        }
    }

    fn written(&self, what: &str, iso: &str) -> String {
        let formats = self.formats.iter().map(|format| format!("`{format}`")).collect::<Vec<_>>().join(" or ");
        if formats.is_empty() { format!("{what} such as {iso}") } else { format!("{what} written as {formats}") }
    }

    fn whole(&self, number: i64, value: &str) -> Result<(), Fault> {
        match self.bounds {
            Bounds::Whole(min, _) if number < min => Err(out_of_range(value, "is too small")),
            Bounds::Whole(_, max) if number > max => Err(out_of_range(value, "is too large")),
            _ => Ok(()),
        }
    }

    fn decimal(&self, number: &str, value: &str) -> Result<(), Fault> {
        let Bounds::Decimal(min, max) = self.bounds else { return Ok(()) };
        let number = number.parse::<f64>().unwrap_or(f64::INFINITY);
        let fits = number.is_finite() && (!self.single || (number as f32).is_finite());
        match () {
            () if number < min => Err(out_of_range(value, "is too small")),
            () if number > max || !fits => Err(out_of_range(value, "is too large")),
            () => Ok(()),
        }
    }
}

fn bounds(kind: ColumnType, column: &Column, target: Kind) -> Result<Bounds, (&'static str, String)> {
    let number = |field: &'static str, value: &Option<Value>| match value {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some((value.as_i64(), number))),
            None => Err((field, format!("`{field}` of numbers must be a number"))),
        },
    };
    let moment = |field: &'static str, value: &Option<Value>| match value {
        None => Ok(None),
        Some(value) => {
            let text = value.as_str().unwrap_or_default();
            let read = if kind == ColumnType::Date {
                value::date(text, &column.formats).or_else(|| value::date(text, &[])).map(i64::from)
            } else {
                value::datetime(text, &column.formats).or_else(|| value::datetime(text, &[]))
            };
            read.map(Some).ok_or_else(|| (field, format!("`{field}` must be written as the column's values")))
        }
    };
    let (least, most) = match target {
        Kind::Int2 => (i16::MIN.into(), i16::MAX.into()),
        Kind::Int4 => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN, i64::MAX),
    };
    match kind {
        ColumnType::Integer => {
            let min = number("min", &column.min)?.map_or(least, |(whole, near)| whole.unwrap_or(near.ceil() as i64));
            let max = number("max", &column.max)?.map_or(most, |(whole, near)| whole.unwrap_or(near.floor() as i64));
            Ok(Bounds::Whole(min.max(least), max.min(most)))
        }
        ColumnType::Decimal => {
            let limited = column.min.is_some() || column.max.is_some();
            let floating = matches!(target, Kind::Float4 | Kind::Float8);
            let min = number("min", &column.min)?.map_or(f64::NEG_INFINITY, |(_, number)| number);
            let max = number("max", &column.max)?.map_or(f64::INFINITY, |(_, number)| number);
            Ok(if limited || floating { Bounds::Decimal(min, max) } else { Bounds::None })
        }
        ColumnType::Date | ColumnType::Datetime => {
            let (min, max) = (moment("min", &column.min)?, moment("max", &column.max)?);
            Ok(Bounds::Whole(min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX)))
        }
        _ => match (&column.min, &column.max) {
            (Some(_), _) => Err(("min", "`min` is for numbers, dates and times".into())),
            (_, Some(_)) => Err(("max", "`max` is for numbers, dates and times".into())),
            _ => Ok(Bounds::None),
        },
    }
}

/// Whether there is surely nothing to trim.
fn is_trimmed(text: &str) -> bool {
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    ends.iter().all(|end| end.is_none_or(u8::is_ascii_graphic))
}

fn is_ascii_but(text: &str, not: fn(&u8) -> bool) -> bool {
    text.bytes().all(|byte| byte.is_ascii() && !not(&byte))
}

fn fault(code: &'static str, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into() }
}

fn invalid(value: &str, what: &str) -> Fault {
    fault("value_invalid", format!("{} is not {what}", shown(value)))
}

fn out_of_range(value: &str, how: &str) -> Fault {
    fault("value_out_of_range", format!("{} {how}", shown(value)))
}

/// A value in a message: short, on one line.
fn shown(value: &str) -> String {
    let short = value.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    if value.chars().nth(60).is_some() { format!("`{short}…`") } else { format!("`{short}`") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule_for(column: Value, kind: Kind) -> Result<Rule, (&'static str, String)> {
        let column = serde_json::from_value(column).unwrap();
        let target =
            connections::Column { name: "x".into(), kind, type_name: String::new(), not_null: false, max_length: None };
        Rule::new(&column, &target, false)
    }

    /// What becomes of a cell, as text or as a code.
    fn outcome(rule: &Rule, value: &str) -> String {
        let mut batch = Batch::new(1);
        batch.text.extend_from_slice(value.as_bytes());
        let mut fresh = Fresh { text: Vec::new(), at: value.len() };
        match rule.cell(value, 0, &mut fresh) {
            Ok(Cell::Null) => "null".into(),
            Ok(cell) => {
                batch.text.append(&mut fresh.text);
                let mut text = String::new();
                batch.render(cell, &mut text);
                text
            }
            Err(fault) => fault.code.into(),
        }
    }

    #[test]
    fn each_rule_takes_and_refuses() {
        let cases = [
            (json!({}), " a b ", "a b"),
            (json!({}), "", "null"),
            (json!({ "trim": false }), " a ", " a "),
            (json!({ "null_values": ["", "NA"] }), "NA", "null"),
            (json!({ "null_values": ["NA"] }), "", ""),
            (json!({ "required": true }), "  ", "value_required"),
            (json!({ "default": "x" }), "", "x"),
            (json!({ "default": 7, "type": "integer" }), "", "7"),
            (json!({ "case": "upper" }), "straße", "STRASSE"),
            (json!({ "type": "integer", "min": 0, "max": 9 }), "9", "9"),
            (json!({ "type": "integer", "min": 0, "max": 9 }), "10", "value_out_of_range"),
            (json!({ "type": "integer" }), "1.5", "value_invalid"),
            (json!({ "type": "decimal", "min": 0 }), "-0.01", "value_out_of_range"),
            (json!({ "type": "number" }), "+1.50", "1.50"),
            (json!({ "type": "number" }), "1,50", "value_invalid"),
            (json!({ "type": "boolean" }), "Yes", "true"),
            (json!({ "type": "date" }), "2024-02-30", "value_invalid"),
            (
                json!({ "type": "date", "formats": ["%d.%m.%Y"], "min": "01.01.2000" }),
                "31.12.1999",
                "value_out_of_range",
            ),
            (json!({ "type": "date", "formats": ["%d.%m.%Y"], "min": "2000-01-01" }), "31.12.2000", "2000-12-31"),
            (json!({ "type": "datetime" }), "2024-02-29T12:00:00+02:00", "2024-02-29 10:00:00"),
            (json!({ "type": "email", "case": "lower" }), "A@B.Org", "a@b.org"),
            (json!({ "type": "email" }), "a.b.org", "value_invalid"),
            (json!({ "type": "uuid" }), "67E5504410B1426F9247BB680E5FE0C8", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
            (json!({ "type": "enum", "values": ["FR", "DE"], "case": "upper" }), "fr", "FR"),
            (json!({ "type": "enum", "values": ["FR", "DE"] }), "fr", "value_not_allowed"),
            (json!({ "type": "json" }), "{\"a\": 1}", "{\"a\": 1}"),
            (json!({ "type": "json" }), "{a: 1}", "value_invalid"),
            (json!({ "min_length": 2, "max_length": 3 }), "é", "value_too_short"),
            (json!({ "min_length": 2, "max_length": 3 }), "éàü", "éàü"),
            (json!({ "min_length": 2, "max_length": 3 }), "éàüö", "value_too_long"),
            (json!({ "pattern": "^[A-Z]+$" }), "Ab", "value_pattern"),
        ];
        for (column, value, expected) in cases {
            let rule = rule_for(column.clone(), Kind::Text).unwrap();
            assert_eq!(outcome(&rule, value), expected, "{column} {value:?}");
        }
    }

    #[test]
    fn the_table_adds_its_own_limits() {
        assert_eq!(outcome(&rule_for(json!({}), Kind::Int2).unwrap(), "32768"), "value_out_of_range");
        assert_eq!(outcome(&rule_for(json!({}), Kind::Float4).unwrap(), "1e39"), "value_out_of_range");
        assert_eq!(outcome(&rule_for(json!({}), Kind::Date).unwrap(), "soon"), "value_invalid");
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        let cases = [
            (json!({ "pattern": "(" }), "pattern"),
            (json!({ "type": "enum" }), "type"),
            (json!({ "type": "date", "formats": ["%Q"] }), "formats"),
            (json!({ "type": "integer", "default": "x" }), "default"),
            (json!({ "type": "integer", "min": "x" }), "min"),
            (json!({ "type": "date", "max": "x" }), "max"),
            (json!({ "min": 1 }), "min"),
            (json!({ "type": "date", "formats": ["yyyy-mm-dd"] }), "formats"),
            (json!({ "type": "date", "formats": ["%d.%m"] }), "formats"),
            (json!({ "type": "integer", "min": 10, "max": 1 }), "max"),
            (json!({ "type": "decimal", "min": 1.5, "max": 1 }), "max"),
        ];
        for (column, field) in cases {
            assert_eq!(rule_for(column.clone(), Kind::Text).err().unwrap().0, field, "{column}");
        }
    }
}
