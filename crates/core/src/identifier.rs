//! Names in SQL text: always quoted, never pasted.

use std::fmt;

use crate::codes;
use crate::error::{Error, Result};

/// A table as people write it: `contacts` or `crm.contacts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The schema (PostgreSQL) or attached database (SQLite).
    pub schema: Option<String>,
    /// The table.
    pub table: String,
}

impl TableName {
    /// Reads `table` or `schema.table`.
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

    /// Quoted for SQL.
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

/// A name in the double quotes of standard SQL, which both databases read.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names, quoted and separated by commas.
pub fn quote_identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote_identifier).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(quote_identifier(r#"a"; DROP TABLE x; --"#), r#""a""; DROP TABLE x; --""#);
        assert_eq!(TableName::parse("crm.contacts").unwrap().to_quoted_sql(), r#""crm"."contacts""#);
        assert_eq!(quote_identifiers(["a", "b c"]), r#""a", "b c""#);
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in ["", ".x", "x.", "a.b.c", "a\0b"] {
            assert_eq!(TableName::parse(name).unwrap_err().code(), codes::TABLE_NOT_FOUND, "{name:?}");
        }
    }
}
