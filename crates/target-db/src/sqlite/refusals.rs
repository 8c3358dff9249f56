//! Why SQLite refused a row. Its errors name the columns of a rule only in their text.

use rusqlite::{Connection, OptionalExtension, ffi};

use super::error_text;
use super::foreign_keys::{ForeignKey, explain_missing_reference};
use crate::bulk_load::{LoadPlan, RowRefusal};
use crate::refusals::{RefusedRow, mentioned_columns};

/// Whether the error concerns this row only.
///
/// An error without a class comes from a function that a value breaks, such as `json_extract`: the statement itself was
/// prepared before.
pub(super) fn is_row_error(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code & 0xff);
    matches!(code, Some(ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH | ffi::SQLITE_TOOBIG | ffi::SQLITE_ERROR))
}

/// Explains a refusal in plain words, or else in those of the database.
pub(super) fn explain_refusal(
    connection: &Connection,
    keys: &[ForeignKey],
    row: RefusedRow<'_>,
    error: &rusqlite::Error,
) -> rusqlite::Result<RowRefusal> {
    let text = error_text(error);
    // As in `UNIQUE constraint failed: contacts.email`.
    let rule = text.split_once(": ").map_or("", |(_, rule)| rule);
    Ok(match error.sqlite_error().map(|error| error.extended_code) {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID) => {
            row.duplicate(&unique_columns(connection, row.plan, rule)?)
        }
        Some(ffi::SQLITE_CONSTRAINT_NOTNULL) => match listed_columns(row.plan, rule).as_slice() {
            [column] => row.missing_value(column),
            _ => row.other_reason("", &text),
        },
        Some(ffi::SQLITE_CONSTRAINT_CHECK) => row.broken_check(&mentioned_columns(row.plan, rule), rule),
        Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => {
            explain_missing_reference(connection, keys, row)?.unwrap_or_else(|| row.other_reason("", &text))
        }
        _ => row.other_reason("", &text),
    })
}

/// The columns of a unique rule: a list such as `contacts.email`, or the name of an index of expressions.
fn unique_columns(connection: &Connection, plan: &LoadPlan, rule: &str) -> rusqlite::Result<Vec<String>> {
    let Some(index) = rule.strip_prefix("index '").and_then(|rule| rule.strip_suffix('\'')) else {
        return Ok(listed_columns(plan, rule));
    };
    let sql = "SELECT sql FROM sqlite_master WHERE type = 'index' AND name = ?1";
    let sql: Option<String> = connection.query_row(sql, [index], |row| row.get(0)).optional()?;
    // The columns stand in brackets behind the name of the table.
    let parts = sql.as_deref().and_then(|sql| sql.split_once('(')).map_or("", |(_, parts)| parts);
    Ok(mentioned_columns(plan, parts))
}

/// The loaded columns of a list such as `contacts.email, contacts.name`.
fn listed_columns(plan: &LoadPlan, list: &str) -> Vec<String> {
    let table = &plan.table.name.table;
    let names = plan.columns.iter().map(|(column, _)| column.name.clone());
    let is_listed = |name: &String| {
        let named = |item: &str| {
            item.rsplit_once('.').is_some_and(|(of, column)| of.eq_ignore_ascii_case(table) && column == name)
        };
        list.split(", ").any(named)
    };
    names.filter(is_listed).collect()
}
