//! Describes tables from SQLite's schema.

use sqlx::{AssertSqlSafe, Row, SqlitePool};

use crate::table::{DbColumnType, SelfReference, TableColumn, TableInfo};
use afterload_core::error::Result;
use afterload_core::identifier::{TableName, quote_identifier};

/// Lists the columns of a table or view. Binds its name and schema.
const LIST_COLUMNS: &str = "SELECT name, type, \"notnull\", pk, dflt_value IS NOT NULL \
    FROM pragma_table_xinfo($1, $2) WHERE hidden = 0 ORDER BY cid";
/// Lists the columns of foreign keys from a table to itself. Binds its name and schema.
const LIST_SELF_REFERENCES: &str = "SELECT id, \"from\", \
    coalesce(\"to\", (SELECT name FROM pragma_table_info($1, $2) AS t WHERE t.pk = seq + 1)) \
    FROM pragma_foreign_key_list($1, $2) WHERE \"table\" = $1 COLLATE NOCASE ORDER BY id, seq";

pub(super) async fn describe_table(pool: &SqlitePool, name: &TableName) -> Result<Option<TableInfo>> {
    let schema = name.schema.as_deref().unwrap_or("main");
    let rows = sqlx::query(LIST_COLUMNS).bind(&name.table).bind(schema).fetch_all(pool).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let master = format!("{}.sqlite_master", quote_identifier(schema));
    let sql = format!(
        "SELECT count(*) FILTER (WHERE type = 'trigger'), count(*) FILTER (WHERE type = 'view') FROM {master} \
         WHERE type = 'trigger' AND tbl_name = $1 COLLATE NOCASE OR type = 'view' AND name = $1 COLLATE NOCASE"
    );
    let (triggers, views): (i64, i64) = sqlx::query_as(AssertSqlSafe(sql)).bind(&name.table).fetch_one(pool).await?;
    let references: Vec<(i64, String, Option<String>)> =
        sqlx::query_as(LIST_SELF_REFERENCES).bind(&name.table).bind(schema).fetch_all(pool).await?;
    let mut required_columns = Vec::new();
    let columns = rows.iter().map(|row| {
        let (name, declared): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let kind = column_type_from_declared(&declared);
        // SQLite replaces a null in an INTEGER PRIMARY KEY by the next number.
        let not_null = row.try_get::<bool, _>(2)? && !(row.try_get::<i64, _>(3)? > 0 && kind == DbColumnType::Int8);
        if not_null && !row.try_get::<bool, _>(4)? {
            required_columns.push(name.clone());
        }
        Ok(TableColumn { name, column_type: kind, type_name: declared, not_null, max_length: None })
    });
    let columns = columns.collect::<Result<Vec<_>, sqlx::Error>>()?;
    Ok(Some(TableInfo {
        name: name.clone(),
        columns,
        has_triggers: triggers > 0,
        partitioned: false,
        is_view: views > 0,
        row_security: false,
        identity_columns: Vec::new(),
        required_columns,
        self_references: group_references(references),
    }))
}

/// Groups the columns of foreign keys by the key, which `LIST_SELF_REFERENCES` returns in order.
fn group_references(rows: Vec<(i64, String, Option<String>)>) -> Vec<SelfReference> {
    let (mut references, mut last) = (Vec::<SelfReference>::new(), None);
    for (id, column, referenced) in rows {
        if last.replace(id) != Some(id) {
            references.push(SelfReference { columns: Vec::new(), referenced: Vec::new() });
        }
        if let Some(reference) = references.last_mut() {
            reference.columns.push(column);
            reference.referenced.extend(referenced);
        }
    }
    references.retain(|reference| reference.columns.len() == reference.referenced.len());
    references
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
