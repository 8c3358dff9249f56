//! `:name` parameters of SQL that others wrote: bound by the database, never pasted into the text.
//!
//! A [`ParameterizedSql`] is read once. Each back end binds the values in its own way.

use crate::codes;
use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::tokenizer::{SqlToken, tokenize_sql};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// Values by the names of their parameters.
pub type BindValues = BTreeMap<String, Json>;

/// SQL that others wrote, without semicolons and comments at its end.
#[derive(Clone, Debug)]
pub struct ParameterizedSql {
    dialect: Dialect,
    segments: Vec<SqlSegment>,
    parameter_names: Vec<String>,
    single: bool,
}

#[derive(Clone, Debug)]
enum SqlSegment {
    Text(String),
    /// The parameter of this place in `names`.
    Parameter(usize),
}

impl ParameterizedSql {
    /// Reads the text.
    ///
    /// # Errors
    /// `sql_invalid` for an empty text, a quote or comment without an end, and parameters that are not written `:name`.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self> {
        let mut tokens = tokenize_sql(text, dialect)?;
        while let Some(SqlToken::Blank(_) | SqlToken::Semicolon) = tokens.last() {
            tokens.pop();
        }
        if tokens.is_empty() {
            return Err(Error::new(codes::SQL_INVALID, "the SQL is empty"));
        }
        if text.contains('\0') {
            return Err(Error::new(codes::SQL_INVALID, "the SQL holds a NUL character"));
        }
        let (mut pieces, mut names, mut single) = (Vec::new(), Vec::<String>::new(), true);
        for token in tokens {
            let text = match token {
                SqlToken::Parameter(name) => {
                    let known = names.iter().position(|known| known == name);
                    let place = known.unwrap_or_else(|| {
                        names.push(name.to_owned());
                        names.len() - 1
                    });
                    pieces.push(SqlSegment::Parameter(place));
                    continue;
                }
                SqlToken::Semicolon => {
                    single = false;
                    ";"
                }
                SqlToken::Blank(text) | SqlToken::Other(text) => text,
            };
            match pieces.last_mut() {
                Some(SqlSegment::Text(last)) => last.push_str(text),
                _ => pieces.push(SqlSegment::Text(text.to_owned())),
            }
        }
        Ok(Self { dialect, segments: pieces, parameter_names: names, single })
    }

    /// Whose SQL it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The names of the parameters, each once, as they first come.
    pub fn parameter_names(&self) -> &[String] {
        &self.parameter_names
    }

    /// Whether no semicolon stands between two parts of it.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// What does not fit together: a parameter without a value, a value without a parameter.
    pub fn binding_errors<'a>(&self, given: impl IntoIterator<Item = &'a str>) -> Vec<Error> {
        let given: Vec<&str> = given.into_iter().collect();
        let missing = self.parameter_names.iter().filter(|name| !given.contains(&name.as_str())).map(|name| {
            let message = format!("`bind` gives no value for the parameter `:{name}`");
            Error::new(codes::SQL_PARAMETER_MISSING, message).with_hint(format!("add `{name}: …` to `bind`"))
        });
        let unused = given.iter().filter(|name| !self.parameter_names.iter().any(|known| known == *name)).map(|name| {
            let message = format!("the SQL has no parameter `:{name}`");
            Error::new(codes::SQL_PARAMETER_UNKNOWN, message)
        });
        missing.chain(unused).collect()
    }

    /// The text with numbered parameters: `?1` for SQLite, `$1` for PostgreSQL.
    pub fn to_numbered_sql(&self) -> String {
        let sign = if self.dialect == Dialect::Sqlite { '?' } else { '$' };
        self.render_parameters(|place| format!("{sign}{}", place + 1))
    }

    /// The text as it was written, without semicolons and comments at its end.
    pub fn to_named_sql(&self) -> String {
        self.render_parameters(|place| format!(":{}", self.parameter_names[place]))
    }

    pub(crate) fn render_parameters(&self, parameter: impl Fn(usize) -> String) -> String {
        let piece = |piece: &SqlSegment| match piece {
            SqlSegment::Text(text) => text.clone(),
            SqlSegment::Parameter(place) => parameter(*place),
        };
        self.segments.iter().map(piece).collect()
    }

    /// The values of the parameters in their order.
    ///
    /// # Errors
    /// `sql_parameter_missing`, `sql_parameter_unknown`.
    pub(crate) fn ordered_values<'a>(&'a self, bind: &'a BindValues) -> Result<Vec<&'a Json>> {
        match self.binding_errors(bind.keys().map(String::as_str)).into_iter().next() {
            Some(misfit) => Err(misfit),
            None => Ok(self.parameter_names.iter().filter_map(|name| bind.get(name)).collect()),
        }
    }
}

