//! Describes tables from the PostgreSQL catalog.

use super::PostgresDatabase;
use crate::table::{DbColumnType, TableColumn, TableInfo};
use afterload_core::error::Result;
use afterload_core::identifier::TableName;

pub(super) async fn describe_table(postgres: &PostgresDatabase, name: &TableName) -> Result<Option<TableInfo>> {
    let name = postgres.qualify_table(name);
    let sql = "SELECT c.oid::int8, EXISTS (SELECT 1 FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal), \
        c.relkind = 'p' \
        FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'f')";
    let found: Option<(i64, bool, bool)> =
        sqlx::query_as(sql).bind(name.to_quoted_sql()).fetch_optional(&postgres.pool).await?;
    let Some((oid, triggers, partitioned)) = found else { return Ok(None) };
    let sql = "SELECT a.attname::text, t.typname::text, format_type(a.atttypid, -1), a.attnotnull, a.atttypmod \
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
        WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    let rows: Vec<(String, String, String, bool, i32)> =
        sqlx::query_as(sql).bind(oid).fetch_all(&postgres.pool).await?;
    let column = |(name, base, type_name, not_null, modifier): (String, String, String, bool, i32)| {
        // The modifier of a character type is its length plus a header of four bytes.
        let limited = matches!(base.as_str(), "varchar" | "bpchar") && modifier > 4;
        let max_length = limited.then(|| usize::try_from(modifier - 4).unwrap_or(usize::MAX));
        TableColumn { name, column_type: column_type_from_base(&base), type_name, not_null, max_length }
    };
    Ok(Some(TableInfo { name, columns: rows.into_iter().map(column).collect(), has_triggers: triggers, partitioned }))
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
