//! Checks of a statement before it runs.

use crate::bind::ParameterizedSql;
use crate::codes;
use crate::read_only::{
    FunctionCall, Lexeme, Refusal, find_refused_call, find_result_columns, inspect_text, split_lexemes,
};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// The keywords that may start a statement.
///
/// Statements that control a transaction or outlive it (`BEGIN`, `SET`, `ATTACH`, `LISTEN`, …) are missing. They would
/// break the guarantee that a step takes effect once.
const ALLOWED_FIRST_KEYWORDS: [&str; 17] = [
    "SELECT", "VALUES", "TABLE", "WITH", "INSERT", "REPLACE", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "CALL",
    "CREATE", "ALTER", "DROP", "COMMENT", "REFRESH", "ANALYZE",
];
/// Of these, the keywords of statements that can only read.
const READ_KEYWORDS: [&str; 4] = ["SELECT", "VALUES", "TABLE", "WITH"];

/// A single statement that a step may run.
#[derive(Clone, Debug)]
pub struct ParsedStatement {
    pub(crate) sql: ParameterizedSql,
    /// The calls that certainly have side effects, or why the text is certainly no read.
    inspected: std::result::Result<Vec<FunctionCall>, Refusal>,
}

impl ParsedStatement {
    /// Parses a statement.
    ///
    /// # Errors
    /// `sql_invalid` for text that is not one statement, `sql_refused` for statements of other kinds.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self> {
        let statement = ParameterizedSql::parse(text, dialect)?;
        if !statement.is_single() {
            return Err(
                Error::new(codes::SQL_INVALID, "there is more than one statement").with_hint("use several steps")
            );
        }
        let lexemes = split_lexemes(&statement)?;
        // A query may begin with brackets.
        let opens = lexemes.iter().take_while(|lexeme| lexeme.is_sign('(')).count();
        let first = match lexemes.get(opens) {
            Some(Lexeme::Word(word)) => word.to_ascii_uppercase(),
            Some(other) => other.as_name().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        let known: &[&str] = if opens > 0 { &READ_KEYWORDS } else { &ALLOWED_FIRST_KEYWORDS };
        if !known.contains(&first.as_str()) {
            let known = known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            let message = format!("a statement cannot begin with `{}`", first.chars().take(40).collect::<String>());
            return Err(Error::new(codes::SQL_REFUSED, message).with_hint(format!("it may begin with {known}")));
        }
        let inspected = match READ_KEYWORDS.contains(&first.as_str()) {
            true => inspect_text(&statement),
            false => Err(Refusal::new("it writes")),
        };
        Ok(Self { sql: statement, inspected })
    }

    /// Parses a statement whose dialect is not known yet.
    ///
    /// # Errors
    /// Those of [`Self::parse`], if no dialect accepts the text.
    pub fn parse_any(text: &str) -> Result<Self> {
        Dialect::ALL
            .into_iter()
            .map(|dialect| Self::parse(text, dialect))
            .reduce(Result::or)
            .unwrap_or_else(|| Err(Error::new(codes::SQL_INVALID, "no database is known")))
    }

    /// The names of the parameters.
    pub fn parameter_names(&self) -> &[String] {
        self.sql.parameter_names()
    }

    /// Whether the statement has a parameter with this name.
    pub fn has_parameter(&self, name: &str) -> bool {
        self.parameter_names().iter().any(|known| known == name)
    }

    /// Whether the text shows no write. The database decides before the statement runs.
    pub fn is_read_only(&self) -> bool {
        self.inspected.is_ok()
    }

    /// Refuses a statement that certainly does more than read, unless the connection allows the functions that it calls.
    ///
    /// # Errors
    /// `sql_refused`
    pub fn check_read_only(&self, allowed: &[String]) -> Result<()> {
        let refusal = match &self.inspected {
            Ok(calls) => find_refused_call(calls, allowed),
            Err(refusal) => Some(refusal.clone()),
        };
        refusal.map_or(Ok(()), |refusal| Err(read_refused_error(refusal)))
    }

