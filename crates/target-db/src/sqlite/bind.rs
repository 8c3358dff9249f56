//! Parameters on SQLite: numbered, with native value types.

use rusqlite::types::Value as SqliteValue;
use serde_json::Value as Json;

use crate::bind::{BindValues, ParameterizedSql};
use afterload_core::error::Result;

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
    /// `sql_parameter_missing`, `sql_parameter_unknown`.
    pub(crate) fn bind_for_sqlite(&self, bind: &BindValues) -> Result<SqliteQuery> {
        let values = self.ordered_values(bind)?;
        let sql = self.render_parameters(|place| match place.in_list && values[place.index].is_array() {
            // Without the `+`, SQLite would compare as with a column, and a text would not equal a number.
            true => format!("SELECT +value FROM json_each(?{})", place.index + 1),
            false => format!("?{}", place.index + 1),
        });
        Ok(SqliteQuery { sql, values: values.into_iter().map(to_sqlite_value).collect() })
    }
}

/// Converts a JSON value to a SQLite value.
pub(super) fn to_sqlite_value(value: &Json) -> SqliteValue {
    match value {
        Json::Null => SqliteValue::Null,
        Json::Bool(value) => SqliteValue::Integer((*value).into()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => SqliteValue::Integer(value),
            (None, Some(value)) => SqliteValue::Real(value),
            (None, None) => SqliteValue::Text(number.to_string()),
        },
        Json::String(text) => SqliteValue::Text(text.clone()),
        Json::Array(_) | Json::Object(_) => SqliteValue::Text(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use afterload_core::dialect::Dialect;
    use serde_json::json;

    use super::*;

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
