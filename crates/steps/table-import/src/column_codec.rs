//! The compiled rules of a column. A codec parses the text of a cell to a value, or gives the reason for its rejection.

mod bounds;
mod typed;
mod words;

use std::borrow::Cow;

use serde_json::Value;

use super::columns::{BlankAction, ImportColumn, ImportColumnType, NumberSpec, TextCase};
use crate::codes;
use afterload_core::error::ErrorCode;
use afterload_pipeline::params::TextPattern;
use afterload_tabular::read::date_format::{DateFormats, parse_timezone};
use afterload_tabular::read::number_format::NumberFormat;
use afterload_target_db::{self as connections, BatchCell, BatchColumnType, DbColumnType, RowBatch};
use bounds::ValueBounds;
use words::{AllowedValues, BooleanWords, ValueMap};

/// The reason why a cell, and so its row, is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// The error code; a reference, so that the result of each cell stays small.
    pub code: &'static ErrorCode,
    /// The message for people.
    pub message: String,
}

/// The settings of the import and of the database that apply to all columns.
#[derive(Clone, Copy, Debug, Default)]
pub struct CodecContext<'a> {
    /// How the file writes numbers, unless a column says otherwise.
    pub number: Option<&'a NumberSpec>,
    /// Whether triggers may still fill missing values.
    pub has_triggers: bool,
    /// Whether the database turns decimals into floating point numbers of 15 digits.
    pub rounds_decimals: bool,
    /// Whether dates may stand in ISO 8601 beside the formats of their column.
    pub iso_dates: bool,
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
    map: Option<ValueMap>,
    nulls: Vec<String>,
    default: Option<String>,
    /// The value of every row.
    constant: Option<Option<String>>,
    on_blank: BlankAction,
    case: Option<TextCase>,
    pattern: Option<TextPattern>,
    values: Option<AllowedValues>,
    number: Option<NumberFormat>,
    booleans: Option<BooleanWords>,
    formats: Vec<String>,
    dates: DateFormats,
    /// The formats that are tried after those of the column.
    iso_dates: Option<DateFormats>,
    /// Whether decimals of more than 15 digits would become another number.
    rounds_decimals: bool,
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
        context: CodecContext<'_>,
    ) -> Result<Self, (&'static str, String)> {
        let kind = column.kind.unwrap_or_else(|| ImportColumnType::from_db_type(target.column_type));
        let pattern = match column.pattern.as_deref().map(TextPattern::compile).transpose() {
            Ok(pattern) => pattern,
            Err(error) => return Err(("pattern", format!("`pattern` is not a regular expression: {error}"))),
        };
        if kind == ImportColumnType::Enum && column.values.as_ref().is_none_or(Vec::is_empty) {
            return Err(("type", "a column of type `enum` needs `values`".into()));
        }
        let dates = compile_dates(kind, column)?;
        let iso_dates = match context.iso_dates && !dates.is_iso() {
            true => DateFormats::compile(&[], dates.zone(), None).ok(),
            false => None,
        };
        let bounds = ValueBounds::compile(kind, column, &dates, target.column_type)?;
        let numeric = matches!(kind, ImportColumnType::Integer | ImportColumnType::Decimal);
        let number = match column.number.as_ref().or(context.number.filter(|_| numeric)) {
            Some(_) if !numeric => return Err(("number", "`number` is for whole and decimal numbers".into())),
            Some(spec) => Some(spec.compile().map_err(|message| ("number", message))?),
            None => None,
        };
        // SQLite's numeric and whole columns turn decimals into floating point numbers.
        let affine = matches!(
            target.column_type,
            DbColumnType::Numeric | DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8
        );
        let values = column.values.as_ref().map(|values| AllowedValues::new(values, kind == ImportColumnType::Enum));
        let rule = Self {
            name: target.name.clone(),
            shape: kind.cell_shape(),
            kind,
            // A trigger may still set a missing value.
            required: column.required || (target.not_null && !context.has_triggers),
            trim: column.trim.unwrap_or(true),
            map: ValueMap::compile(&column.map).map_err(|message| ("map", message))?,
            nulls: column.null_values.clone().unwrap_or_else(|| vec![String::new()]),
            default: scalar_text("default", column.default.as_ref())?,
            constant: match &column.value {
                Some(value) => Some(scalar_text("value", Some(value))?),
                None => None,
            },
            on_blank: column.on_blank,
            case: column.case,
            pattern,
            values,
            number,
            booleans: BooleanWords::compile(column).map_err(|message| ("true_values", message))?,
            formats: column.formats.clone(),
            dates,
            iso_dates,
            rounds_decimals: context.rounds_decimals && affine,
            min_length: column.min_length.unwrap_or(0),
            max_length: column.max_length.unwrap_or(usize::MAX).min(target.max_length.unwrap_or(usize::MAX)),
            bounds,
        };
        rule.check_own_values()?;
        Ok(rule)
    }

    /// Checks that the default and the constant keep the rules of the column.
    fn check_own_values(&self) -> Result<(), (&'static str, String)> {
        let own = [("default", self.default.as_deref()), ("value", self.constant.as_ref().and_then(Option::as_deref))];
        for (field, text) in own {
            // The constant and the default of dates and numbers are written as the cells are, or in the plain form.
            if let Some(Err(fault)) = text.map(|text| self.parse_own_value(text)) {
                return Err((field, format!("`{field}` breaks the column's own rules: {}", fault.message)));
            }
        }
        Ok(())
    }

    /// Whether an empty cell leaves the row that is there as it is.
    pub fn keeps_on_blank(&self) -> bool {
        self.on_blank == BlankAction::Keep
    }

    /// Makes the cell of a column that has a constant, or that the file lacks.
    ///
    /// # Errors
    /// The reason why the row is rejected.
    pub fn make_cell(&self, fresh: &mut ScratchText) -> Result<BatchCell, RowError> {
        match self.constant.as_ref().unwrap_or(&self.default) {
            Some(text) => Ok(match self.parse_own_value(text)? {
                ParsedCell::Cell(cell) => cell,
                ParsedCell::Unchanged => fresh.add_text(text),
                ParsedCell::Text(text) => fresh.add_text(&text),
            }),
            None if self.required => Err(row_error(&codes::VALUE_REQUIRED, "a value is required")),
            None => Ok(BatchCell::Null),
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
        let mapped = self.map.as_ref().and_then(|map| map.get(trimmed));
        if mapped.is_none_or(Option::is_none) && (mapped.is_some() || self.nulls.iter().any(|null| null == trimmed)) {
            return match self.on_blank {
                BlankAction::Default if self.default.is_some() && self.constant.is_none() => self.make_cell(fresh),
                _ if self.required => Err(row_error(&codes::VALUE_REQUIRED, "a value is required")),
                _ => Ok(BatchCell::Null),
            };
        }
        let (read, value) = if let Some(Some(value)) = mapped {
            (self.parse_value(value)?, Cow::Owned(value.clone()))
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
        let read = match self.values.as_ref().map(|values| (values, values.find(value))) {
            None => read,
            Some((_, Some(listed))) if listed == value => read,
            Some((_, Some(listed))) => ParsedCell::Text(listed.to_owned()),
            Some((values, None)) => {
                let message = format!("{} is not one of {}", display_value(value), values.describe());
                return Err(row_error(&codes::VALUE_NOT_ALLOWED, message));
            }
        };
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
}

fn compile_dates(kind: ImportColumnType, column: &ImportColumn) -> Result<DateFormats, (&'static str, String)> {
    let zone = match column.timezone.as_deref() {
        Some(name) => match parse_timezone(name) {
            Some(zone) => Some(zone),
            None => {
                return Err(("timezone", format!("`{name}` is not a time zone; expected one such as `Europe/Paris`")));
            }
        },
        None => None,
    };
    if column.year_pivot.is_some_and(|pivot| !(1..=9900).contains(&pivot)) {
        return Err(("year_pivot", "`year_pivot` must be a year such as 1950".into()));
    }
    let dates = DateFormats::compile(&column.formats, zone, column.year_pivot)
        .map_err(|format| ("formats", format!("`{format}` is not a format of dates")))?;
    match dates.find_partial_date().filter(|_| kind == ImportColumnType::Date) {
        Some(format) => {
            Err(("formats", format!("`{format}` does not say which day it is; expected one such as `%Y-%m-%d`")))
        }
        None => Ok(dates),
    }
}

/// The text of a single value; `None` for null.
fn scalar_text(field: &'static str, value: Option<&Value>) -> Result<Option<String>, (&'static str, String)> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => Ok(Some(value.to_string())),
        Some(_) => Err((field, format!("`{field}` must be a single value"))),
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

/// Formats a value for a message: short and on one line.
fn display_value(value: &str) -> String {
    let short = value.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    if value.chars().nth(60).is_some() { format!("`{short}…`") } else { format!("`{short}`") }
}

#[cfg(test)]
mod tests;
