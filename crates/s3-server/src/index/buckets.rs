//! Rows of buckets.

use rusqlite::{Connection, OptionalExtension, params};
use s3s::S3ErrorCode;

use super::super::blobs::UnreferencedBlobs;
use super::super::error::S3ServerError;
use super::{IndexTx, blob_rows};
use afterload_core::clock::UnixMillis;

pub(in super::super) struct BucketRow {
    pub(in super::super) name: String,
    pub(in super::super) created_at: UnixMillis,
}

pub(in super::super) fn insert_bucket(tx: &IndexTx<'_>, name: &str) -> Result<(), S3ServerError> {
    let values = params![name, tx.now];
    tx.sql.execute("INSERT INTO buckets (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING", values)?;
    Ok(())
}

/// Fails if the bucket does not exist.
pub(in super::super) fn ensure_bucket_exists(sql: &Connection, name: &str) -> Result<(), S3ServerError> {
    let mut select = sql.prepare_cached("SELECT 1 FROM buckets WHERE name = ?1")?;
    let found = select.query_row([name], |_| Ok(())).optional()?;
    found.ok_or_else(|| S3ErrorCode::NoSuchBucket.into())
}

/// Deletes an empty bucket and its unfinished uploads.
pub(in super::super) fn delete_empty_bucket(tx: &mut IndexTx<'_>, name: &str) -> Result<(), S3ServerError> {
    ensure_bucket_exists(&tx.sql, name)?;
    let full = tx.sql.query_row("SELECT 1 FROM objects WHERE bucket = ?1 LIMIT 1", [name], |_| Ok(())).optional()?;
    if full.is_some() {
        return Err(S3ErrorCode::BucketNotEmpty.into());
    }
    let ids: Vec<String> = {
        let mut select = tx.sql.prepare("SELECT id FROM uploads WHERE bucket = ?1")?;
        select.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    for id in ids {
        let bodies = blob_rows::unlink_blobs(&tx.sql, &id)?;
        tx.unreferenced.push(UnreferencedBlobs { owner: id, blob_ids: bodies });
    }
    tx.sql.execute("DELETE FROM uploads WHERE bucket = ?1", [name])?;
    tx.sql.execute("DELETE FROM buckets WHERE name = ?1", [name])?;
    Ok(())
}

/// Lists the buckets from `from` on whose names start with `prefix`.
pub(in super::super) fn list_buckets(
    sql: &Connection,
    prefix: &str,
    from: &str,
    limit: u32,
) -> Result<Vec<BucketRow>, S3ServerError> {
    let mut select = sql.prepare(
        "SELECT name, created_at FROM buckets WHERE name >= ?1 AND substr(name, 1, length(?2)) = ?2
         ORDER BY name LIMIT ?3",
    )?;
    let rows = select
        .query_map(params![from, prefix, limit], |row| Ok(BucketRow { name: row.get(0)?, created_at: row.get(1)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
