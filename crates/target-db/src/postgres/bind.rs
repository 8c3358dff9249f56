//! Parameters on PostgreSQL. The server reports the type that it expects for each parameter.
//!
//! Every value is sent as text, and the server casts it to that type. A date then compares with a timestamp as in
//! `psql`.

use crate::codes;
use serde_json::Value as Json;
use sqlx::postgres::{PgArguments, PgTypeInfo};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Column as _, Either, Executor as _, PgConnection, Postgres, SqlSafeStr, Statement as _};

use crate::bind::{BindValues, ParameterizedSql, Placeholder};
use afterload_core::error::{Error, Result};

/// A PostgreSQL statement with its values.
#[derive(Clone, Debug)]
pub struct PostgresQuery {
    /// The SQL with `$1`, `$2`, … of type text, each cast to the type that the server expects.
    pub sql: String,
    /// The values in the order of the parameters.
    pub values: Vec<Option<String>>,
    /// The columns of the result with their types. Empty if the statement returns no rows.
    pub columns: Vec<(String, PgTypeInfo)>,
    inlined_sql: String,
}

impl PostgresQuery {
    /// Makes a query for the connection that prepared the statement.
    ///
    /// It is planned for these values. A generic plan would cast them again for every row.
    pub fn to_sqlx_query(&self) -> Query<'static, Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(self.sql.clone())).persistent(false);
        self.values.iter().cloned().fold(query, Query::bind)
    }

    /// The SQL with quoted literals, for statements without parameters such as `COPY (…) TO STDOUT`.
    pub fn inlined_sql(&self) -> &str {
        &self.inlined_sql
    }
}

impl ParameterizedSql {
    /// Binds the values for PostgreSQL.
    ///
    /// The server prepares the text on this connection and executes nothing. It refuses a text with two statements.
    /// Lists become arrays where the server expects an array. A list alone in `IN (…)` stands for its items: it is one
    /// array, so it has no limit of its own. Elsewhere lists become JSON.
    ///
    /// # Errors
    /// `sql_parameter_missing`, `sql_parameter_unknown`, `sql_parameter_invalid`, or `sql_invalid` if the server
    /// refuses the text.
    pub(crate) async fn bind_for_postgres(
        &self,
        connection: &mut PgConnection,
        bind: &BindValues,
    ) -> Result<PostgresQuery> {
        let values = self.ordered_values(bind)?;
        let sql = AssertSqlSafe(self.to_numbered_sql()).into_sql_str();
        let prepared = connection.prepare_with(sql, &[]).await.map_err(|error| self.prepare_error(error))?;
        let wanted = match prepared.parameters() {
            Some(Either::Left(types)) => types.iter().filter_map(PgTypeInfo::oid).map(|oid| oid.0.into()).collect(),
            _ => Vec::new(),
        };
        // A modifier of -1 makes the server return `bpchar`. `character` would mean one character.
        let names = "SELECT format_type(wanted.oid::oid, -1) \
            FROM unnest($1::int8[]) WITH ORDINALITY AS wanted (oid, place) ORDER BY place";
        let types: Vec<String> = match wanted.is_empty() {
            true => Vec::new(),
            false => sqlx::query_scalar(names).bind::<Vec<i64>>(wanted).fetch_all(&mut *connection).await?,
        };
        if types.len() != values.len() {
            return Err(Error::new(codes::SQL_INVALID, "the server sees other parameters than we do"));
        }
        let mut texts = Vec::with_capacity(types.len());
        let mut lists = vec![None; types.len()];
        for (index, ((name, value), kind)) in self.parameter_names().iter().zip(values).zip(&types).enumerate() {
            lists[index] = match value {
                Json::Array(items) if self.is_in_list(index) && !kind.ends_with("[]") => {
                    Some(to_item_array(name, items, kind)?)
                }
                _ => None,
            };
            // A long list is not sent twice.
            let replaced = lists[index].is_some() && self.is_only_in_lists(index);
            texts.push(if replaced { None } else { to_postgres_text(name, value, kind)? });
        }
        let column = |column: &sqlx::postgres::PgColumn| (column.name().to_owned(), column.type_info().clone());
        let columns = prepared.columns().iter().map(column).collect();
        let list_at = |place: Placeholder| lists[place.index].as_ref().filter(|_| place.in_list);
        let inlined_sql = self.render_parameters(|place| match list_at(place) {
            Some(list) => render_items(&quote_literal(Some(list)), &types[place.index]),
            None => format!("CAST({} AS {})", quote_literal(texts[place.index].as_deref()), types[place.index]),
        });
        // The arrays follow the other values.
        let first_list = texts.len();
        let list_numbers: Vec<usize> = (0..lists.len()).filter(|index| lists[*index].is_some()).collect();
        let sql = self.render_parameters(|place| match list_at(place) {
            Some(_) => {
                let number = first_list + list_numbers.iter().take_while(|index| **index < place.index).count() + 1;
                render_items(&format!("CAST(${number} AS text)"), &types[place.index])
            }
            None => format!("CAST(CAST(${} AS text) AS {})", place.index + 1, types[place.index]),
        });
        texts.extend(lists.into_iter().flatten().map(Some));
        Ok(PostgresQuery { inlined_sql, sql, values: texts, columns })
    }

