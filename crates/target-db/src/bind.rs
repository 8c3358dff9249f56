//! `:name` parameters in the SQL of users. The database binds their values; they never become part of the text.
//!
//! A [`ParameterizedSql`] is parsed once. Each back end binds the values in its own way.

use crate::codes;
use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::tokenizer::{SqlToken, tokenize_sql};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// Values by parameter name.
pub type BindValues = BTreeMap<String, Json>;

/// Parsed SQL with `:name` parameters, without semicolons and comments at its end.
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
    /// The parameter at this index of `parameter_names`.
    Parameter(usize),
}

impl ParameterizedSql {
    /// Parses SQL with `:name` parameters.
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

    /// The dialect of the SQL.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The names of the parameters, each once, in the order of their first use.
    pub fn parameter_names(&self) -> &[String] {
        &self.parameter_names
    }

    /// Whether the text is a single statement: no semicolon separates two parts.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Errors for parameters without a value and for values without a parameter.
    pub fn binding_errors<'a>(&self, given: impl IntoIterator<Item = &'a str>) -> Vec<Error> {
        let given: Vec<&str> = given.into_iter().collect();
        let missing = self.parameter_names.iter().filter(|name| !given.contains(&name.as_str())).map(|name| {
            let message = format!("`bind` gives no value for the parameter `:{name}`");
            Error::new(codes::SQL_PARAMETER_MISSING, message).with_hint(format!("add `{name}: …` to `bind`"))
        });
        let unused = given.iter().filter(|name| !self.parameter_names.iter().any(|known| known == *name)).map(|name| {
            let message = format!("the SQL has no parameter `:{name}`");
            Error::new(codes::SQL_PARAMETER_UNKNOWN, message).with_hint("remove it from `bind`, or use it in the SQL")
        });
        missing.chain(unused).collect()
    }

    /// Renders the SQL with numbered parameters: `?1` for SQLite, `$1` for PostgreSQL.
    pub fn to_numbered_sql(&self) -> String {
        let sign = if self.dialect == Dialect::Sqlite { '?' } else { '$' };
        self.render_parameters(|place| format!("{sign}{}", place + 1))
    }

    /// Renders the SQL with its `:name` parameters, without semicolons and comments at its end.
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

    /// The values in the order of the parameters.
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
mod tests {
    use serde_json::json;

    use super::*;

    fn bind(values: Json) -> BindValues {
        serde_json::from_value(values).unwrap()
    }

    #[test]
    fn parse_numbers_parameters_and_drops_trailing_comments() {
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
    fn binding_errors_report_missing_and_unknown_parameters() {
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
