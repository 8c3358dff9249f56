//! What a database knows of a table: its columns and their real types.

use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::postgres::Postgres;
use afterload_core::error::{Error, Result};
use afterload_core::table_name::{TableName, identifier};

/// A table that exists.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name, with the schema where one is known.
    pub name: TableName,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Whether triggers of the user's may change or fill what is inserted.
    pub triggers: bool,
    /// Whether its rows lie in partitions.
    pub partitioned: bool,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// The name as the database spells it.
    pub name: String,
    /// What the database stores.
    pub kind: Kind,
    /// The database's own name of the type, ready for a cast; empty where SQLite has none.
    pub type_name: String,
    /// Whether null is refused.
    pub not_null: bool,
    /// The most characters, where the type limits them.
    pub max_length: Option<usize>,
}

/// What a column stores, as far as bulk loading cares. SQLite's declared types are mapped to the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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

impl Table {
    /// The column of this name: as written, or else regardless of ASCII case if that names just one.
    ///
    /// # Errors
    /// `column_not_found`, with the columns that there are.
    pub fn column(&self, name: &str) -> Result<&Column> {
        let mut near = self.columns.iter().filter(|column| column.name.eq_ignore_ascii_case(name));
        let exact = self.columns.iter().find(|column| column.name == name);
        match (exact, near.next(), near.next()) {
            (Some(column), ..) | (None, Some(column), None) => Ok(column),
            _ => {
                let known = self.columns.iter().map(|column| format!("`{}`", column.name)).collect::<Vec<_>>();
                let message = format!("table `{}` has no column `{name}`", self.name);
                Err(Error::permanent("column_not_found", message).hint(format!("it has {}", known.join(", "))))
            }
        }
    }
}

pub(super) async fn sqlite(pool: &SqlitePool, name: &TableName) -> Result<Option<Table>> {
    let schema = name.schema.as_deref().unwrap_or("main");
    let sql = "SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo($1, $2) WHERE hidden = 0 ORDER BY cid";
    let rows = sqlx::query(sql).bind(&name.table).bind(schema).fetch_all(pool).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let master = format!("{}.sqlite_master", identifier(schema));
    let sql = format!("SELECT count(*) FROM {master} WHERE type = 'trigger' AND tbl_name = $1 COLLATE NOCASE");
    let triggers: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&name.table).fetch_one(pool).await?;
    let columns = rows.iter().map(|row| {
        let declared: String = row.try_get(1)?;
        let kind = declared_kind(&declared);
        // A null in an INTEGER PRIMARY KEY asks SQLite for the next number.
        let not_null = row.try_get::<bool, _>(2)? && !(row.try_get::<i64, _>(3)? > 0 && kind == Kind::Int8);
        Ok(Column { name: row.try_get(0)?, kind, type_name: declared, not_null, max_length: None })
    });
    let columns = columns.collect::<Result<Vec<_>, sqlx::Error>>()?;
    Ok(Some(Table { name: name.clone(), columns, triggers: triggers > 0, partitioned: false }))
}

/// SQLite's own rules for the affinity of a declared type, with the names that frameworks use for more.
fn declared_kind(declared: &str) -> Kind {
    let upper = declared.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    match () {
        () if has("BOOL") => Kind::Bool,
        () if has("DATETIME") || has("TIMESTAMP") => Kind::Timestamp,
        () if upper == "DATE" => Kind::Date,
        () if has("INT") => Kind::Int8,
        () if has("CHAR") || has("CLOB") || has("TEXT") => Kind::Text,
        () if has("REAL") || has("FLOA") || has("DOUB") => Kind::Float8,
        () if has("DEC") || has("NUM") => Kind::Numeric,
        () if upper == "UUID" => Kind::Uuid,
        () if has("JSON") => Kind::Json,
        () => Kind::Other,
    }
}

pub(super) async fn postgres(postgres: &Postgres, name: &TableName) -> Result<Option<Table>> {
    let name = postgres.in_schema(name);
    let sql = "SELECT c.oid::int8, EXISTS (SELECT 1 FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal), \
        c.relkind = 'p' \
        FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'f')";
    let found: Option<(i64, bool, bool)> =
        sqlx::query_as(sql).bind(name.quoted()).fetch_optional(&postgres.pool).await?;
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
        Column { name, kind: base_kind(&base), type_name, not_null, max_length }
    };
    Ok(Some(Table { name, columns: rows.into_iter().map(column).collect(), triggers, partitioned }))
}

fn base_kind(name: &str) -> Kind {
    match name {
        "bool" => Kind::Bool,
        "int2" => Kind::Int2,
        "int4" => Kind::Int4,
        "int8" => Kind::Int8,
        "float4" => Kind::Float4,
        "float8" => Kind::Float8,
        "numeric" => Kind::Numeric,
        "text" | "varchar" | "bpchar" | "citext" => Kind::Text,
        "date" => Kind::Date,
        "timestamp" => Kind::Timestamp,
        "timestamptz" => Kind::Timestamptz,
        "uuid" => Kind::Uuid,
        "json" => Kind::Json,
        "jsonb" => Kind::Jsonb,
        _ => Kind::Other,
    }
}
