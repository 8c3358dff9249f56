//! Parses values of each type.

use std::borrow::Cow;

use super::{ColumnCodec, ParsedCell, RowError, display_value, row_error};
use crate::codes;
use crate::columns::ImportColumnType;
use afterload_tabular::read::cell_parser::{self, IntegerError};
use afterload_tabular::read::date_format::DateFormats;
use afterload_target_db::BatchCell;

/// The decimal digits that survive in a floating point number.
const MAX_FLOAT_DIGITS: usize = 15;

impl ColumnCodec {
    pub(super) fn parse_typed(&self, value: &str) -> Result<ParsedCell, RowError> {
        let same =
            |good: bool, what: &str| if good { Ok(ParsedCell::Unchanged) } else { Err(invalid_value(value, what)) };
        let maybe = |text: Option<Cow<'_, str>>, what: &str| match text {
            Some(Cow::Borrowed(text)) if text.len() == value.len() => Ok(ParsedCell::Unchanged),
            Some(text) if text == value => Ok(ParsedCell::Unchanged),
            Some(text) => Ok(ParsedCell::Text(text.into_owned())),
            None => Err(invalid_value(value, what)),
        };
        match self.kind {
            ImportColumnType::String | ImportColumnType::Enum => Ok(ParsedCell::Unchanged),
            ImportColumnType::Integer => self.parse_whole_number(value),
            ImportColumnType::Decimal => {
                let number = match &self.number {
                    None => cell_parser::parse_decimal(value),
                    Some(format) => format.parse(value).map(Cow::Owned),
                };
                let Some(number) = number else { return Err(self.not_a_number(value, "a number")) };
                self.check_decimal_bounds(&number, value)?;
                if self.rounds_decimals && number.len() > MAX_FLOAT_DIGITS && !is_exact_in_sqlite(&number) {
                    let message = format!(
                        "{} has more than {MAX_FLOAT_DIGITS} digits, and the column would keep another number",
                        display_value(value)
                    );
                    return Err(row_error(&codes::VALUE_TOO_PRECISE, message));
                }
                maybe(Some(number), "a number")
            }
            ImportColumnType::Boolean => {
                let truth = match &self.booleans {
                    None => cell_parser::parse_boolean(value),
                    Some(words) => words.parse(value),
                };
                match truth {
                    Some(truth) => Ok(ParsedCell::Cell(BatchCell::Bool(truth))),
                    None => Err(invalid_value(
                        value,
                        "`true` or `false`; name the words of the file in `true_values` and `false_values`",
                    )),
                }
            }
            ImportColumnType::Date => match self.parse_by_formats(value, cell_parser::parse_date) {
                Some(days) => {
                    self.check_whole_bounds(days.into(), value).map(|()| ParsedCell::Cell(BatchCell::Date(days)))
                }
                None => Err(invalid_value(value, &self.expected_format("a date", "`2024-12-31`"))),
            },
            ImportColumnType::Datetime => match self.parse_by_formats(value, cell_parser::parse_datetime) {
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

    fn parse_by_formats<T>(&self, value: &str, parse: impl Fn(&str, &DateFormats) -> Option<T>) -> Option<T> {
        parse(value, &self.dates).or_else(|| parse(value, self.iso_dates.as_ref()?))
    }

    fn parse_whole_number(&self, value: &str) -> Result<ParsedCell, RowError> {
        let number = match &self.number {
            None => cell_parser::parse_integer(value),
            Some(format) => {
                format.parse(value).map_or(Err(IntegerError::Invalid), |number| cell_parser::parse_integer(&number))
            }
        };
        match number {
            Ok(number) => self.check_whole_bounds(number, value).map(|()| ParsedCell::Cell(BatchCell::Int(number))),
            Err(IntegerError::Invalid) => Err(self.not_a_number(value, "a whole number")),
            Err(IntegerError::TooLarge) => Err(value_out_of_range(value, "does not fit 64 bits")),
        }
    }

    /// Names the option for numbers that people write with marks. Their meaning is never guessed.
    fn not_a_number(&self, value: &str, what: &str) -> RowError {
        let written =
            value.bytes().any(|byte| byte.is_ascii_digit()) && !value.bytes().any(|byte| byte.is_ascii_alphabetic());
        let hint = match &self.number {
            Some(_) => " as the column's `number` says",
            None if written => "; if the file writes numbers so set `number` (as in `number: de`)",
            None => "",
        };
        invalid_value(value, &format!("{what}{hint}"))
    }

    /// Parses a default or a constant, which may also stand in the plain form of its type.
    pub(super) fn parse_own_value(&self, text: &str) -> Result<ParsedCell, RowError> {
        self.parse_value(text).or_else(|fault| {
            if *fault.code != codes::VALUE_INVALID {
                return Err(fault);
            }
            let plain = match self.kind {
                ImportColumnType::Integer => {
                    let number = cell_parser::parse_integer(text).ok();
                    number.map(|number| (BatchCell::Int(number), number))
                }
                ImportColumnType::Date => {
                    let days = cell_parser::parse_date(text, &DateFormats::default());
                    days.map(|days| (BatchCell::Date(days), i64::from(days)))
                }
                ImportColumnType::Datetime => {
                    let micros = cell_parser::parse_datetime(text, &DateFormats::default());
                    micros.map(|micros| (BatchCell::DateTime(micros), micros))
                }
                ImportColumnType::Boolean => {
                    cell_parser::parse_boolean(text).map(|truth| (BatchCell::Bool(truth), i64::from(truth)))
                }
                ImportColumnType::Decimal if self.number.is_some() => {
                    let Some(number) = cell_parser::parse_decimal(text) else { return Err(fault) };
                    self.check_decimal_bounds(&number, text)?;
                    return Ok(ParsedCell::Text(number.into_owned()));
                }
                _ => None,
            };
            let Some((cell, number)) = plain else { return Err(fault) };
            self.check_whole_bounds(number, text).map(|()| ParsedCell::Cell(cell))
        })
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

/// Whether SQLite keeps a normalized decimal exactly: with up to 15 digits, or as a whole number of 64 bits.
fn is_exact_in_sqlite(number: &str) -> bool {
    let nonzero = |byte: &u8| matches!(byte, b'1'..=b'9');
    let bytes = number.as_bytes();
    let (Some(first), Some(last)) = (bytes.iter().position(nonzero), bytes.iter().rposition(nonzero)) else {
        return true;
    };
    let digits = bytes[first..=last].iter().filter(|byte| byte.is_ascii_digit()).count();
    digits <= MAX_FLOAT_DIGITS || number.parse::<i64>().is_ok()
}

fn invalid_value(value: &str, what: &str) -> RowError {
    row_error(&codes::VALUE_INVALID, format!("{} is not {what}", display_value(value)))
}

fn value_out_of_range(value: &str, how: &str) -> RowError {
    row_error(&codes::VALUE_OUT_OF_RANGE, format!("{} {how}", display_value(value)))
}
