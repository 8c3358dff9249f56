//! Rows whose values are read one by one while they are written.

use std::borrow::Cow;

use serde_json::Value;

/// A value that is written into a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// SQL null.
    Null,
    /// An integer.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// Any other JSON value.
    Json(&'a Value),
}

impl<'a> From<&'a Value> for Scalar<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::String(text) => Self::Text(text.into()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Self::Integer(number),
                (None, Some(real)) if number.is_f64() => Self::Float(real),
                // An integer above `i64::MAX` would lose digits as a float.
                _ => Self::Json(value),
            },
            other => Self::Json(other),
        }
    }
}

/// Rows whose values are read one by one while they are written.
pub trait RowSource: Send + Sync + 'static {
    /// The number of rows.
    fn row_count(&self) -> usize;
    /// The value at a row and a column, both counted from 0.
    fn value_at(&self, row: usize, column: usize) -> Scalar<'_>;
}
