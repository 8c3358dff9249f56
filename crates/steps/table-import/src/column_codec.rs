//! The compiled rules of a column. A codec parses the text of a cell to a value, or gives the reason for its rejection.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value;

use super::bounds::ValueBounds;
use super::columns::{ImportColumn, ImportColumnType, TextCase};
use crate::codes;
use afterload_core::error::ErrorCode;
use afterload_pipeline::params::TextPattern;
use afterload_tabular::read::cell_parser::{self, IntegerError};
use afterload_target_db::{self as connections, BatchCell, BatchColumnType, RowBatch};

/// The reason why a cell, and so its row, is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// The error code; a reference, so that the result of each cell stays small.
    pub code: &'static ErrorCode,
    /// The message for people.
    pub message: String,
}

/// The compiled rules of one column.
pub struct ColumnCodec {
    /// The name of the table's column.
    pub name: String,
    /// The type of its cells.
    pub shape: BatchColumnType,
    kind: ImportColumnType,
    required: bool,
    trim: bool,
    nulls: Vec<String>,
    default: Option<String>,
    case: Option<TextCase>,
    pattern: Option<TextPattern>,
    values: Option<BTreeSet<String>>,
    formats: Vec<String>,
    min_length: usize,
    max_length: usize,
    bounds: ValueBounds,
}

/// Text that a rule has changed. It is appended to the text of the batch later.
#[derive(Debug, Default)]
pub struct ScratchText {
    /// The text.
    pub text: Vec<u8>,
    /// The offset in the batch at which the text will start.
    pub at: usize,
}

impl ScratchText {
    fn add_text(&mut self, text: &str) -> BatchCell {
        let start = self.at + self.text.len();
        self.text.extend_from_slice(text.as_bytes());
        RowBatch::text_cell(start..start + text.len())
    }
}

/// The result of parsing a cell.
enum ParsedCell {
    Cell(BatchCell),
    Unchanged,
    Text(String),
}

impl ColumnCodec {
    /// Compiles the rules of a column, and adds the limits of the table's column.
    ///
    /// # Errors
    /// The invalid field and a message.
    pub fn new(
        column: &ImportColumn,
        target: &connections::TableColumn,
        triggers: bool,
    ) -> Result<Self, (&'static str, String)> {
        let kind = column.kind.unwrap_or_else(|| ImportColumnType::from_db_type(target.column_type));
        let pattern = match column.pattern.as_deref().map(TextPattern::compile).transpose() {
            Ok(pattern) => pattern,
            Err(error) => return Err(("pattern", format!("`pattern` is not a regular expression: {error}"))),
        };
        if kind == ImportColumnType::Enum && column.values.as_ref().is_none_or(Vec::is_empty) {
            return Err(("type", "a column of type `enum` needs `values`".into()));
        }
        if let Some(format) = column.formats.iter().find(|format| !cell_parser::is_valid_format(format)) {
            return Err(("formats", format!("`{format}` is not a format of dates")));
        }
        if let Some(format) =
            column.formats.iter().find(|format| kind == ImportColumnType::Date && !cell_parser::has_full_date(format))
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
        let bounds = ValueBounds::parse(kind, column, target.column_type)?;
        let rule = Self {
            name: target.name.clone(),
            shape: kind.cell_shape(),
            kind,
            // A trigger may still set a missing value.
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
        match rule.default.as_deref().map(|default| rule.parse_value(default)) {
            Some(Err(fault)) => Err(("default", format!("`default` breaks the column's own rules: {}", fault.message))),
            _ => Ok(rule),
        }
    }

    /// Parses the text of a cell, which starts at `at` in the batch.
    ///
    /// # Errors
    /// The reason why the cell is rejected.
    pub fn parse_cell(&self, whole: &str, at: usize, fresh: &mut ScratchText) -> Result<BatchCell, RowError> {
        let trimmed = if self.trim && !is_trimmed(whole) { whole.trim() } else { whole };
        let start = if trimmed.len() < whole.len() { at + whole.len() - whole.trim_start().len() } else { at };
        let same = start..start + trimmed.len();
        let (read, value) = if self.nulls.iter().any(|null| null == trimmed) {
            match &self.default {
                None if self.required => return Err(row_error(&codes::VALUE_REQUIRED, "a value is required")),
                None => return Ok(BatchCell::Null),
                Some(default) => (self.parse_value(default)?, Cow::Owned(default.clone())),
            }
        } else {
            let value = match self.case {
                None => Cow::Borrowed(trimmed),
                Some(TextCase::Upper) if is_ascii_but(trimmed, u8::is_ascii_lowercase) => Cow::Borrowed(trimmed),
                Some(TextCase::Lower) if is_ascii_but(trimmed, u8::is_ascii_uppercase) => Cow::Borrowed(trimmed),
                Some(TextCase::Upper) => Cow::Owned(trimmed.to_uppercase()),
                Some(TextCase::Lower) => Cow::Owned(trimmed.to_lowercase()),
            };
            (self.parse_value(&value)?, value)
        };
        match (read, value) {
            (ParsedCell::Cell(cell), _) => Ok(cell),
            (ParsedCell::Unchanged, Cow::Borrowed(_)) => Ok(RowBatch::text_cell(same)),
            (ParsedCell::Unchanged, Cow::Owned(value)) | (ParsedCell::Text(value), _) => Ok(fresh.add_text(&value)),
        }
    }

    fn parse_value(&self, value: &str) -> Result<ParsedCell, RowError> {
        let read = self.parse_typed(value)?;
        if self.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(value)) {
            return Err(row_error(
                &codes::VALUE_PATTERN,
                format!("{} does not match the pattern", display_value(value)),
            ));
        }
        if let Some(values) = self.values.as_ref().filter(|values| !values.contains(value)) {
            let some = values.iter().take(10).map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
            let more = if values.len() > 10 { ", …" } else { "" };
            return Err(row_error(
                &codes::VALUE_NOT_ALLOWED,
                format!("{} is not one of {some}{more}", display_value(value)),
            ));
        }
        let kept = match &read {
            ParsedCell::Cell(_) => return Ok(read),
            ParsedCell::Unchanged => value,
            ParsedCell::Text(text) => text,
        };
        if self.min_length > 0 || self.max_length < kept.len() {
            let length = kept.chars().count();
            if length < self.min_length {
                let message =
                    format!("{} has {length} characters, at least {} are needed", display_value(kept), self.min_length);
                return Err(row_error(&codes::VALUE_TOO_SHORT, message));
            }
            if length > self.max_length {
                let message =
                    format!("{} has {length} characters, at most {} fit", display_value(kept), self.max_length);
                return Err(row_error(&codes::VALUE_TOO_LONG, message));
            }
        }
        Ok(read)
    }

