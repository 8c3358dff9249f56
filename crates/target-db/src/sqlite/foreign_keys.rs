//! Foreign keys of SQLite, whose errors name neither the column nor the table.

use rusqlite::{Connection, ffi, params_from_iter};

use super::bound_cell::BoundCell;
use crate::bulk_load::RowRefusal;
use crate::refusals::RefusedRow;
use crate::table::TableInfo;
use afterload_core::identifier::quote_identifier;

/// A foreign key of the loaded table.
#[derive(Debug, Default)]
pub(super) struct ForeignKey {
    columns: Vec<String>,
    parent: String,
    referenced: Vec<String>,
}

/// Lists the foreign keys of a table.
pub(super) fn list_foreign_keys(connection: &Connection, table: &TableInfo) -> rusqlite::Result<Vec<ForeignKey>> {
    let schema = table.name.schema.as_deref().unwrap_or("main");
    let sql = "SELECT id, \"table\", \"from\", coalesce(\"to\", (SELECT name FROM pragma_table_info(\"table\", ?2) AS t \
        WHERE t.pk = seq + 1)) FROM pragma_foreign_key_list(?1, ?2) ORDER BY id, seq";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query((&table.name.table, schema))?;
    let (mut keys, mut last) = (Vec::<ForeignKey>::new(), None);
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if last.replace(id) != Some(id) {
            keys.push(ForeignKey { parent: row.get(1)?, ..ForeignKey::default() });
        }
        if let Some(key) = keys.last_mut() {
            key.columns.push(row.get(2)?);
            key.referenced.extend(row.get::<_, Option<String>>(3)?);
        }
    }
    Ok(keys)
}

/// Whether a deferred constraint is violated, so that a commit would fail.
pub(super) fn has_deferred_violations(connection: &Connection) -> bool {
    let (mut violated, mut highest) = (0, 0);
    #[expect(unsafe_code, reason = "rusqlite does not offer this status")]
    // SAFETY: the handle is open while `connection` lives, and SQLite only writes the two numbers.
    let code = unsafe {
        let handle = connection.handle();
        ffi::sqlite3_db_status(handle, ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &raw mut violated, &raw mut highest, 0)
    };
    code == ffi::SQLITE_OK && violated != 0
}

/// Explains the refusal of a row that breaks a foreign key: the first one whose row is not there.
pub(super) fn explain_missing_reference(
    connection: &Connection,
    keys: &[ForeignKey],
    row: RefusedRow<'_>,
) -> rusqlite::Result<Option<RowRefusal>> {
    for key in keys {
        if !is_satisfied(connection, key, row)? {
            return Ok(Some(row.missing_reference(&key.columns, &key.parent, &key.referenced)));
        }
    }
    Ok(None)
}

/// Whether the row that a key of `row` refers to is there. A key that is not loaded as a whole is taken as satisfied.
fn is_satisfied(connection: &Connection, key: &ForeignKey, row: RefusedRow<'_>) -> rusqlite::Result<bool> {
    let index = |name: &String| row.plan.columns.iter().position(|(column, _)| column.name.eq_ignore_ascii_case(name));
    let Some(indexes) = key.columns.iter().map(index).collect::<Option<Vec<_>>>() else { return Ok(true) };
    let cells = indexes.into_iter().map(|index| BoundCell::new(row.plan, row.rows, row.row, index));
    let cells = cells.collect::<Vec<_>>();
    if key.referenced.len() != cells.len() || cells.iter().any(BoundCell::is_null) {
        return Ok(true);
    }
    let parent = match &row.plan.table.name.schema {
        Some(schema) => format!("{}.{}", quote_identifier(schema), quote_identifier(&key.parent)),
        None => quote_identifier(&key.parent),
    };
    let same = key.referenced.iter().map(|name| format!("{} = ?", quote_identifier(name))).collect::<Vec<_>>();
    let sql = format!("SELECT 1 FROM {parent} WHERE {}", same.join(" AND "));
    connection.prepare(&sql)?.exists(params_from_iter(cells))
}
