//! Describes tables from the PostgreSQL catalog.

use sqlx::PgConnection;

use super::PostgresDatabase;
use crate::bulk_load::{KeyIndex, LoadPlan};
use crate::table::{DbColumnType, SelfReference, TableColumn, TableInfo};
use afterload_core::error::Result;
use afterload_core::identifier::TableName;

/// Finds a table or view. Binds its name.
const FIND_TABLE: &str = "SELECT c.oid::int8, \
    EXISTS (SELECT 1 FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal), \
    c.relkind = 'p', c.relkind = 'v', row_security_active(c.oid) \
    FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'f', 'v')";
/// Lists the columns of a table. Binds its OID.
const LIST_COLUMNS: &str = "SELECT a.attname::text, t.typname::text, format_type(a.atttypid, -1), a.attnotnull, \
    a.atttypmod, a.attidentity = 'a', \
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL \
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
    WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
/// Lists the foreign keys from a table to itself. Binds its OID.
const LIST_SELF_REFERENCES: &str = "SELECT \
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place) \
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place), \
    ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place) \
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place) \
    FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = $1::oid AND k.confrelid = k.conrelid";

/// Lists the unique indexes that are partial or index expressions: their parts and predicate. Binds the table.
const LIST_KEY_INDEXES: &str = "SELECT \
    ARRAY(SELECT pg_get_indexdef(x.indexrelid, n, false) FROM generate_series(1, x.indnkeyatts) AS n ORDER BY n), \
    pg_get_expr(x.indpred, x.indrelid) \
    FROM pg_index x WHERE x.indrelid = to_regclass($1) AND x.indisunique AND x.indisvalid AND x.indimmediate \
    AND (x.indpred IS NOT NULL OR x.indexprs IS NOT NULL)";

/// A row of `LIST_COLUMNS`.
type ColumnRow = (String, String, String, bool, i32, bool, bool);

pub(super) async fn describe_table(postgres: &PostgresDatabase, name: &TableName) -> Result<Option<TableInfo>> {
    let name = postgres.qualify_table(name);
    let found: Option<(i64, bool, bool, bool, bool)> =
        sqlx::query_as(FIND_TABLE).bind(name.to_quoted_sql()).fetch_optional(&postgres.pool).await?;
    let Some((oid, has_triggers, partitioned, is_view, row_security)) = found else { return Ok(None) };
    let rows: Vec<ColumnRow> = sqlx::query_as(LIST_COLUMNS).bind(oid).fetch_all(&postgres.pool).await?;
    let references: Vec<(Vec<String>, Vec<String>)> =
        sqlx::query_as(LIST_SELF_REFERENCES).bind(oid).fetch_all(&postgres.pool).await?;
    let named = |rows: &[ColumnRow], is_one: fn(&ColumnRow) -> bool| {
        rows.iter().filter(|row| is_one(row)).map(|row| row.0.clone()).collect::<Vec<_>>()
    };
    let (identity_columns, required_columns) = (named(&rows, |row| row.5), named(&rows, |row| row.6));
    let column = |(name, base, type_name, not_null, modifier, ..): ColumnRow| {
        // The modifier of a character type is its length plus a header of four bytes.
        let limited = matches!(base.as_str(), "varchar" | "bpchar") && modifier > 4;
        let max_length = limited.then(|| usize::try_from(modifier - 4).unwrap_or(usize::MAX));
        TableColumn { name, column_type: column_type_from_base(&base), type_name, not_null, max_length }
    };
    let columns = rows.into_iter().map(column).collect();
    let self_references = references.into_iter().map(|(columns, referenced)| SelfReference { columns, referenced });
    let self_references = self_references.collect();
    Ok(Some(TableInfo {
        name,
        columns,
        has_triggers,
        partitioned,
        is_view,
        row_security,
        identity_columns,
        required_columns,
        self_references,
    }))
}

/// Finds the partial unique index, or the one of expressions, that the conflict keys mean.
pub(super) async fn find_key_index(connection: &mut PgConnection, plan: &LoadPlan) -> Result<Option<KeyIndex>> {
    let query = sqlx::query_as(LIST_KEY_INDEXES).bind(plan.table.name.to_quoted_sql());
    let indexes: Vec<(Vec<String>, Option<String>)> = query.fetch_all(&mut *connection).await?;
    Ok(plan.choose_key_index(indexes.into_iter().map(|(parts, predicate)| KeyIndex { parts, predicate })))
}

fn column_type_from_base(name: &str) -> DbColumnType {
    match name {
        "bool" => DbColumnType::Bool,
        "int2" => DbColumnType::Int2,
        "int4" => DbColumnType::Int4,
        "int8" => DbColumnType::Int8,
        "float4" => DbColumnType::Float4,
        "float8" => DbColumnType::Float8,
        "numeric" => DbColumnType::Numeric,
        "text" | "varchar" | "bpchar" | "citext" => DbColumnType::Text,
        "date" => DbColumnType::Date,
        "timestamp" => DbColumnType::Timestamp,
        "timestamptz" => DbColumnType::Timestamptz,
        "uuid" => DbColumnType::Uuid,
        "json" => DbColumnType::Json,
        "jsonb" => DbColumnType::Jsonb,
        _ => DbColumnType::Other,
    }
}
