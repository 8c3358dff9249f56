//! What a database knows of a table: its columns and their real types.

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::TableName;

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
