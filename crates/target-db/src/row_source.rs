//! Values that are asked for one by one, where they are written.

use std::borrow::Cow;

use serde_json::Value;

/// A value on its way into a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// Any other value of JSON.
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
                // Whole numbers beyond 64 bits with a sign keep all their digits.
                _ => Self::Json(value),
            },
            other => Self::Json(other),
        }
    }
}

/// Rows whose values are asked for one by one, where they are written.
pub trait RowSource: Send + Sync + 'static {
    /// How many there are.
    fn row_count(&self) -> usize;
    /// A value of a row, both counted from 0.
    fn value_at(&self, row: usize, column: usize) -> Scalar<'_>;
}
