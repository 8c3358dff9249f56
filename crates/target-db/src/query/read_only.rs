//! Checks that a report only reads: one `SELECT`, `VALUES` or `WITH … SELECT` without writes, locks or side effects.
//!
//! The database enforces read-only transactions too. This check reports the error when the pipeline is loaded. It also
//! refuses functions that have side effects even in a read-only transaction.

use crate::codes;
use std::ops::ControlFlow;

use sqlparser::ast::{Ident, Query, Select, SetExpr, Statement as Parsed, Visit, Visitor};
use sqlparser::dialect::{PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;

use crate::bind::ParameterizedSql;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// Functions that affect the server, its files, other sessions, the limits of this session, or other databases.
const SIDE_EFFECT_FUNCTIONS: [&str; 41] = [
    "dblink",
    "dblink_connect",
    "dblink_connect_u",
    "dblink_exec",
    "dblink_open",
    "dblink_send_query",
    "edit",
    "fts3_tokenizer",
    "load_extension",
    "lo_creat",
    "lo_create",
    "lo_export",
    "lo_from_bytea",
    "lo_import",
    "lo_put",
    "lo_truncate",
    "lo_unlink",
    "loread",
    "lowrite",
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_cancel_backend",
    "pg_create_restore_point",
    "pg_current_logfile",
    "pg_file_write",
    "pg_log_backend_memory_contexts",
    "pg_notify",
    "pg_promote",
    "pg_read_binary_file",
    "pg_read_file",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_stat_file",
    "pg_switch_wal",
    "pg_terminate_backend",
    "query_to_xml",
    "readfile",
    "set_config",
    "setval",
    "writefile",
];
/// Prefixes of the names of more such functions.
const SIDE_EFFECT_PREFIXES: [&str; 9] = [
    "pg_ls_",
    "pg_logical_",
    "pg_replication_",
    "pg_try_advisory_",
    "pg_stat_reset",
    "pg_wal_replay_",
    "pg_backup_",
    "pg_create_",
    "cursor_to_xml",
];

/// Refuses everything but one statement that only reads.
///
/// # Errors
/// `report_sql_refused`.
pub fn check_read_only(statement: &ParameterizedSql) -> Result<()> {
    if !statement.is_single() {
        return Err(sql_refused_error("there is more than one statement").with_hint("a report is one `SELECT`"));
    }
    let text = statement.to_numbered_sql();
    let parsed = match statement.dialect() {
        Dialect::Sqlite => Parser::parse_sql(&SQLiteDialect {}, &text),
        Dialect::Postgres => Parser::parse_sql(&PostgreSqlDialect {}, &text),
    };
    let parsed = parsed.map_err(|error| {
        let what = error.to_string();
        let what = what.strip_prefix("sql parser error: ").unwrap_or(&what);
        sql_refused_error(format!("it cannot be read as one `SELECT`: {what}"))
            .with_hint("what is too special can be put into a view")
    })?;
    match parsed.as_slice() {
        [query @ Parsed::Query(_)] => match query.visit(&mut ReadOnlyVisitor) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(why) => Err(sql_refused_error(why)),
        },
        [_] => Err(sql_refused_error("it is not a `SELECT`").with_hint("`sql.execute` runs statements that write")),
        _ => Err(sql_refused_error("there is more than one statement").with_hint("a report is one `SELECT`")),
    }
}

fn sql_refused_error(why: impl std::fmt::Display) -> Error {
    Error::new(codes::REPORT_SQL_REFUSED, format!("the SQL cannot be a report: {why}"))
}

struct ReadOnlyVisitor;

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

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        match select.into {
            Some(_) => ControlFlow::Break("`SELECT … INTO` makes a table".into()),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_ident(&mut self, ident: &Ident) -> ControlFlow<String> {
        // Any identifier counts, not only calls: a schema or quotes must not hide a function.
        let name = ident.value.to_ascii_lowercase();
        let acts = SIDE_EFFECT_FUNCTIONS.contains(&name.as_str())
            || SIDE_EFFECT_PREFIXES.iter().any(|family| name.starts_with(family));
        if acts {
            ControlFlow::Break(format!("`{}` does more than read", ident.value))
        } else {
            ControlFlow::Continue(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, dialect: Dialect) -> Option<String> {
        let checked = ParameterizedSql::parse(text, dialect).and_then(|statement| check_read_only(&statement));
        checked.err().map(|error| format!("{} {}", error.code(), error.message()))
    }

    #[test]
    fn queries_that_only_read_are_accepted() {
        for text in [
            "SELECT 1",
            "select id, 'DELETE; DROP' AS \"delete\" from t where a = :a and b like '%x' order by 1 limit 10 -- ; end",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 10) SELECT x FROM c;",
            "VALUES (1, 'a'), (2, 'b')",
            "SELECT count(*) FILTER (WHERE a > 1), sum(b) OVER (PARTITION BY c ORDER BY d) FROM t GROUP BY c HAVING max(b) > :b",
            "SELECT a FROM t UNION SELECT b FROM u EXCEPT SELECT c FROM v",
            "SELECT CASE WHEN a IS NULL THEN 'x' ELSE CAST(a AS TEXT) END, coalesce(a, :a) FROM t LEFT JOIN u USING (id)",
        ] {
            for dialect in Dialect::ALL {
                assert_eq!(verdict(text, dialect), None, "{text}");
            }
        }
        for text in [
            "SELECT a::date, b ->> 'x', array_agg(c ORDER BY d), date_trunc('month', e), generate_series(1, 3) FROM t",
            "SELECT DISTINCT ON (a) a, b FROM t CROSS JOIN LATERAL (SELECT 1) AS x ORDER BY a, b DESC NULLS LAST",
            "SELECT * FROM t WHERE a = ANY(:ids) AND b BETWEEN now() - interval '7 days' AND now()",
            "SELECT to_char(a AT TIME ZONE 'Europe/Paris', 'YYYY') FROM generate_series(1, :n) AS a",
        ] {
            assert_eq!(verdict(text, Dialect::Postgres), None, "{text}");
        }
        for text in
            ["SELECT strftime('%Y', a), json_extract(b, '$.x'), value FROM t, json_each(t.b)", "SELECT [a b] FROM `t`"]
        {
            assert_eq!(verdict(text, Dialect::Sqlite), None, "{text}");
        }
    }

    #[test]
    fn statements_with_side_effects_are_refused() {
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
            "nonsense",
        ] {
            for dialect in Dialect::ALL {
                let verdict = verdict(text, dialect).unwrap_or_else(|| panic!("{text} passes"));
                assert!(verdict.starts_with("report_sql_refused "), "{text}: {verdict}");
            }
        }
        for text in [
            "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
            "WITH new AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM new",
            "SELECT * FROM (WITH x AS (UPDATE t SET a = 1 RETURNING a) SELECT * FROM x) AS y",
            "SELECT * INTO made FROM t",
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
            "SELECT nextval('ids')",
        ] {
            let verdict = verdict(text, Dialect::Postgres).unwrap_or_else(|| panic!("{text} passes"));
            assert!(verdict.starts_with("report_sql_refused "), "{text}: {verdict}");
        }
    }
}
