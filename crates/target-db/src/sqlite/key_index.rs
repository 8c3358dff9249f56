//! Partial unique indexes and unique indexes of expressions, read from the SQL that made them.

use rusqlite::Connection;

use crate::bulk_load::{KeyIndex, LoadPlan};
use crate::tokenizer::{SqlToken, tokenize_sql};
use afterload_core::dialect::Dialect;
use afterload_core::identifier::quote_identifier;

/// Finds the partial unique index, or the one of expressions, that the conflict keys mean.
pub(super) fn find_key_index(connection: &Connection, plan: &LoadPlan) -> rusqlite::Result<Option<KeyIndex>> {
    let schema = plan.table.name.schema.as_deref().unwrap_or("main");
    let sql = format!(
        "SELECT m.sql FROM pragma_index_list(?1, ?2) AS i JOIN {}.sqlite_master AS m ON m.name = i.name \
         WHERE i.\"unique\" AND m.type = 'index' AND m.sql IS NOT NULL",
        quote_identifier(schema)
    );
    let mut statement = connection.prepare(&sql)?;
    let texts = statement.query_map((&plan.table.name.table, schema), |row| row.get::<_, String>(0))?;
    let texts = texts.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(plan.choose_key_index(texts.iter().filter_map(|text| parse_index(text))))
}

/// Reads the parts and the predicate of `CREATE UNIQUE INDEX name ON table (part, …) WHERE predicate`.
fn parse_index(sql: &str) -> Option<KeyIndex> {
    let tokens = tokenize_sql(sql, Dialect::Sqlite).ok()?;
    let (mut depth, mut seen_table, mut skips) = (0_usize, false, false);
    let mut parts = vec![String::new()];
    let mut tokens = tokens.into_iter();
    for token in tokens.by_ref() {
        let text = token_text(token);
        match (text, depth) {
            ("(", 0) => (depth, seen_table) = (1, true),
            (")", 1) => break,
            (",", 1) => {
                parts.push(String::new());
                skips = false;
            }
            _ if !seen_table => {}
            _ => {
                let is_word = |words: [&str; 3]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
                // The order and the collation of a part do not name the index.
                skips |= depth == 1 && is_word(["collate", "asc", "desc"]);
                depth = match text {
                    "(" => depth + 1,
                    ")" => depth - 1,
                    _ => depth,
                };
                if let (false, Some(part)) = (skips, parts.last_mut()) {
                    part.push_str(text);
                }
            }
        }
    }
    let rest = tokens.map(token_text).collect::<String>();
    let rest = rest.trim();
    let predicate = match rest.get(..5) {
        Some(word) if word.eq_ignore_ascii_case("where") => Some(rest[5..].trim().to_owned()),
        _ => None,
    };
    let parts = parts.into_iter().map(|part| unquote(part.trim())).collect();
    Some(KeyIndex { parts, predicate })
}

fn token_text(token: SqlToken<'_>) -> &str {
    match token {
        SqlToken::Blank(_) => " ",
        SqlToken::Semicolon => ";",
        SqlToken::Parameter(text) | SqlToken::Other(text) => text,
    }
}

/// Turns a name in SQLite's other quotes into one in standard quotes, and leaves expressions as they are.
fn unquote(part: &str) -> String {
    let quoted = [('`', '`'), ('[', ']')].into_iter().find_map(|(open, close)| {
        let name = part.strip_prefix(open)?.strip_suffix(close)?;
        (!name.contains([open, close])).then(|| quote_identifier(name))
    });
    quoted.unwrap_or_else(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_predicate_of_an_index_are_read() {
        let cases = [
            ("CREATE UNIQUE INDEX ux ON t(email) WHERE deleted_at IS NULL", &["email"][..], Some("deleted_at IS NULL")),
            ("CREATE UNIQUE INDEX ux ON \"t (x)\" (lower(email), b COLLATE NOCASE DESC)", &["lower(email)", "b"], None),
            ("create unique index ux on t ([a b] asc, `c`)", &["\"a b\"", "\"c\""], None),
            (
                "CREATE UNIQUE INDEX u ON t(a /* , */ || ')' , b) where x = '(' AND y",
                &["a || ')'", "b"],
                Some("x = '(' AND y"),
            ),
        ];
        for (sql, parts, predicate) in cases {
            let found = parse_index(sql).unwrap();
            let texts = found.parts.iter().map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
            assert_eq!(texts.collect::<Vec<_>>(), parts, "{sql}");
            assert_eq!(found.predicate.as_deref(), predicate, "{sql}");
        }
    }
}
