//! Which blobs an object or an upload consists of.

use rusqlite::{Connection, params};

use super::super::blobs::WrittenBlob;
use super::super::error::S3ServerError;
use super::IndexTx;

/// Adds a blob to its owner. A part of an upload has no start offset yet; any other blob is its whole object.
pub(super) fn insert_blob(
    tx: &IndexTx<'_>,
    owner: &str,
    number: i32,
    sealed: &WrittenBlob,
) -> Result<(), S3ServerError> {
    let start = if owner == sealed.id { 0 } else { -1 };
    let mut insert = tx.sql.prepare_cached(
        "INSERT INTO bodies (owner, number, body, start, size, md5, checksums, modified_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let WrittenBlob { id, size, md5, checksums, .. } = sealed;
    insert.execute(params![owner, number, id, start, *size as i64, md5, checksums.to_json(), tx.now])?;
    Ok(())
}

/// Removes the blobs of an owner from the index, and returns their IDs.
pub(super) fn unlink_blobs(sql: &Connection, owner: &str) -> Result<Vec<String>, S3ServerError> {
    let mut delete = sql.prepare_cached("DELETE FROM bodies WHERE owner = ?1 RETURNING body")?;
    let rows = delete.query_map([owner], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