#[cfg(test)]
mod tests 1 and 0, lists and maps their JSON, for `json_each`.
    ///
    /// # Errors
    /// `sql_parameter_missing`, `sql_parameter_unknown`.
    pub fn bind_for_sqlite(&self, bind: &BindValues) -> Result<SqliteQuery> {
        let values = self.ordered_values(bind)?.into_iter().map(to_sqlite_value).collect();
        Ok(SqliteQuery { sql: self.to_numbered_sql(), values })
    }

    /// For PostgreSQL. The server is asked, on this connection, what it makes of the text; nothing is executed, and of a
    /// text with two statements it makes nothing. Lists become arrays where arrays are expected, else their JSON.
    ///
    /// # Errors
    /// `sql_parameter_missing`, `sql_parameter_unknown`, `sql_parameter_invalid`, or what the server has against the text.
    pub async fn bind_for_postgres(&self, connection: &mut PgConnection, bind: &BindValues) -> Result<PostgresQuery> {
        let values = self.ordered_values(bind)?;
        let sql = AssertSqlSafe(self.to_numbered_sql()).into_sql_str();
        let prepared = connection.prepare_with(sql, &[]).await.map_err(|error| self.prepare_error(&error))?;
        let wanted = match prepared.parameters() {
            Some(Either::Left(types)) => types.iter().filter_map(PgTypeInfo::oid).map(|oid| oid.0.into()).collect(),
            _ => Vec::new(),
        };
        // With a modifier of -1 the server names `bpchar`, and not `character`, which is one letter long.
        let names = "SELECT format_type(wanted.oid::oid, -1) \
            FROM unnest($1::int8[]) WITH ORDINALITY AS wanted (oid, place) ORDER BY place";
        let types: Vec<String> = match wanted.is_empty() {
            true => Vec::new(),
            false => sqlx::query_scalar(names).bind::<Vec<i64>>(wanted).fetch_all(&mut *connection).await?,
        };
        if types.len() != values.len() {
            return Err(Error::new(codes::SQL_INVALID, "the server sees other parameters than we do"));
        }
        let texts = self.parameter_names.iter().zip(values).zip(&types);
        let texts =
            texts.map(|((name, value), kind)| to_postgres_text(name, value, kind)).collect::<Result<Vec<_>>>()?;
        let column = |column: &sqlx::postgres::PgColumn| (column.name().to_owned(), column.type_info().clone());
        let columns = prepared.columns().iter().map(column).collect();
        let sql = self.render_parameters(|place| format!("CAST(CAST(${} AS text) AS {})", place + 1, types[place]));
        let literal = |place: usize| format!("CAST({} AS {})", quote_literal(texts[place].as_deref()), types[place]);
        Ok(PostgresQuery { inlined_sql: self.render_parameters(literal), sql, values: texts, columns })
    }

    fn prepare_error(&self, error: &sqlx::Error) -> Error {
        let Some(database) = error.as_database_error() else {
            return Error::new(codes::DATABASE_UNAVAILABLE, error.to_string());
        };
        let told = Error::new(codes::SQL_INVALID, format!("the database refuses the SQL: {}", database.message()));
        match database.code().as_deref() {
            // Undetermined, ambiguous and clashing types of parameters.
            Some("42P18" | "42P08") if !self.parameter_names.is_empty() => {
                let names = self.parameter_names.iter().map(|name| format!("`:{name}`")).collect::<Vec<_>>().join(", ");
                told.with_hint(format!(
                    "say the type, as in `CAST(:{} AS date)`; the parameters are {names}",
                    self.parameter_names[0]
                ))
            }
            // Connections, resources, operators who step in: the text is not to blame.
            Some(code) if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
                Error::new(codes::DATABASE_UNAVAILABLE, database.message())
            }
            _ => told,
        }
    }
}

/// A statement with its values, for rusqlite.
#[derive(Clone, Debug)]
pub struct SqliteQuery {
    /// The text, with `?1`, `?2`, …
    pub sql: String,
    /// The values in this order.
    pub values: Vec<SqliteValue>,
}

/// A statement with its values, for PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresQuery {
    /// The text, with `$1`, `$2`, … of type text that are cast to what is expected.
    pub sql: String,
    /// The values in this order.
    pub values: Vec<Option<String>>,
    /// The columns that it gives, with their types; none if it gives no rows.
    pub columns: Vec<(String, PgTypeInfo)>,
    inlined_sql: String,
}

