//! Collects the rows that a statement returns.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

use super::StatementResult;
use crate::codes;
use afterload_core::error::{Error, Result};

/// How to collect the rows that a statement returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultMode {
    /// Keeps all rows. Exceeding a limit is an error.
    All {
        /// The maximum number of rows.
        rows: usize,
        /// The maximum size as JSON, in bytes.
        bytes: usize,
    },
    /// Keeps no rows.
    Discard,
    /// Keeps the greatest value of the first column. It must hold integers or text. Text is compared byte by byte.
    MaxOfFirstColumn,
}

/// The rows that a statement returned. All rows have the same columns, so their names are stored once.
#[derive(Clone, Debug, Default)]
pub struct ResultRows {
    names: Vec<String>,
    values: Vec<Value>,
    count: usize,
}

impl ResultRows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The index of a column. If several columns have the name, the last one counts.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.names.iter().rposition(|known| known == name)
    }

    /// The value at a row and a column, both counted from 0.
    pub fn value_at(&self, row: usize, column: usize) -> &Value {
        &self.values[row * self.names.len() + column]
    }

    /// The first value of the first row.
    pub fn first_value(&self) -> Option<&Value> {
        self.values.first()
    }

    /// Converts a row to JSON.
    pub fn row_to_json(&self, row: usize) -> Map<String, Value> {
        let values = (0..self.names.len()).map(|column| self.value_at(row, column).clone());
        self.names.iter().cloned().zip(values).collect()
    }

    /// Converts all rows to JSON.
    pub fn rows_to_json(&self) -> Vec<Map<String, Value>> {
        (0..self.count).map(|row| self.row_to_json(row)).collect()
    }
}

/// Collects the rows of a statement one by one.
pub(crate) struct RowCollector {
    result_mode: ResultMode,
    bytes: usize,
    row_count: u64,
    result: StatementResult,
}

impl RowCollector {
    pub(crate) fn new(keep: ResultMode) -> Self {
        Self { result_mode: keep, bytes: 0, row_count: 0, result: StatementResult::default() }
    }

    /// Collects a row. `read` returns the value of a column by its index.
    pub(crate) fn collect_row<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
        mut read: impl FnMut(usize) -> Result<Value>,
    ) -> Result<()> {
        self.row_count += 1;
        let (rows, bytes) = match self.result_mode {
            ResultMode::Discard => return Ok(()),
            ResultMode::MaxOfFirstColumn => return self.update_max(read(0)?),
            ResultMode::All { rows, bytes } => (rows, bytes),
        };
        let taken = &mut self.result.rows;
        if taken.count == rows {
            return Err(result_too_large_error(format!("the statement gives more than {rows} rows")));
        }
        if taken.count == 0 {
            taken.names = names.map(str::to_owned).collect();
        }
        for (index, name) in taken.names.iter().enumerate() {
            let value = read(index)?;
            self.bytes += name.len() + 6 + json_size(&value);
            if self.bytes > bytes {
                return Err(result_too_large_error(format!("the rows of the statement have more than {bytes} bytes")));
            }
            taken.values.push(value);
        }
        taken.count += 1;
        Ok(())
    }

    fn update_max(&mut self, value: Value) -> Result<()> {
        if value.is_null() {
            return Ok(());
        }
        let better = match &self.result.max_value {
            None => compare_values(&value, &value).map(|_| true),
            Some(known) => compare_values(&value, known).map(|order| order == Ordering::Greater),
        };
        let better = better.ok_or_else(|| {
            Error::new(codes::BATCH_CURSOR_INVALID, "the first column that `RETURNING` gives cannot be a cursor")
                .with_hint("let it give a whole number or a text, such as the primary key")
        })?;
        if better {
            self.result.max_value = Some(value);
        }
        Ok(())
    }

    /// The number of rows returned, including those that were not kept.
    pub(crate) fn row_count(&self) -> u64 {
        self.row_count
    }

    /// Makes the result of a statement that changed `affected` rows.
    pub(crate) fn finish(self, affected: u64) -> StatementResult {
        StatementResult { affected, ..self.result }
    }
}

/// Compares two cursor values. `None` if they are not comparable.
pub fn compare_values(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => Some(one.as_i64()?.cmp(&other.as_i64()?)),
        (Value::String(one), Value::String(other)) => Some(one.as_bytes().cmp(other.as_bytes())),
        _ => None,
    }
}

/// The approximate size of a value as JSON, in bytes.
fn json_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Null | Value::Bool(_) => 4,
        Value::Number(number) => count_digits(number).unwrap_or_else(|| number.to_string().len()),
        other => other.to_string().len(),
    }
}

/// The length of an integer as text.
fn count_digits(number: &Number) -> Option<usize> {
    let whole = number.as_i64()?;
    Some(whole.unsigned_abs().checked_ilog10().unwrap_or_default() as usize + 1 + usize::from(whole < 0))
}

fn result_too_large_error(message: String) -> Error {
    Error::new(codes::SQL_RESULT_TOO_LARGE, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(keep: ResultMode, rows: &[Value]) -> Result<StatementResult> {
        let mut taker = RowCollector::new(keep);
        for value in rows {
            taker.collect_row(["a"].into_iter(), |_| Ok(value.clone()))?;
        }
        Ok(taker.finish(0))
    }

    #[test]
    fn too_many_rows_or_bytes_are_an_error() {
        let keep = ResultMode::All { rows: 2, bytes: 100 };
        assert_eq!(take(keep, &[json!(1), json!("x")]).unwrap().rows.len(), 2);
        for rows in [vec![json!(1); 3], vec![json!("x".repeat(100))], vec![json!(["x".repeat(50), "x".repeat(50)])]] {
            assert_eq!(take(keep, &rows).unwrap_err().code(), codes::SQL_RESULT_TOO_LARGE);
        }
    }

    #[test]
    fn json_size_of_integers_is_exact() {
        for number in [0, 9, 10, -1, i64::MAX, i64::MIN] {
            assert_eq!(json_size(&json!(number)), number.to_string().len());
        }
        assert_eq!(json_size(&json!(-1.5)), 4);
    }

    #[test]
    fn last_column_of_a_repeated_name_wins() {
        let mut taker = RowCollector::new(ResultMode::All { rows: 1, bytes: 100 });
        taker.collect_row(["a", "b", "a"].into_iter(), |index| Ok(json!(index))).unwrap();
        let rows = taker.finish(0).rows;
        assert_eq!((rows.column_index("a"), rows.column_index("b"), rows.column_index("c")), (Some(2), Some(1), None));
        assert_eq!(Value::Object(rows.row_to_json(0)), json!({ "a": 2, "b": 1 }));
    }

    #[test]
    fn max_of_first_column_needs_integers_or_text() {
        let greatest = |rows: &[Value]| take(ResultMode::MaxOfFirstColumn, rows).map(|effect| effect.max_value);
        assert_eq!(greatest(&[json!(9), json!(10), json!(null)]).unwrap(), Some(json!(10)));
        assert_eq!(greatest(&[json!("9"), json!("10")]).unwrap(), Some(json!("9")));
        assert_eq!(greatest(&[json!("a"), json!("Z")]).unwrap(), Some(json!("a")));
        assert_eq!(greatest(&[]).unwrap(), None);
        for rows in [vec![json!(1), json!("1")], vec![json!(1.5)], vec![json!(true)]] {
            assert_eq!(greatest(&rows).unwrap_err().code(), codes::BATCH_CURSOR_INVALID);
        }
    }
}
