//! Names in SQL text. Every name is quoted.

use std::fmt;

use crate::codes;
use crate::error::{Error, Result};

/// A table as users write it: `contacts` or `crm.contacts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The schema (PostgreSQL) or attached database (SQLite).
    pub schema: Option<String>,
    /// The table name.
    pub table: String,
}

impl TableName {
    /// Parses `table` or `schema.table`.
    ///
    /// # Errors
    /// `table_not_found` if no table can have that name.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.split('.').collect::<Vec<_>>();
        let sound = parts.iter().all(|part| !part.is_empty() && !part.contains('\0'));
        match (parts.as_slice(), sound) {
            ([table], true) => Ok(Self { schema: None, table: (*table).to_owned() }),
            ([schema, table], true) => Ok(Self { schema: Some((*schema).to_owned()), table: (*table).to_owned() }),
            _ => Err(Error::new(codes::TABLE_NOT_FOUND, format!("`{text}` cannot be the name of a table"))
                .with_hint("expected `table` or `schema.table`")),
        }
    }

    /// The name, quoted for SQL.
    pub fn to_quoted_sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote_identifier(schema), quote_identifier(&self.table)),
            None => quote_identifier(&self.table),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.table),
            None => f.write_str(&self.table),
        }
    }
}

/// Quotes a name with the double quotes of standard SQL, which both dialects read.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes names and separates them with commas.
pub fn quote_identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote_identifier).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_names_cannot_break_out() {
        assert_eq!(quote_identifier(r#"a"; DROP TABLE x; --"#), r#""a""; DROP TABLE x; --""#);
        assert_eq!(TableName::parse("crm.contacts").unwrap().to_quoted_sql(), r#""crm"."contacts""#);
        assert_eq!(quote_identifiers(["a", "b c"]), r#""a", "b c""#);
    }

    #[test]
    fn impossible_table_names_are_rejected() {
        for name in ["", ".x", "x.", "a.b.c", "a\0b"] {
            assert_eq!(TableName::parse(name).unwrap_err().code(), codes::TABLE_NOT_FOUND, "{name:?}");
        }
    }
}