    fn parse_typed(&self, value: &str) -> Result<ParsedCell, RowError> {
        let same =
            |good: bool, what: &str| if good { Ok(ParsedCell::Unchanged) } else { Err(invalid_value(value, what)) };
        let maybe = |text: Option<Cow<'_, str>>, what: &str| match text {
            Some(Cow::Borrowed(text)) if text.len() == value.len() => Ok(ParsedCell::Unchanged),
            Some(text) => Ok(ParsedCell::Text(text.into_owned())),
            None => Err(invalid_value(value, what)),
        };
        match self.kind {
            ImportColumnType::String | ImportColumnType::Enum => Ok(ParsedCell::Unchanged),
            ImportColumnType::Integer => match cell_parser::parse_integer(value) {
                Ok(number) => self.check_whole_bounds(number, value).map(|()| ParsedCell::Cell(BatchCell::Int(number))),
                Err(IntegerError::Invalid) => Err(invalid_value(value, "a whole number")),
                Err(IntegerError::TooLarge) => Err(value_out_of_range(value, "does not fit 64 bits")),
            },
            ImportColumnType::Decimal => {
                let number = cell_parser::parse_decimal(value);
                if let Some(number) = &number {
                    self.check_decimal_bounds(number, value)?;
                }
                maybe(number, "a number")
            }
            ImportColumnType::Boolean => match cell_parser::parse_boolean(value) {
                Some(truth) => Ok(ParsedCell::Cell(BatchCell::Bool(truth))),
                None => Err(invalid_value(value, "`true` or `false`")),
            },
            ImportColumnType::Date => match cell_parser::parse_date(value, &self.formats) {
                Some(days) => {
                    self.check_whole_bounds(days.into(), value).map(|()| ParsedCell::Cell(BatchCell::Date(days)))
                }
                None => Err(invalid_value(value, &self.expected_format("a date", "`2024-12-31`"))),
            },
            ImportColumnType::Datetime => match cell_parser::parse_datetime(value, &self.formats) {
                Some(micros) => {
                    self.check_whole_bounds(micros, value).map(|()| ParsedCell::Cell(BatchCell::DateTime(micros)))
                }
                None => Err(invalid_value(value, &self.expected_format("a time", "`2024-12-31T23:59:59Z`"))),
            },
            ImportColumnType::Email => same(cell_parser::is_email(value), "an e-mail address"),
            ImportColumnType::Url => same(cell_parser::is_url(value), "a URL"),
            ImportColumnType::Uuid => maybe(cell_parser::normalize_uuid(value), "a UUID"),
            ImportColumnType::Json => same(serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok(), "JSON"),
        }
    }

    fn expected_format(&self, what: &str, iso: &str) -> String {
        let formats = self.formats.iter().map(|format| format!("`{format}`")).collect::<Vec<_>>().join(" or ");
        if formats.is_empty() { format!("{what} such as {iso}") } else { format!("{what} written as {formats}") }
    }

    fn check_whole_bounds(&self, number: i64, value: &str) -> Result<(), RowError> {
        self.bounds.check_whole(number).map_err(|fault| value_out_of_range(value, fault.message()))
    }

    fn check_decimal_bounds(&self, number: &str, value: &str) -> Result<(), RowError> {
        self.bounds.check_decimal(number).map_err(|fault| value_out_of_range(value, fault.message()))
    }
}