    fn prepare_error(&self, error: sqlx::Error) -> Error {
        let Some(database) = error.as_database_error() else { return error.into() };
        let told = Error::new(codes::SQL_INVALID, format!("the database refuses the SQL: {}", database.message()));
        let code = database.code().map(std::borrow::Cow::into_owned);
        match code.as_deref() {
            // The type of a parameter is undetermined, ambiguous or contradictory.
            Some("42P18" | "42P08") if !self.parameter_names().is_empty() => {
                let names =
                    self.parameter_names().iter().map(|name| format!("`:{name}`")).collect::<Vec<_>>().join(", ");
                told.with_hint(format!(
                    "say the type, as in `CAST(:{} AS date)`; the parameters are {names}",
                    self.parameter_names()[0]
                ))
            }
            // Connection, resource and operator errors are not errors of the text.
            Some(code) if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => error.into(),
            _ => told,
        }
    }
}

/// Renders the items of an array as rows. `IN` compares with each of them, and with none of an empty array.
fn render_items(array: &str, kind: &str) -> String {
    format!("SELECT pg_catalog.unnest(CAST({array} AS {kind}[]))")
}

/// Renders the items of a list as an array literal. Each item has the form in which it would be bound alone.
fn to_item_array(name: &str, items: &[Json], kind: &str) -> Result<String> {
    let mut text = String::from("{");
    for (place, item) in items.iter().enumerate() {
        text.push_str(if place == 0 { "" } else { "," });
        match to_postgres_text(name, item, kind)? {
            None => text.push_str("NULL"),
            Some(item) => push_array_item(&item, &mut text),
        }
    }
    text.push('}');
    Ok(text)
}

/// Renders a value as text that PostgreSQL can cast to the type `kind`.
fn to_postgres_text(name: &str, value: &Json, kind: &str) -> Result<Option<String>> {
    let text = match value {
        Json::Null => return Ok(None),
        Json::String(text) => text.clone(),
        Json::Array(items) if kind.ends_with("[]") => to_array_literal(items),
        other => other.to_string(),
    };
    if text.contains('\0') {
        let message = format!("the value of the parameter `:{name}` holds a NUL character");
        return Err(Error::new(codes::SQL_PARAMETER_INVALID, message).with_hint("PostgreSQL has no text with NUL"));
    }
    Ok(Some(text))
}

/// Renders a PostgreSQL array literal. Nested lists become further dimensions.
fn to_array_literal(items: &[Json]) -> String {
    let mut text = String::from("{");
    for (place, item) in items.iter().enumerate() {
        text.push_str(if place == 0 { "" } else { "," });
        match item {
            Json::Null => text.push_str("NULL"),
            Json::Array(items) => text.push_str(&to_array_literal(items)),
            Json::String(item) => push_array_item(item, &mut text),
            other => push_array_item(&other.to_string(), &mut text),
        }
    }
    text.push('}');
    text
}

/// Appends a quoted item of an array literal.
pub(super) fn push_array_item(item: &str, text: &mut String) {
    text.push('"');
    for part in item.split_inclusive(['\\', '"']) {
        let plain = part.trim_end_matches(['\\', '"']);
        text.push_str(plain);
        if plain.len() < part.len() {
            text.push('\\');
            text.push_str(&part[plain.len()..]);
        }
    }
    text.push('"');
}

/// Quotes like libpq's `PQescapeLiteral`. It is safe with any value of `standard_conforming_strings`.
fn quote_literal(text: Option<&str>) -> String {
    match text {
        None => "NULL".to_owned(),
        Some(text) if text.contains('\\') => format!(" E'{}'", text.replace('\\', r"\\").replace('\'', "''")),
        Some(text) => format!("'{}'", text.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_and_arrays_are_escaped() {
        assert_eq!(quote_literal(Some("it's")), "'it''s'");
        assert_eq!(quote_literal(Some(r"\'; DROP TABLE x; --")), r" E'\\''; DROP TABLE x; --'");
        assert_eq!(quote_literal(None), "NULL");
        let items = json!(["a\"},{\\", null, 1, [true]]);
        assert_eq!(to_array_literal(items.as_array().unwrap()), r#"{"a\"},{\\",NULL,"1",{"true"}}"#);
        assert_eq!(to_postgres_text("a", &json!([1]), "jsonb").unwrap().as_deref(), Some("[1]"));
        assert_eq!(to_postgres_text("a", &json!("a\0b"), "text").unwrap_err().code(), codes::SQL_PARAMETER_INVALID);
    }
}
