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
    Parameter(Placeholder),
}

/// A place of a parameter in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placeholder {
    /// The index of the name in `parameter_names`.
    pub(crate) index: usize,
    /// Whether it stands alone in `IN (…)`. There, a list stands for its items.
    pub(crate) in_list: bool,
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
        for (at, token) in tokens.iter().enumerate() {
            let text = match *token {
                SqlToken::Parameter(name) => {
                    let known = names.iter().position(|known| known == name);
                    let index = known.unwrap_or_else(|| {
                        names.push(name.to_owned());
                        names.len() - 1
                    });
                    let in_list = stands_alone_in_list(&tokens, at);
                    pieces.push(SqlSegment::Parameter(Placeholder { index, in_list }));
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
        self.render_parameters(|place| format!("{sign}{}", place.index + 1))
    }

    /// Renders the SQL with its `:name` parameters, without semicolons and comments at its end.
    pub fn to_named_sql(&self) -> String {
        self.render_parameters(|place| format!(":{}", self.parameter_names[place.index]))
    }

    /// Whether all places of this parameter stand alone in `IN (…)`.
    pub(crate) fn is_only_in_lists(&self, index: usize) -> bool {
        self.segments.iter().all(|segment| match segment {
            SqlSegment::Parameter(place) => place.index != index || place.in_list,
            SqlSegment::Text(_) => true,
        })
    }

    /// Whether a place of this parameter stands alone in `IN (…)`.
    pub(crate) fn is_in_list(&self, index: usize) -> bool {
        let listed = Placeholder { index, in_list: true };
        self.segments.iter().any(|segment| matches!(segment, SqlSegment::Parameter(place) if *place == listed))
    }

    pub(crate) fn render_parameters(&self, parameter: impl Fn(Placeholder) -> String) -> String {
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

/// Whether the parameter at `at` is all that `IN (…)` holds.
fn stands_alone_in_list(tokens: &[SqlToken<'_>], at: usize) -> bool {
    let is_code = |token: &&SqlToken<'_>| !matches!(token, SqlToken::Blank(_));
    let mut before = tokens[..at].iter().rev().filter(is_code);
    let after = tokens[at + 1..].iter().find(is_code);
    before.next() == Some(&SqlToken::Other("("))
        && matches!(before.next(), Some(SqlToken::Other(word)) if word.eq_ignore_ascii_case("in"))
        && after == Some(&SqlToken::Other(")"))
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
    fn parameters_that_stand_alone_in_lists_are_found() {
        let text = "SELECT :a WHERE b IN ( /* x */ :a\n) AND c in(:c) AND d NOT IN (:d, 1) AND e(:e) AND f = ANY(:f)";
        for dialect in Dialect::ALL {
            let sql = ParameterizedSql::parse(text, dialect).unwrap();
            let listed = sql.render_parameters(|place| if place.in_list { "LIST".into() } else { "x".into() });
            assert_eq!(
                listed,
                "SELECT x WHERE b IN ( /* x */ LIST\n) AND c in(LIST) AND d NOT IN (x, 1) AND e(x) AND f = ANY(x)"
            );
            let index = |name: &str| sql.parameter_names().iter().position(|known| known == name).unwrap();
            assert!(sql.is_in_list(index("a")) && !sql.is_only_in_lists(index("a")));
            assert!(sql.is_in_list(index("c")) && sql.is_only_in_lists(index("c")));
            assert!(!sql.is_in_list(index("d")));
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