/// Whether the text certainly has nothing to trim.
fn is_trimmed(text: &str) -> bool {
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    ends.iter().all(|end| end.is_none_or(u8::is_ascii_graphic))
}

fn is_ascii_but(text: &str, not: fn(&u8) -> bool) -> bool {
    text.bytes().all(|byte| byte.is_ascii() && !not(&byte))
}

fn row_error(code: &'static ErrorCode, message: impl Into<String>) -> RowError {
    RowError { code, message: message.into() }
}

fn invalid_value(value: &str, what: &str) -> RowError {
    row_error(&codes::VALUE_INVALID, format!("{} is not {what}", display_value(value)))
}

fn value_out_of_range(value: &str, how: &str) -> RowError {
    row_error(&codes::VALUE_OUT_OF_RANGE, format!("{} {how}", display_value(value)))
}

/// Formats a value for a message: short and on one line.
fn display_value(value: &str) -> String {
    let short = value.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    if value.chars().nth(60).is_some() { format!("`{short}…`") } else { format!("`{short}`") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use afterload_target_db::DbColumnType;

    fn rule_for(column: Value, kind: DbColumnType) -> Result<ColumnCodec, (&'static str, String)> {
        let column = serde_json::from_value(column).unwrap();
        let target = connections::TableColumn {
            name: "x".into(),
            column_type: kind,
            type_name: String::new(),
            not_null: false,
            max_length: None,
        };
        ColumnCodec::new(&column, &target, false)
    }

    /// Returns the parsed cell as text, or the code of its error.
    fn outcome(rule: &ColumnCodec, value: &str) -> String {
        let mut batch = RowBatch::new(1);
        batch.text_buffer.extend_from_slice(value.as_bytes());
        let mut fresh = ScratchText { text: Vec::new(), at: value.len() };
        match rule.parse_cell(value, 0, &mut fresh) {
            Ok(BatchCell::Null) => "null".into(),
            Ok(cell) => {
                batch.text_buffer.append(&mut fresh.text);
                let mut text = String::new();
                batch.render_cell(cell, &mut text);
                text
            }
            Err(fault) => fault.code.name().into(),
        }
    }

    #[test]
    fn column_rules_accept_and_reject_values() {
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
            (json!({ "type": "decimal", "max": "1234567890123456.78" }), "1234567890123456.78", "1234567890123456.78"),
            (json!({ "type": "decimal", "max": "1234567890123456.78" }), "1234567890123456.79", "value_out_of_range"),
            (json!({ "type": "decimal", "min": "1234567890123456.78" }), "1234567890123456.77", "value_out_of_range"),
            (json!({ "type": "decimal", "max": 9007199254740992_u64 }), "9007199254740993", "value_out_of_range"),
            (json!({ "type": "decimal", "max": 0.1 }), "0.1", "0.1"),
            (json!({ "type": "decimal", "max": 0.1 }), "0.10000000000000001", "value_out_of_range"),
            (json!({ "type": "decimal", "max": 1e30 }), "1000000000000000000000000000001", "value_out_of_range"),
            (json!({ "type": "integer", "max": 9007199254740992_u64 }), "9007199254740993", "value_out_of_range"),
            (json!({ "type": "integer", "min": "1234567890123456.5" }), "1234567890123456", "value_out_of_range"),
            (json!({ "type": "integer", "min": "-0.5", "max": 0.5 }), "0", "0"),
            (json!({ "type": "number" }), "+1.50", "1.50"),
            (json!({ "type": "number" }), "1,50", "value_invalid"),
            (json!({ "type": "number", "min": 1 }), "1,50", "value_invalid"),
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
            let rule = rule_for(column.clone(), DbColumnType::Text).unwrap();
            assert_eq!(outcome(&rule, value), expected, "{column} {value:?}");
        }
    }

    #[test]
    fn table_column_limits_apply() {
        assert_eq!(outcome(&rule_for(json!({}), DbColumnType::Int2).unwrap(), "32768"), "value_out_of_range");
        assert_eq!(outcome(&rule_for(json!({}), DbColumnType::Float4).unwrap(), "1e39"), "value_out_of_range");
        assert_eq!(outcome(&rule_for(json!({}), DbColumnType::Date).unwrap(), "soon"), "value_invalid");
    }

    #[test]
    fn invalid_rules_are_rejected() {
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
            (json!({ "type": "decimal", "min": "1234567890123456.78", "max": "1234567890123456.77" }), "max"),
            (json!({ "type": "decimal", "max": "many" }), "max"),
        ];
        for (column, field) in cases {
            assert_eq!(rule_for(column.clone(), DbColumnType::Text).err().unwrap().0, field, "{column}");
        }
    }
}
