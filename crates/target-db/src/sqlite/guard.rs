//! Finds out whether a statement only reads: SQLite compiles it and names what it would do.
//!
//! The authorizer needs a connection of its own, because rusqlite sets none on a handle of sqlx.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};

use super::{SqliteDatabase, map_sqlite_error};
use crate::bind::ParameterizedSql;
use crate::errors::panic_error;
use crate::read_only::{Refusal, has_side_effects, is_listed};
use afterload_core::error::Result;

/// Functions of full-text and R-tree tables that only read. SQLite does not count them as built in.
const TABLE_FUNCTIONS: [&str; 10] = [
    "bm25",
    "fts5_source_id",
    "highlight",
    "match",
    "matchinfo",
    "offsets",
    "rtreecheck",
    "rtreedepth",
    "rtreenode",
    "snippet",
];
/// Pragmas that only read. A query reaches them as the table `pragma_NAME`.
const READING_PRAGMAS: [&str; 13] = [
    "collation_list",
    "compile_options",
    "database_list",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "module_list",
    "pragma_list",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// What this SQLite has built in.
struct BuiltIn {
    functions: HashSet<String>,
    pragmas: HashSet<String>,
}

pub(super) async fn find_refusal(database: &SqliteDatabase, sql: &ParameterizedSql) -> Result<Option<Refusal>> {
    let path = database.pool.connect_options().get_filename().to_owned();
    let (text, allowed) = (sql.to_numbered_sql(), database.options.functions.clone());
    let work = move || inspect(&open_reader(&path)?, &text, allowed);
    tokio::task::spawn_blocking(work).await.map_err(panic_error)?
}

fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(map_sqlite_error)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(map_sqlite_error)?;
    Ok(connection)
}

fn inspect(connection: &Connection, text: &str, allowed: Vec<String>) -> Result<Option<Refusal>> {
    let built_in = BuiltIn::read(connection).map_err(map_sqlite_error)?;
    // Virtual tables connect here. What they do meanwhile is not what the statement does.
    if !connection.prepare(text).map_err(map_sqlite_error)?.readonly() {
        return Ok(Some(Refusal::new("it writes")));
    }
    let refusal = Arc::new(Mutex::new(None));
    let found = refusal.clone();
    let authorizer = move |context: AuthContext<'_>| {
        let Some(refusal) = judge_action(context.action, &built_in, &allowed) else { return Authorization::Allow };
        found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(refusal);
        Authorization::Deny
    };
    connection.authorizer(Some(authorizer)).map_err(map_sqlite_error)?;
    let prepared = connection.prepare(text).map(drop);
    let refusal = refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (refusal, prepared) {
        (Some(refusal), _) => Ok(Some(refusal)),
        (None, prepared) => prepared.map(|()| None).map_err(map_sqlite_error),
    }
}

impl BuiltIn {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            functions: list_names(connection, "SELECT DISTINCT lower(name) FROM pragma_function_list WHERE builtin")?,
            pragmas: list_names(connection, "SELECT lower(name) FROM pragma_pragma_list")?,
        })
    }
}

fn list_names(connection: &Connection, sql: &str) -> rusqlite::Result<HashSet<String>> {
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map((), |row| row.get(0))?;
    names.collect()
}

fn judge_action(action: AuthAction<'_>, built_in: &BuiltIn, allowed: &[String]) -> Option<Refusal> {
    match action {
        AuthAction::Select | AuthAction::Recursive => None,
        AuthAction::Read { table_name, .. } => {
            let table = table_name.to_ascii_lowercase();
            let pragma = table.strip_prefix("pragma_").filter(|pragma| built_in.pragmas.contains(*pragma))?;
            (!READING_PRAGMAS.contains(&pragma))
                .then(|| Refusal::new(format!("the pragma `{pragma}` may do more than read")))
        }
        AuthAction::Function { function_name } => {
            let name = function_name.to_ascii_lowercase();
            let why = match name.as_str() {
                name if is_listed(allowed, None, name) => return None,
                name if has_side_effects(name) => "does more than read",
                name if built_in.functions.contains(name) || TABLE_FUNCTIONS.contains(&name) => return None,
                _ => "is not one of SQLite itself",
            };
            Some(Refusal::from_function(&name, why))
        }
        _ => Some(Refusal::new("it does more than read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_of_the_statement_are_judged_and_those_of_its_tables_are_not() {
        let connection = Connection::open_in_memory().unwrap();
        let tables = "CREATE TABLE t (edit TEXT, pragma TEXT); CREATE TABLE pragma_x (a); CREATE VIRTUAL TABLE f USING fts5(a); \
            CREATE VIRTUAL TABLE r USING rtree(id, a, b); CREATE VIEW v AS SELECT random() AS n FROM t";
        connection.execute_batch(tables).unwrap();
        let refused = |text: &str| {
            let none = None::<fn(AuthContext<'_>) -> Authorization>;
            let refusal = inspect(&connection, text, vec!["fts5_locale".into()]);
            connection.authorizer(none).unwrap();
            refusal.unwrap_or_else(|error| panic!("{text}: {error}")).is_some()
        };
        for text in [
            "SELECT edit, pragma FROM t",
            "SELECT snippet(f, 0, '', '', '', 1), bm25(f) FROM f WHERE f MATCH 'x'",
            "SELECT id FROM r WHERE a > 1",
            "SELECT a FROM pragma_x",
            "SELECT n FROM v",
            "SELECT name FROM pragma_table_info('t')",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 3) SELECT sum(x) OVER () FROM c",
            "SELECT value FROM json_each('[1]')",
        ] {
            assert!(!refused(text), "{text}");
        }
        for text in [
            "DELETE FROM t",
            "WITH x AS (SELECT 1) REPLACE INTO t SELECT 'a', 'b' FROM x",
            "SELECT load_extension('x')",
            "SELECT Load_Extension('x', 'y') FROM t WHERE edit = 'a'",
            "SELECT sqlite_log(1, 'x')",
            "SELECT * FROM pragma_optimize",
        ] {
            assert!(refused(text), "{text}");
        }
    }
}
