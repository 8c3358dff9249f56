//! Parameters on SQLite: numbered, with native value types.

use rusqlite::types::Value as SqliteValue;
use serde_json::Value as Json;

use crate::bind::{BindValues, ParameterizedSql};
use crate::codes;
use afterload_core::error::{Error, Result};

/// A statement with its values for rusqlite.
#[derive(Clone, Debug)]
pub struct SqliteQuery {
    /// The SQL with `?1`, `?2`, …
    pub sql: String,
    /// The values in the order of the parameters.
    pub values: Vec<SqliteValue>,
}

impl ParameterizedSql {
    /// Binds the values for SQLite. Booleans become 1 and 0. Lists and maps become JSON, for `json_each`. A list alone in
    /// `IN (…)` stands for its items, however many they are.
    ///
    /// # Errors
    /// `sql_parameter_missing`, `sql_parameter_unknown`, `sql_parameter_invalid`.
    pub(crate) fn bind_for_sqlite(&self, bind: &BindValues) -> Result<SqliteQuery> {
        let values = self.ordered_values(bind)?;
        let sql = self.render_parameters(|place| match place.in_list && values[place.index].is_array() {
            // Without the `+`, SQLite would compare as with a column, and a text would not equal a number.
            true => format!("SELECT +value FROM json_each(?{})", place.index + 1),
            false => format!("?{}", place.index + 1),
        });
        let values = values.into_iter().map(to_sqlite_value).collect::<Result<_>>()?;
        Ok(SqliteQuery { sql, values })
    }
}

/// Converts a JSON value to a SQLite value. An integer that SQLite does not have is refused: as a float it would lose
/// digits.
pub(super) fn to_sqlite_value(value: &Json) -> Result<SqliteValue> {
    Ok(match value {
        Json::Null => SqliteValue::Null,
        Json::Bool(value) => SqliteValue::Integer((*value).into()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => SqliteValue::Integer(value),
            (None, Some(value)) if number.is_f64() => SqliteValue::Real(value),
            _ => {
                let message = format!("the whole number {number} is beyond {}", i64::MAX);
                return Err(Error::new(codes::SQL_PARAMETER_INVALID, message)
                    .with_hint("SQLite has no greater one; bind it as text: put `| string` after it"));
            }
        },
        Json::String(text) => SqliteValue::Text(text.clone()),
        Json::Array(_) | Json::Object(_) => SqliteValue::Text(value.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use afterload_core::dialect::Dialect;
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_number_is_never_bound_as_float() {
        for number in [i64::MIN, i64::MAX, 9_007_199_254_740_993] {
            assert_eq!(to_sqlite_value(&json!(number)).unwrap(), SqliteValue::Integer(number));
        }
        let error = to_sqlite_value(&json!(u64::MAX)).unwrap_err();
        assert_eq!(error.code(), codes::SQL_PARAMETER_INVALID);
        assert_eq!(to_sqlite_value(&json!("19.90")).unwrap(), SqliteValue::Text("19.90".to_owned()));
    }

    #[test]
    fn bound_values_keep_their_types() {
        let statement = ParameterizedSql::parse("SELECT :i, :f, :s, :t, :n, :l", Dialect::Sqlite).unwrap();
        let values = json!({ "i": 1, "f": 1.5, "s": "'; DROP TABLE x", "t": true, "n": null, "l": [1, "a"] });
        let bound = statement.bind_for_sqlite(&serde_json::from_value(values).unwrap()).unwrap();
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let types = bound.sql.replace("SELECT ", "SELECT typeof(").replace(", ", ") || ' ' || typeof(") + ")";
        let found: String =
            connection.query_row(&types, rusqlite::params_from_iter(&bound.values), |row| row.get(0)).unwrap();
        assert_eq!(found, "integer real text integer null text");
        let row = connection.query_row(&bound.sql, rusqlite::params_from_iter(&bound.values), |row| {
            Ok((row.get::<_, String>(2)?, row.get::<_, i64>(3)?, row.get::<_, String>(5)?))
        });
        assert_eq!(row.unwrap(), ("'; DROP TABLE x".to_owned(), 1, "[1,\"a\"]".to_owned()));
    }
}