    /// Checks that the text may return a column of this name. Letter case and the hidden columns of SQLite are left to
    /// the database.
    ///
    /// # Errors
    /// `column_not_found` if there is certainly none.
    pub fn check_result_column(&self, name: &str) -> Result<()> {
        let is_hidden = ["rowid", "oid", "_rowid_"].iter().any(|hidden| name.eq_ignore_ascii_case(hidden));
        match find_result_columns(&self.sql) {
            Some(columns) if !is_hidden && !columns.iter().any(|column| column.eq_ignore_ascii_case(name)) => {
                Err(missing_column_error(name))
            }
            _ => Ok(()),
        }
    }
}

/// The error of a query without a column that is needed.
pub(crate) fn missing_column_error(name: &str) -> Error {
    Error::new(codes::COLUMN_NOT_FOUND, format!("the query gives no column `{name}`"))
        .with_hint(format!("add it to the query, as in `SELECT user_id AS {name}`, or name another column"))
}

/// The error of a statement that does more than read where only reading is allowed.
pub(crate) fn read_refused_error(refusal: Refusal) -> Error {
    refusal.into_error(codes::SQL_REFUSED, "the statement may only read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_statements_are_accepted_in_any_form() {
        for text in [
            "SELECT 1",
            " select ':x;', \";\" -- ;\n /* ; */ ; ; -- done",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "INSERT INTO t VALUES (';')",
            "(SELECT 1)",
        ] {
            for dialect in Dialect::ALL {
                ParsedStatement::parse(text, dialect).expect(text);
            }
        }
        let command =
            ParsedStatement::parse("DELETE FROM t WHERE a = :a AND b = :b OR c = :a;", Dialect::Sqlite).unwrap();
        assert_eq!(command.sql.to_numbered_sql(), "DELETE FROM t WHERE a = ?1 AND b = ?2 OR c = ?1");
        assert_eq!(command.parameter_names(), ["a", "b"]);
    }

    #[test]
    fn other_texts_than_one_allowed_statement_are_refused() {
        for (text, code) in [
            ("", "sql_invalid"),
            (" ; -- nothing", "sql_invalid"),
            ("SELECT 1; DELETE FROM t", "sql_invalid"),
            ("SELECT 1;;SELECT 2", "sql_invalid"),
            ("SELECT '", "sql_invalid"),
            ("SELECT 1\0", "sql_invalid"),
            ("COMMIT", "sql_refused"),
            ("/* x */ begin", "sql_refused"),
            ("ROLLBACK TO a", "sql_refused"),
            ("ATTACH 'x' AS y", "sql_refused"),
            ("PRAGMA journal_mode = DELETE", "sql_refused"),
            ("SET search_path = x", "sql_refused"),
            ("COPY t FROM PROGRAM 'id'", "sql_refused"),
            ("VACUUM", "sql_refused"),
            ("(DELETE FROM t)", "sql_refused"),
            ("1", "sql_refused"),
        ] {
            for dialect in Dialect::ALL {
                assert_eq!(ParsedStatement::parse(text, dialect).unwrap_err().code().name(), code, "{text}");
            }
            assert_eq!(ParsedStatement::parse_any(text).unwrap_err().code().name(), code, "{text}");
        }
        // The same text is one string in one dialect and two statements in another.
        let text = r"SELECT '\'; DELETE FROM t; --'";
        for dialect in Dialect::ALL {
            assert_eq!(ParsedStatement::parse(text, dialect).unwrap_err().code(), codes::SQL_INVALID, "{text}");
        }
        assert!(ParsedStatement::parse_any("SELECT $$ ; $$").is_ok());
    }

    #[test]
    fn read_only_statements_are_detected() {
        for (text, reads) in [
            ("SELECT 'DELETE'", true),
            ("values (1)", true),
            ("WITH a AS (SELECT replace('a', 'b', 'c')) SELECT * FROM a", true),
            ("WITH a AS (SELECT 1 AS delete) SELECT delete FROM a", true),
            ("WITH a AS (DELETE FROM t RETURNING id) SELECT * FROM a", false),
            ("WITH a AS (SELECT 1) DELETE FROM t", false),
            ("UPDATE t SET a = 1", false),
            ("CREATE TABLE t (a INTEGER)", false),
        ] {
            assert_eq!(ParsedStatement::parse_any(text).unwrap().is_read_only(), reads, "{text}");
        }
    }
}