impl PostgresQuery {
    /// As a query, to be executed on the connection that was asked. It is planned for these values: a plan for any values would
    /// bring them to their types anew for every row.
    pub fn to_sqlx_query(&self) -> Query<'static, Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(self.sql.clone())).persistent(false);
        self.values.iter().cloned().fold(query, Query::bind)
    }

    /// The text with its values as quoted literals, for what takes no parameters, such as `COPY (…) TO STDOUT`.
    pub fn inlined_sql(&self) -> &str {
        &self.inlined_sql
    }
}

/// A value as SQLite has it.
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

/// A value as the text from which PostgreSQL makes the type `kind`.
fn to_postgres_text(name: &str, value: &Json, kind: &str) -> Result<Option<String>> {
    let text = match value {
        Json::Null => return Ok(None),
        Json::String(text) => text.clone(),
        Json::Array(items) if kind.ends_with("[]") => to_array_literal(items),
        other => other.to_string(),
    };
    if text.contains('\0') {
        let message = format!("the value of the parameter `:{name}` holds a NUL character");
        return Err(Error::new(codes::SQL_PARAMETER_INVALID, message));
    }
    Ok(Some(text))
}

/// PostgreSQL's way to write an array; lists in lists are further dimensions.
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

/// Appends an item of an array as PostgreSQL reads it.
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

/// As libpq's `PQescapeLiteral`: right whatever `standard_conforming_strings` says.
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

    fn bind(values: Json) -> BindValues {
        serde_json::from_value(values).unwrap()
    }

    #[test]
    fn parameters_are_numbered_and_the_end_is_cut_off() {
        let text = "SELECT :b, ':c', :a::date + :b -- :d\n ; -- the end\n";
        let sqlite = ParameterizedSql::parse(text, Dialect::Sqlite).unwrap();
        assert_eq!(sqlite.to_numbered_sql(), "SELECT ?1, ':c', ?2::date + ?1");
        assert_eq!(
            ParameterizedSql::parse(text, Dialect::Postgres).unwrap().to_numbered_sql(),
            "SELECT $1, ':c', $2::date + $1"
        );
        assert_eq!((sqlite.parameter_names(), sqlite.is_single()), (&["b".to_owned(), "a".to_owned()][..], true));
        assert!(!ParameterizedSql::parse("SELECT 1; SELECT 2", Dialect::Sqlite).unwrap().is_single());
        for text in ["", " ;; -- x\n", "/* x */"] {
            assert_eq!(ParameterizedSql::parse(text, Dialect::Postgres).unwrap_err().message(), "the SQL is empty");
        }
    }

    #[test]
    fn values_and_parameters_must_fit() {
        let statement = ParameterizedSql::parse("SELECT :a, :b", Dialect::Sqlite).unwrap();
        let misfits = statement.binding_errors(["b", "c"]);
        let found: Vec<_> = misfits.iter().map(Error::code).collect();
        assert_eq!(found, serde_json::json;

    use super::*;

    fn bind(values: Json) -> BindValues {
        serde_json::from_value(values).unwrap()
    }

    #[test]
    fn parameters_are_numbered_and_the_end_is_cut_off() {
        let text = "SELECT :b, ':c', :a::date + :b -- :d\n ; -- the end\n";
        let sqlite = ParameterizedSql::parse(text, Dialect::Sqlite).unwrap();
        assert_eq!(sqlite.to_numbered_sql(), "SELECT ?1, ':c', ?2::date + ?1");
        assert_eq!(
            ParameterizedSql::parse(text, Dialect::Postgres).unwrap().to_numbered_sql(),
            "SELECT $1, ':c', $2::date + $1"
        );
        assert_eq!((sqlite.parameter_names(), sqlite.is_single()), (&["b".to_owned(), "a".to_owned()][..], true));
        assert!(!ParameterizedSql::parse("SELECT 1; SELECT 2", Dialect::Sqlite).unwrap().is_single());
        for text in ["", " ;; -- x\n", "/* x */"] {
            assert_eq!(ParameterizedSql::parse(text, Dialect::Postgres).unwrap_err().message(), "the SQL is empty");
        }
    }

    #[test]
    fn values_and_parameters_must_fit() {
        let statement = ParameterizedSql::parse("SELECT :a, :b", Dialect::Sqlite).unwrap();
        let misfits = statement.binding_errors(["b", "c"]);
        let found: Vec<_> = misfits.iter().map(Error::code).collect();
        assert_eq!(found, [codes::SQL_PARAMETER_MISSING, codes::SQL_PARAMETER_UNKNOWN]);
        assert_eq!(
            statement.ordered_values(&bind(json!({ "a": 1 }))).unwrap_err().code(),
            codes::SQL_PARAMETER_MISSING
        );
    }
}
