//! What a database knows of a table: its columns and their real types.

use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::postgres::PostgresDatabase;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{TableName, quote_identifier};

/// A table that exists.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// Its name, with the schema where one is known.
    pub name: TableName,
    /// Its columns.
    pub columns: Vec<TableColumn>,
    /// Whether triggers of the user's may change or fill what is inserted.
    pub has_triggers: bool,
    /// Whether its rows lie in partitions.
    pub partitioned: bool,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct TableColumn {
    /// The name as the database spells it.
    pub name: String,
    /// What the database stores.
    pub column_type: DbColumnType,
    /// The database's own name of the type, ready for a cast; empty where SQLite has none.
    pub type_name: String,
    /// Whether null is refused.
    pub not_null: bool,
    /// The most characters, where the type limits them.
    pub max_length: Option<usize>,
}

/// What a column stores, as far as bulk loading cares. SQLite's declared types are mapped to the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbColumnType {
    /// True or false.
    Bool,
    /// 16 bits.
    Int2,
    /// 32 bits.
    Int4,
    /// 64 bits.
    Int8,
    /// Single precision.
    Float4,
    /// Double precision.
    Float8,
    /// Exact decimals.
    Numeric,
    /// Text of any kind.
    Text,
    /// A day.
    Date,
    /// A time without zone.
    Timestamp,
    /// A time with zone.
    Timestamptz,
    /// A UUID.
    Uuid,
    /// JSON as text.
    Json,
    /// JSON in binary.
    Jsonb,
    /// Anything else; the database casts it from text.
    Other,
}

impl TableInfo {
    /// The column of this name: as written, or else regardless of ASCII case if that names just one.
    ///
    /// # Errors
    /// `column_not_found`, with the columns that there are.
    pub fn find_column(&self, name: &str) -> Result<&TableColumn> {
        let mut near = self.columns.iter().filter(|column| column.name.eq_ignore_ascii_case(name));
        let exact = self.columns.iter().find(|column| column.name == name);
        match (exact, near.next(), near.next()) {
            (Some(column), ..) | (None, Some(column), None) => Ok(column),
            _ => {
                let known = self.columns.iter().map(|column| format!("`{}`", column.name)).collect::<Vec<_>>();
                let message = format!("table `{}` has no column `{name}`", self.name);
                Err(Error::new(codes::COLUMN_NOT_FOUND, message).with_hint(format!("it has {}", known.join(", "))))
            }
        }
    }
}

pub(super) async fn describe_sqlite_table(pool: &SqlitePool, name: &TableName) -> Result<Option<TableInfo>> {
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
        // A null in an INTEGER PRIMARY KEY asks SQLite for the next number.
        let not_null = row.try_get::<bool, _>(2)? && !(row.try_get::<i64, _>(3)? > 0 && kind == DbColumnType::Int8);
        Ok(TableColumn { name: row.try_get(0)?, column_type: kind, type_name: declared, not_null, max_length: None })
    });
    let columns = columns.collect::<Result<Vec<_>, sqlx::Error>>()?;
    Ok(Some(TableInfo { name: name.clone(), columns, has_triggers: triggers > 0, partitioned: false }))
}

/// SQLite's own rules for the affinity of a declared type, with the names that frameworks use for more.
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

pub(super) async fn describe_postgres_table(
    postgres: &PostgresDatabase,
    name: &TableName,
) -> Result<Option<TableInfo>> {
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
        // The modifier of a character type is its length and the four bytes of a header.
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
