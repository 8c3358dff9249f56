//! Describes tables from SQLite's schema.

use sqlx::{AssertSqlSafe, Row, SqlitePool};

use crate::table::{DbColumnType, TableColumn, TableInfo};
use afterload_core::error::Result;
use afterload_core::identifier::{TableName, quote_identifier};

pub(super) async fn describe_table(pool: &SqlitePool, name: &TableName) -> Result<Option<TableInfo>> {
    let schema = name.schema.as_deref().unwrap_or("main");
    let sql = "SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo($1, $2) WHERE hidden = 0 ORDER BY cid";
    let rows = sqlx::query(sql).bind(&name.table).bind(schema).fetch_all(pool).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let master = format!("{}.sqlite_master", quote_identifier(schema));
    let sql = format!("SELECT count(*) FROM {master} WHERE type = 'trigger' AND tbl_name = $1 COLLATE NOCASE");
    let triggers: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&name.table).fetch_one(pool).await?;
    let columns = rows.iter().map(|row| {
        let declared: String = row.try_get(1)?;
        let kind = column_type_from_declared(&declared);
        // SQLite replaces a null in an INTEGER PRIMARY KEY by the next number.
        let not_null = row.try_get::<bool, _>(2)? && !(row.try_get::<i64, _>(3)? > 0 && kind == DbColumnType::Int8);
        Ok(TableColumn { name: row.try_get(0)?, column_type: kind, type_name: declared, not_null, max_length: None })
    });
    let columns = columns.collect::<Result<Vec<_>, sqlx::Error>>()?;
    Ok(Some(TableInfo { name: name.clone(), columns, has_triggers: triggers > 0, partitioned: false }))
}

/// Follows SQLite's affinity rules, extended by type names that frameworks use.
fn column_type_from_declared(declared: &str) -> DbColumnType {
    let upper = declared.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    match () {
        () if has("BOOL") => DbColumnType::Bool,
        () if has("DATETIME") || has("TIMESTAMP") => DbColumnType::Timestamp,
        () if upper == "DATE" => DbColumnType::Date,
        () if has("INT") => DbColumnType::Int8,
        () if has("CHAR") || has("CLOB") || has("TEXT") => DbColumnType::Text,
        () if has("REAL") || has("FLOA") || has("DOUB") => DbColumnType::Float8,
        () if has("DEC") || has("NUM") => DbColumnType::Numeric,
        () if upper == "UUID" => DbColumnType::Uuid,
        () if has("JSON") => DbColumnType::Json,
        () => DbColumnType::Other,
    }
}
