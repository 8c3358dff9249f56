//! The minimum and the maximum of the values of a column. Every digit of a number counts.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use crate::columns::{ImportColumn, ImportColumnType};
use afterload_core::decimal::compare_decimals;
use afterload_core::exact_decimal::number_digits;
use afterload_tabular::read::cell_parser;
use afterload_tabular::read::date_format::DateFormats;
use afterload_target_db::DbColumnType;

/// The minimum and maximum value.
pub enum ValueBounds {
    /// No bounds.
    None,
    /// Whole numbers, days or microseconds.
    Whole(i64, i64),
    /// Decimal numbers.
    Decimal {
        /// The minimum, as digits.
        min: Option<String>,
        /// The maximum, as digits.
        max: Option<String>,
        /// The float that stores the value.
        float: Option<FloatWidth>,
    },
}

/// The floats of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatWidth {
    /// 32 bits.
    Single,
    /// 64 bits.
    Double,
}

/// Why a value is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeFault {
    /// It is less than the minimum.
    TooSmall,
    /// It is more than the maximum.
    TooLarge,
}

impl RangeFault {
    /// What is wrong with the value.
    pub fn message(self) -> &'static str {
        match self {
            Self::TooSmall => "is too small",
            Self::TooLarge => "is too large",
        }
    }
}

impl ValueBounds {
    /// Reads `min` and `max` of a column, and adds the limits of the table's column.
    ///
    /// # Errors
    /// The invalid field and a message.
    pub fn compile(
        kind: ImportColumnType,
        column: &ImportColumn,
        dates: &DateFormats,
        target: DbColumnType,
    ) -> Result<Self, (&'static str, String)> {
        let bounds = match kind {
            ImportColumnType::Integer => parse_integer_bounds(column, target)?,
            ImportColumnType::Decimal => parse_decimal_bounds(column, target)?,
            ImportColumnType::Date | ImportColumnType::Datetime => {
                let (min, max) =
                    (parse_time("min", kind, &column.min, dates)?, parse_time("max", kind, &column.max, dates)?);
                Self::Whole(min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX))
            }
            _ => match (&column.min, &column.max) {
                (Some(_), _) => return Err(("min", "`min` is for numbers, dates and times".into())),
                (_, Some(_)) => return Err(("max", "`max` is for numbers, dates and times".into())),
                _ => Self::None,
            },
        };
        match bounds.is_empty() {
            true => Err(("max", "nothing lies between `min` and `max`".into())),
            false => Ok(bounds),
        }
    }

    /// True if no value fits.
    fn is_empty(&self) -> bool {
        match self {
            Self::None => false,
            Self::Whole(min, max) => min > max,
            Self::Decimal { min, max, .. } => {
                min.as_ref().zip(max.as_ref()).is_some_and(|(min, max)| compare_decimals(min, max) == Ordering::Greater)
            }
        }
    }

    /// Checks a whole number, or a date or time as such.
    ///
    /// # Errors
    /// Why the number does not fit.
    pub fn check_whole(&self, number: i64) -> Result<(), RangeFault> {
        match *self {
            Self::Whole(min, _) if number < min => Err(RangeFault::TooSmall),
            Self::Whole(_, max) if number > max => Err(RangeFault::TooLarge),
            _ => Ok(()),
        }
    }

    /// Checks a number as [`cell_parser::parse_decimal`] writes it.
    ///
    /// # Errors
    /// Why the number does not fit.
    pub fn check_decimal(&self, number: &str) -> Result<(), RangeFault> {
        let Self::Decimal { min, max, float } = self else { return Ok(()) };
        let is = |order: Ordering, bound: &Option<String>| {
            bound.as_deref().is_some_and(|bound| compare_decimals(number, bound) == order)
        };
        let is_finite = match float {
            None => true,
            Some(FloatWidth::Single) => number.parse::<f32>().is_ok_and(f32::is_finite),
            Some(FloatWidth::Double) => number.parse::<f64>().is_ok_and(f64::is_finite),
        };
        match () {
            () if is(Ordering::Less, min) => Err(RangeFault::TooSmall),
            () if is(Ordering::Greater, max) || !is_finite => Err(RangeFault::TooLarge),
            () => Ok(()),
        }
    }
}

fn parse_integer_bounds(column: &ImportColumn, target: DbColumnType) -> Result<ValueBounds, (&'static str, String)> {
    let (least, most) = match target {
        DbColumnType::Int2 => (i16::MIN.into(), i16::MAX.into()),
        DbColumnType::Int4 => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN, i64::MAX),
    };
    let min = parse_number("min", &column.min)?.map_or(least, |min| round_up(&min));
    let max = parse_number("max", &column.max)?.map_or(most, |max| round_down(&max));
    Ok(ValueBounds::Whole(min.max(least), max.min(most)))
}

fn parse_decimal_bounds(column: &ImportColumn, target: DbColumnType) -> Result<ValueBounds, (&'static str, String)> {
    let (min, max) = (parse_number("min", &column.min)?, parse_number("max", &column.max)?);
    let float = match target {
        DbColumnType::Float4 => Some(FloatWidth::Single),
        DbColumnType::Float8 => Some(FloatWidth::Double),
        _ => None,
    };
    match (&min, &max, float) {
        (None, None, None) => Ok(ValueBounds::None),
        _ => Ok(ValueBounds::Decimal { min, max, float }),
    }
}

/// The digits of a bound. A number that a float would change is text.
fn parse_number(field: &'static str, value: &Option<Value>) -> Result<Option<String>, (&'static str, String)> {
    let digits = match value {
        None => return Ok(None),
        Some(Value::Number(number)) => Some(number_digits(number)),
        Some(Value::String(text)) => cell_parser::parse_decimal(text).map(Cow::into_owned),
        Some(_) => None,
    };
    digits.map(Some).ok_or_else(|| (field, format!("`{field}` of numbers must be a number")))
}

fn parse_time(
    field: &'static str,
    kind: ImportColumnType,
    value: &Option<Value>,
    dates: &DateFormats,
) -> Result<Option<i64>, (&'static str, String)> {
    let Some(value) = value else { return Ok(None) };
    let text = value.as_str().unwrap_or_default();
    let read = |dates: &DateFormats| match kind {
        ImportColumnType::Date => cell_parser::parse_date(text, dates).map(i64::from),
        _ => cell_parser::parse_datetime(text, dates),
    };
    let time = read(dates).or_else(|| read(&DateFormats::default()));
    time.map(Some).ok_or_else(|| (field, format!("`{field}` must be written as the column's values")))
}

/// The least whole number that is not less than the digits. It saturates.
fn round_up(digits: &str) -> i64 {
    let whole = truncate_fraction(digits);
    if compare_decimals(digits, &whole.to_string()) == Ordering::Greater { whole.saturating_add(1) } else { whole }
}

/// The greatest whole number that is not more than the digits. It saturates.
fn round_down(digits: &str) -> i64 {
    let whole = truncate_fraction(digits);
    if compare_decimals(digits, &whole.to_string()) == Ordering::Less { whole.saturating_sub(1) } else { whole }
}

fn truncate_fraction(digits: &str) -> i64 {
    let whole = digits.split_once('.').map_or(digits, |(whole, _)| whole);
    whole.parse().unwrap_or(if digits.starts_with('-') { i64::MIN } else { i64::MAX })
}
