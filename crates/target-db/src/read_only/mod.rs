//! Decides from the text whether a statement is certainly no read.
//!
//! Only the database knows what a text means, and it decides before the statement runs: see `guard` of the back ends.
//! The check of the text reports an error when the pipeline is loaded. It refuses nothing that may be a read, so SQL that
//! `sqlparser` does not know passes.

mod functions;
mod lexemes;
mod result_columns;

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, ObjectName, Query, SetExpr, Statement as Parsed, TableFactor, Visit, Visitor};
use sqlparser::dialect::{PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::{Parser, ParserError};

pub(crate) use functions::{has_side_effects, is_listed};
pub(crate) use lexemes::{Lexeme, split_lexemes};
pub(crate) use result_columns::find_result_columns;

use crate::bind::ParameterizedSql;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, ErrorCode};

/// Why a statement is no read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    why: String,
    hint: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: None }
    }

    pub(crate) fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The refusal of a function.
    pub(crate) fn from_function(name: &str, why: &str) -> Self {
        let hint = "if it only reads, list it in `functions` of the connection, as `name` or `schema.name`";
        Self::new(format!("the function `{name}` {why}")).with_hint(hint)
    }

    /// Makes the error of a statement that `what` describes.
    pub(crate) fn into_error(self, code: ErrorCode, what: &str) -> Error {
        let error = Error::new(code, format!("{what}: {}", self.why));
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// A function that a statement calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FunctionCall {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

/// Reads the text of a statement that must only read. Returns the calls in it that certainly have side effects, unless the
/// connection allows them.
///
/// # Errors
/// The reason, if the statement is certainly no read.
pub(crate) fn inspect_text(statement: &ParameterizedSql) -> Result<Vec<FunctionCall>, Refusal> {
    if !statement.is_single() {
        return Err(Refusal::new("there is more than one statement").with_hint("write one `SELECT`"));
    }
    let lexemes = split_lexemes(statement).map_err(|error| Refusal::new(error.message()))?;
    check_brackets(&lexemes)?;
    check_keywords(&lexemes)?;
    check_into(&lexemes)?;
    check_with_queries(&lexemes)?;
    // The database knows more SQL than the parser. What the parser cannot read is left to the database.
    let Ok(parsed) = parse_text(statement) else { return Ok(Vec::new()) };
    let mut visitor = ReadOnlyVisitor { dialect: statement.dialect(), side_effects: Vec::new() };
    match parsed.visit(&mut visitor) {
        ControlFlow::Continue(()) => Ok(visitor.side_effects),
        ControlFlow::Break(why) => Err(Refusal::new(why)),
    }
}

fn parse_text(statement: &ParameterizedSql) -> Result<Vec<Parsed>, ParserError> {
    let text = statement.to_numbered_sql();
    match statement.dialect() {
        Dialect::Sqlite => Parser::parse_sql(&SQLiteDialect {}, &text),
        Dialect::Postgres => Parser::parse_sql(&PostgreSqlDialect {}, &text),
    }
}

/// The first call that the connection does not allow.
pub(crate) fn find_refused_call(calls: &[FunctionCall], allowed: &[String]) -> Option<Refusal> {
    let refused = calls.iter().find(|call| !is_listed(allowed, call.schema.as_deref(), &call.name));
    refused.map(|call| Refusal::from_function(&call.name, "does more than read"))
}

fn check_brackets(lexemes: &[Lexeme]) -> Result<(), Refusal> {
    let mut depth = 0_i64;
    for lexeme in lexemes {
        depth += i64::from(lexeme.is_sign('(')) - i64::from(lexeme.is_sign(')'));
        if depth < 0 {
            return Err(Refusal::new("a bracket is closed that is not opened"));
        }
    }
    if depth == 0 { Ok(()) } else { Err(Refusal::new("a bracket is opened and not closed")) }
}

fn check_keywords(lexemes: &[Lexeme]) -> Result<(), Refusal> {
    let hint = "write a `SELECT`; `sql.execute` runs statements that write";
    let first = lexemes.iter().find(|lexeme| !lexeme.is_sign('('));
    if first.is_some_and(|first| first.is_word(&["select", "values", "table"])) {
        return Ok(());
    }
    if !first.is_some_and(|first| first.is_word(&["with"])) {
        return Err(Refusal::new("it is not a `SELECT`").with_hint(hint));
    }
    match find_main_keyword(lexemes) {
        Some("insert" | "update" | "delete" | "merge" | "replace") => Err(Refusal::new("it writes").with_hint(hint)),
        _ => Ok(()),
    }
}

/// `INTO` is reserved: it is a name only behind a dot or `AS`.
fn check_into(lexemes: &[Lexeme]) -> Result<(), Refusal> {
    let writes = |pair: &[Lexeme]| pair[1].is_word(&["into"]) && !pair[0].is_sign('.') && !pair[0].is_word(&["as"]);
    match lexemes.windows(2).any(writes) {
        true => Err(Refusal::new("`INTO` writes")),
        false => Ok(()),
    }
}

/// Finds a query of `WITH` that writes, also in SQL that the parser does not know.
fn check_with_queries(lexemes: &[Lexeme]) -> Result<(), Refusal> {
    let writes = |at: usize| {
        let opens =
            lexemes[at].is_word(&["as", "materialized"]) && lexemes.get(at + 1).is_some_and(|next| next.is_sign('('));
        match lexemes.get(at + 2..).filter(|_| opens) {
            Some([verb, next, ..]) if verb.is_word(&["delete"]) => next.is_word(&["from"]),
            Some([verb, rest @ ..]) if verb.is_word(&["update"]) => rest
                .iter()
                .take_while(|lexeme| !lexeme.is_sign(',') && !lexeme.is_sign(')'))
                .any(|lexeme| lexeme.is_word(&["set"])),
            _ => false,
        }
    };
    match (0..lexemes.len()).any(writes) {
        true => Err(Refusal::new("a query of `WITH` writes")),
        false => Ok(()),
    }
}

/// The keyword after the queries of a `WITH` that begins the statement.
fn find_main_keyword(lexemes: &[Lexeme]) -> Option<&str> {
    const KEYWORDS: [&str; 8] = ["select", "values", "table", "insert", "update", "delete", "merge", "replace"];
    // Behind these, a word is a name: that of a query, or of a column of `SEARCH` and `CYCLE`.
    const BEFORE_NAMES: [&str; 6] = ["with", "recursive", "by", "set", "using", "cycle"];
    let start = lexemes.iter().position(|lexeme| !lexeme.is_sign('('))?;
    let (mut depth, mut before) = (0, &lexemes[start]);
    for lexeme in &lexemes[start + 1..] {
        match lexeme {
            Lexeme::Sign('(') => depth += 1,
            Lexeme::Sign(')') => depth -= 1,
            Lexeme::Word(word)
                if depth == 0
                    && KEYWORDS.contains(&word.as_str())
                    && !before.is_sign(',')
                    && !before.is_word(&BEFORE_NAMES) =>
            {
                return Some(word);
            }
            _ => {}
        }
        before = lexeme;
    }
    None
}

struct ReadOnlyVisitor {
    dialect: Dialect,
    side_effects: Vec<FunctionCall>,
}

impl ReadOnlyVisitor {
    /// Adds a call of a function with side effects. A function of a schema of the user may be harmless in spite of its
    /// name, so the database decides about it.
    fn add_call(&mut self, name: &ObjectName) {
        let mut parts = name.0.iter().rev().filter_map(|part| part.as_ident()).map(|ident| {
            let folds = ident.quote_style.is_none() || self.dialect == Dialect::Sqlite;
            if folds { ident.value.to_ascii_lowercase() } else { ident.value.clone() }
        });
        let (Some(name), schema) = (parts.next(), parts.next()) else { return };
        if has_side_effects(&name) && schema.as_deref().is_none_or(|schema| schema == "pg_catalog") {
            self.side_effects.push(FunctionCall { schema, name });
        }
    }
}

impl Visitor for ReadOnlyVisitor {
    type Break = String;

    fn pre_visit_statement(&mut self, statement: &Parsed) -> ControlFlow<String> {
        match statement {
            Parsed::Query(_) => ControlFlow::Continue(()),
            _ => ControlFlow::Break("a part of it writes".into()),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        if !query.locks.is_empty() {
            return ControlFlow::Break("`FOR UPDATE` and the like lock rows".into());
        }
        match &*query.body {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                ControlFlow::Break("a part of it writes".into())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        if let Expr::Function(call) = expr {
            self.add_call(&call.name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => self.add_call(name),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason to refuse the text, if there is one.
    fn refusal(text: &str, dialect: Dialect) -> Option<String> {
        let statement = ParameterizedSql::parse(text, dialect).unwrap();
        let refused = inspect_text(&statement).map(|calls| find_refused_call(&calls, &[]));
        refused.unwrap_or_else(Some).map(|refusal| refusal.why)
    }

    #[test]
    fn queries_that_may_only_read_are_accepted() {
        for text in [
            "SELECT 1",
            "select id, 'DELETE; DROP' AS \"delete\" from t where a = :a and b like '%x' order by 1 limit 10 -- ; end",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 10) SELECT x FROM c;",
            "VALUES (1, 'a'), (2, 'b')",
            "SELECT count(*) FILTER (WHERE a > 1), sum(b) OVER (PARTITION BY c ORDER BY d) FROM t GROUP BY c HAVING max(b) > :b",
            "SELECT a FROM t UNION SELECT b FROM u EXCEPT SELECT c FROM v",
            "SELECT CASE WHEN a IS NULL THEN 'x' ELSE CAST(a AS TEXT) END, coalesce(a, :a) FROM t LEFT JOIN u USING (id)",
            "SELECT edit, t.nextval, setval FROM t AS t WHERE t.edit = 'load_extension(1)'",
            "SELECT 1 AS edit, a dblink, b \"lo_import\" FROM t AS writefile",
            "SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY b GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES)",
            "WITH edit(a) AS (SELECT 1), replace AS MATERIALIZED (SELECT 2 AS b) SELECT a, b FROM edit, replace",
            "(SELECT 1)",
            "SELECT a AS into, t.\"into\" FROM t",
        ] {
            for dialect in Dialect::ALL {
                assert_eq!(refusal(text, dialect), None, "{text}");
            }
        }
        for text in [
            "SELECT a::date, b ->> 'x', array_agg(c ORDER BY d), date_trunc('month', e), generate_series(1, 3) FROM t",
            "SELECT DISTINCT ON (a) a, b FROM t CROSS JOIN LATERAL (SELECT 1) AS x ORDER BY a, b DESC NULLS LAST",
            "SELECT * FROM t WHERE a = ANY(:ids) AND b BETWEEN now() - interval '7 days' AND now()",
            "SELECT to_char(a AT TIME ZONE 'Europe/Paris', 'YYYY') FROM generate_series(1, :n) AS a",
            "SELECT * FROM ROWS FROM (generate_series(1, 3), generate_series(4, 5)) WITH ORDINALITY AS x(a, b, n)",
            "WITH RECURSIVE t(id, up) AS (SELECT 1, 0 UNION ALL SELECT 2, 1) SEARCH DEPTH FIRST BY id SET update SELECT * FROM t",
            "WITH RECURSIVE t(id, up) AS (SELECT 1, 0) CYCLE delete, id SET merge TO 1 DEFAULT 0 USING replace SELECT * FROM t",
            "SELECT a[1 : 2], a[: 2], a[2 :] FROM t",
            "SELECT substring(delete FROM 2), x.update FROM f(1) AS (delete text, update int)",
            "TABLE t",
            "(SELECT 1) UNION (VALUES (2))",
            "SELECT mine.nextval(1)",
        ] {
            assert_eq!(refusal(text, Dialect::Postgres), None, "{text}");
        }
        for text in
            ["SELECT strftime('%Y', a), json_extract(b, '$.x'), value FROM t, json_each(t.b)", "SELECT [a b] FROM `t`"]
        {
            assert_eq!(refusal(text, Dialect::Sqlite), None, "{text}");
        }
    }

    #[test]
    fn statements_that_certainly_do_more_than_read_are_refused() {
        for text in [
            "SELECT 1; SELECT 2",
            "SELECT 1; DROP TABLE t",
            "DELETE FROM t",
            "INSERT INTO t VALUES (1) RETURNING id",
            "UPDATE t SET a = 1",
            "DROP TABLE t",
            "ATTACH DATABASE 'x.db' AS x",
            "PRAGMA writable_schema = 1",
            "VACUUM INTO 'x.db'",
            "EXPLAIN SELECT 1",
            "BEGIN",
            "COMMIT",
            "SELECT load_extension('x')",
            "SELECT 1) TO PROGRAM 'sh'",
            "SELECT (1",
            "nonsense",
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
            "WITH x AS (SELECT 4 AS id) REPLACE INTO t SELECT id FROM x",
            "WITH delete AS (SELECT 1) DELETE FROM t",
        ] {
            for dialect in Dialect::ALL {
                assert!(refusal(text, dialect).is_some(), "{text} passes");
            }
        }
        for text in [
            "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
            "WITH new AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM new",
            "SELECT * FROM (WITH x AS (UPDATE t SET a = 1 RETURNING a) SELECT * FROM x) AS y",
            "SELECT * INTO made FROM t",
            "SELECT a[1:2] INTO made FROM ROWS FROM (f(1)) AS t(a)",
            "WITH x AS NOT MATERIALIZED (UPDATE ONLY t AS u SET a[1:2] = b RETURNING a) SELECT * FROM ROWS FROM (f(1)) AS y",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM (SELECT * FROM t FOR SHARE) AS x",
            "COPY t TO PROGRAM 'sh'",
            "CALL wipe()",
            "DO $$ BEGIN DELETE FROM t; END $$",
            "SET statement_timeout = 0",
            "SELECT set_config('statement_timeout', '0', true)",
            "SELECT pg_catalog.pg_terminate_backend(1)",
            "SELECT \"pg_read_file\"('/etc/passwd')",
            "SELECT * FROM pg_ls_dir('/')",
            "SELECT * FROM dblink('host=x', 'DELETE FROM t') AS x(a int)",
            "SELECT a FROM t WHERE pg_advisory_lock(1) IS NULL",
            "SELECT pg_advisory_xact_lock_shared(1)",
            "SELECT nextval('ids')",
            "SELECT query_to_xml_and_xmlschema('SELECT 1', true, true, '')",
            "SELECT * FROM ts_stat('SELECT a FROM t')",
            "SELECT * FROM crosstab('SELECT 1, 2, 3') AS x(a int, b int)",
        ] {
            assert!(refusal(text, Dialect::Postgres).is_some(), "{text} passes");
        }
    }

    #[test]
    fn configuration_allows_functions() {
        let statement = ParameterizedSql::parse("SELECT nextval('a'), pg_catalog.setval('a', 1)", Dialect::Postgres);
        let calls = inspect_text(&statement.unwrap()).unwrap();
        let refused = |allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
            find_refused_call(&calls, &allowed).map(|refusal| refusal.why)
        };
        assert_eq!(refused(&["setval"]).as_deref(), Some("the function `nextval` does more than read"));
        assert_eq!(
            refused(&["pg_catalog.nextval", "other.setval"]).as_deref(),
            Some("the function `setval` does more than read")
        );
        assert_eq!(refused(&["nextval", "pg_catalog.setval"]), None);
    }
}
