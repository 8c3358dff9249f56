//! Finds out whether a statement only reads: the catalog knows its functions, and the planner what it does.

use serde_json::Value;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres};

use super::PostgresDatabase;
use super::called_names::find_called_names;
use crate::bind::{BindValues, ParameterizedSql};
use crate::read_only::{Lexeme, Refusal, has_side_effects, is_listed, split_lexemes};
use afterload_core::error::Result;

/// The schemas of PostgreSQL itself.
const SYSTEM_SCHEMAS: [&str; 2] = ["pg_catalog", "information_schema"];
/// Functions that are volatile and harmless: times, random values, and the sizes of relations.
const HARMLESS_VOLATILE_FUNCTIONS: [&str; 18] = [
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_relation_size",
    "pg_sequence_last_value",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];
/// All functions that the names may mean. Without a schema these are the ones of the search path. No query can call a
/// function with an `internal` argument, such as that of `TABLESAMPLE`, nor one behind another with the same arguments that
/// PostgreSQL itself has earlier in the search path, such as `gen_random_uuid` of the extension `pgcrypto`.
const FUNCTIONS_SQL: &str = "SELECT DISTINCT n.nspname::text, p.proname::text, p.provolatile = 'v'
    FROM unnest($1::text[], $2::text[], $3::text[]) AS called (schema, name, syntax)
    JOIN pg_catalog.pg_proc p ON p.proname = called.name::name
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE CASE WHEN called.schema IS NULL THEN n.nspname = ANY (pg_catalog.current_schemas(true))
            ELSE n.nspname = called.schema::name END
        AND NOT 'internal'::regtype = ANY (p.proargtypes)
        AND NOT (called.schema IS NULL AND EXISTS (SELECT 1 FROM pg_catalog.pg_proc own
            WHERE own.proname = p.proname AND own.proargtypes = p.proargtypes
                AND own.pronamespace = 'pg_catalog'::regnamespace
                AND pg_catalog.array_position(pg_catalog.current_schemas(true), 'pg_catalog')
                    < pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)))
        AND (called.syntax = 'call' OR p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
            AND (called.syntax = 'field' OR EXISTS (SELECT 1 FROM pg_catalog.pg_type t
                WHERE t.oid = p.proargtypes[0] AND t.typtype IN ('c', 'd', 'p'))))
    ORDER BY 1, 2";
/// Operators that call volatile functions. PostgreSQL itself has none.
const OPERATORS_SQL: &str = "SELECT o.oprname::text, n.nspname::text, p.proname::text
    FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.provolatile = 'v'";

/// A connection that returns to the pool only if the work on it ends. Otherwise the next user would wait for the server.
struct GuardConnection {
    connection: PoolConnection<Postgres>,
    ended: bool,
}

impl Drop for GuardConnection {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

pub(super) async fn find_refusal(
    database: &PostgresDatabase,
    sql: &ParameterizedSql,
    values: &BindValues,
) -> Result<Option<Refusal>> {
    let mut guard = GuardConnection { connection: database.pool.acquire().await?, ended: false };
    let mut transaction = guard.connection.begin_with("BEGIN READ ONLY").await?;
    let refusal = inspect(&mut transaction, sql, values, &database.options.functions).await?;
    transaction.rollback().await?;
    guard.ended = true;
    Ok(refusal)
}

async fn inspect(
    connection: &mut PgConnection,
    sql: &ParameterizedSql,
    values: &BindValues,
    allowed: &[String],
) -> Result<Option<Refusal>> {
    // The planner runs functions to estimate rows, so they are checked before it.
    let lexemes = split_lexemes(sql)?;
    if let Some(refusal) = find_refused_function(connection, &lexemes, allowed).await? {
        return Ok(Some(refusal));
    }
    if let Some(refusal) = find_refused_operator(connection, sql, allowed).await? {
        return Ok(Some(refusal));
    }
    let bound = sql.bind_for_postgres(connection, values).await?;
    let explain = AssertSqlSafe(format!("EXPLAIN (FORMAT JSON)\n{}", bound.inlined_sql()));
    // A statement that cannot be planned with these values reports that when it runs.
    let plan: Option<Value> = sqlx::query_scalar(explain).fetch_one(connection).await.ok();
    Ok(plan.as_ref().and_then(find_write_node))
}

async fn find_refused_function(
    connection: &mut PgConnection,
    lexemes: &[Lexeme],
    allowed: &[String],
) -> Result<Option<Refusal>> {
    let called = find_called_names(lexemes);
    // The functions of a session have no schema name of their own.
    if let Some(own) = called.iter().find(|call| call.schema.as_deref() == Some("pg_temp")) {
        return Ok(Some(Refusal::new(format!("the function `{}` belongs to a session", own.name))));
    }
    let schemas: Vec<Option<&str>> = called.iter().map(|call| call.schema.as_deref()).collect();
    let names: Vec<&str> = called.iter().map(|call| call.name.as_str()).collect();
    let syntaxes: Vec<&str> = called.iter().map(|call| call.syntax.as_str()).collect();
    let functions = sqlx::query_as(FUNCTIONS_SQL).bind(schemas).bind(names).bind(syntaxes);
    let functions: Vec<(String, String, bool)> = functions.fetch_all(connection).await?;
    let refused = functions.iter().find_map(|(schema, name, volatile)| {
        let why = match SYSTEM_SCHEMAS.contains(&schema.as_str()) {
            _ if is_listed(allowed, Some(schema), name) => return None,
            false => "is not one of PostgreSQL itself",
            true if has_side_effects(name) => "does more than read",
            true if *volatile && !HARMLESS_VOLATILE_FUNCTIONS.contains(&name.as_str()) => "may do more than read",
            true => return None,
        };
        Some(Refusal::from_function(&format!("{schema}.{name}"), why))
    });
    Ok(refused)
}

/// Operators are found wherever their signs stand, because only the server knows how it splits them.
async fn find_refused_operator(
    connection: &mut PgConnection,
    sql: &ParameterizedSql,
    allowed: &[String],
) -> Result<Option<Refusal>> {
    let operators: Vec<(String, String, String)> = sqlx::query_as(OPERATORS_SQL).fetch_all(connection).await?;
    let text = sql.to_named_sql();
    let refused = operators.iter().find(|(operator, schema, function)| {
        text.contains(operator.as_str()) && !is_listed(allowed, Some(schema), function)
    });
    Ok(refused.map(|(operator, schema, function)| {
        Refusal::from_function(
            &format!("{schema}.{function}"),
            &format!("of the operator `{operator}` may do more than read"),
        )
    }))
}

/// The first node of a plan that writes or locks.
fn find_write_node(plan: &Value) -> Option<Refusal> {
    match plan {
        Value::Array(items) => items.iter().find_map(find_write_node),
        Value::Object(fields) => match fields.get("Node Type").and_then(Value::as_str) {
            Some("ModifyTable") => Some(Refusal::new("a part of it writes")),
            Some("LockRows") => Some(Refusal::new("`FOR UPDATE` and the like lock rows")),
            _ => fields.values().find_map(find_write_node),
        },
        _ => None,
    }
}
