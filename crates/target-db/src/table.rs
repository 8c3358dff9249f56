//! The description of a table: its columns and their types in the database.

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::TableName;

/// An existing table.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// The name, with its schema if known.
    pub name: TableName,
    /// The columns in the order of the table.
    pub columns: Vec<TableColumn>,
    /// Whether the table has triggers, which may change inserted rows.
    pub has_triggers: bool,
    /// Whether the table is partitioned.
    pub partitioned: bool,
    /// Whether this is a view. Its triggers, or its own definition, say where rows go.
    pub is_view: bool,
    /// Whether policies decide which rows this session may write.
    pub row_security: bool,
    /// The identity columns that are `GENERATED ALWAYS`.
    pub identity_columns: Vec<String>,
    /// The columns that refuse null and have no default. Every new row needs a value for them.
    pub required_columns: Vec<String>,
    /// The foreign keys that refer to the table itself.
    pub self_references: Vec<SelfReference>,
}

/// A foreign key from a table to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfReference {
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The columns that they refer to, in the same order.
    pub referenced: Vec<String>,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct TableColumn {
    /// The name as the database spells it.
    pub name: String,
    /// The type that the database stores.
    pub column_type: DbColumnType,
    /// The database's name of the type, usable in a cast. Empty if a SQLite column declares none.
    pub type_name: String,
    /// Whether the column refuses null.
    pub not_null: bool,
    /// The maximum number of characters, if the type has a limit.
    pub max_length: Option<usize>,
}

/// The type of a column as bulk loading needs it. SQLite's declared types map to the closest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbColumnType {
    /// A boolean.
    Bool,
    /// A 16-bit integer.
    Int2,
    /// A 32-bit integer.
    Int4,
    /// A 64-bit integer.
    Int8,
    /// A single precision float.
    Float4,
    /// A double precision float.
    Float8,
    /// An exact decimal.
    Numeric,
    /// Text of any kind.
    Text,
    /// A date.
    Date,
    /// A timestamp without time zone.
    Timestamp,
    /// A timestamp with time zone.
    Timestamptz,
    /// A UUID.
    Uuid,
    /// JSON stored as text.
    Json,
    /// JSON stored in binary form.
    Jsonb,
    /// Any other type. The database casts values from text.
    Other,
}

impl TableInfo {
    /// Finds a column by its exact name, or by a unique match that ignores ASCII case.
    ///
    /// # Errors
    /// `column_not_found`, with the existing columns in its hint.
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

/// Whether an SQL expression names this column, outside of its texts.
pub(crate) fn mentions_column(expression: &str, column: &str) -> bool {
    // Every second part lies within a text, also if it holds doubled quotes.
    let code = expression.split('\'').step_by(2).collect::<Vec<_>>().join("''");
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut places = code.match_indices(column);
    places.any(|(start, found)| {
        let (before, after) = (code[..start].chars().next_back(), code[start + found.len()..].chars().next());
        let is_call = after == Some('(');
        !before.is_some_and(is_name) && !after.is_some_and(is_name) && !is_call
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_is_found_in_expressions_as_a_whole_name() {
        for (expression, expected) in [
            ("age <> 13", true),
            ("(\"age\" > 0)", true),
            ("page > 0 AND age_2 > 0", false),
            ("kind <> 'age'", false),
            ("kind <> 'it''s' AND age > 1", true),
            ("age(born) > '1 day'", false),
            ("lower(age)", true),
        ] {
            assert_eq!(mentions_column(expression, "age"), expected, "{expression}");
        }
    }
}
