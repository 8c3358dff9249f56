//! Rows of multipart uploads and their parts.

use rusqlite::{Connection, OptionalExtension, Row, params};
use s3s::S3ErrorCode;

use super::super::blobs::{UnreferencedBlobs, WrittenBlob};
use super::super::digest::BlobChecksums;
use super::super::error::S3ServerError;
use super::events::key_from_row;
use super::list::{KEY_UPPER_BOUND, after_prefix};
use super::objects::{IndexedObject, ObjectDetails, WriteConditions};
use super::{IndexTx, blob_rows, buckets, objects};
use afterload_core::clock::UnixMillis;

/// An upload that is not complete yet.
pub(in super::super) struct UnfinishedUpload {
    pub(in super::super) key: String,
    pub(in super::super) id: String,
    pub(in super::super) content_type: String,
    pub(in super::super) details: ObjectDetails,
    pub(in super::super) created_at: UnixMillis,
}

/// A part that has been received.
pub(in super::super) struct UploadedPart {
    pub(in super::super) number: i32,
    pub(in super::super) size: u64,
    pub(in super::super) md5: String,
    pub(in super::super) checksums: BlobChecksums,
    pub(in super::super) modified_at: UnixMillis,
}

pub(in super::super) fn insert_upload(
    tx: &IndexTx<'_>,
    bucket: &str,
    upload: &UnfinishedUpload,
) -> Result<(), S3ServerError> {
    buckets::ensure_bucket_exists(&tx.sql, bucket)?;
    let UnfinishedUpload { key, id, content_type, details, created_at } = upload;
    let details = serde_json::to_string(details).unwrap_or_default();
    tx.sql.execute(
        "INSERT INTO uploads (bucket, key, id, content_type, details, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![bucket, key.as_bytes(), id, content_type, details, created_at],
    )?;
    Ok(())
}

const UPLOAD_COLUMNS: &str = "key, id, content_type, details, created_at";

fn upload_from_row(row: &Row<'_>) -> rusqlite::Result<UnfinishedUpload> {
    let details: String = row.get(3)?;
    Ok(UnfinishedUpload {
        key: key_from_row(row, 0)?,
        id: row.get(1)?,
        content_type: row.get(2)?,
        details: serde_json::from_str(&details).unwrap_or_default(),
        created_at: row.get(4)?,
    })
}

pub(in super::super) fn find_upload(
    sql: &Connection,
    bucket: &str,
    key: &str,
    id: &str,
) -> Result<Option<UnfinishedUpload>, S3ServerError> {
    let query = format!("SELECT {UPLOAD_COLUMNS} FROM uploads WHERE bucket = ?1 AND key = ?2 AND id = ?3");
    let found = sql.prepare_cached(&query)?.query_row(params![bucket, key.as_bytes(), id], upload_from_row);
    Ok(found.optional()?)
}

/// Finds the upload, or fails with the S3 error for a missing one.
pub(in super::super) fn require_upload(
    sql: &Connection,
    bucket: &str,
    key: &str,
    id: &str,
) -> Result<UnfinishedUpload, S3ServerError> {
    match find_upload(sql, bucket, key, id)? {
        Some(upload) => Ok(upload),
        None => {
            buckets::ensure_bucket_exists(sql, bucket)?;
            Err(S3ErrorCode::NoSuchUpload.into())
        }
    }
}

/// Lists the uploads of a bucket after (`after_key`, `after_id`), by key and then by age.
pub(in super::super) fn list_uploads(
    sql: &Connection,
    bucket: &str,
    prefix: &str,
    after_key: &str,
    after_id: &str,
    limit: u32,
) -> Result<Vec<UnfinishedUpload>, S3ServerError> {
    buckets::ensure_bucket_exists(sql, bucket)?;
    let end = after_prefix(prefix.as_bytes()).unwrap_or_else(|| KEY_UPPER_BOUND.to_vec());
    let query = format!(
        "SELECT {UPLOAD_COLUMNS} FROM uploads WHERE bucket = ?1 AND key >= ?2 AND key < ?3 AND (key, id) > (?4, ?5)
         ORDER BY key, id LIMIT ?6"
    );
    let mut select = sql.prepare_cached(&query)?;
    let values = params![bucket, prefix.as_bytes(), end, after_key.as_bytes(), after_id, limit];
    let rows = select.query_map(values, upload_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Lists the parts of an upload after number `after`.
pub(in super::super) fn list_parts(
    sql: &Connection,
    id: &str,
    after: i32,
    limit: u32,
) -> Result<Vec<UploadedPart>, S3ServerError> {
    let mut select = sql.prepare_cached(
        "SELECT number, size, md5, checksums, modified_at FROM bodies WHERE owner = ?1 AND number > ?2
         ORDER BY number LIMIT ?3",
    )?;
    let rows = select.query_map(params![id, after, limit], |row| {
        Ok(UploadedPart {
            number: row.get(0)?,
            size: row.get::<_, i64>(1)?.unsigned_abs(),
            md5: row.get(2)?,
            checksums: BlobChecksums::from_json(row.get_ref(3)?.as_str()?),
            modified_at: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Makes a blob part `number` of an upload, and replaces an older part with that number.
pub(in super::super) fn put_part(
    tx: &mut IndexTx<'_>,
    bucket: &str,
    key: &str,
    id: &str,
    number: i32,
    sealed: WrittenBlob,
) -> Result<(), S3ServerError> {
    require_upload(&tx.sql, bucket, key, id)?;
    let select = "DELETE FROM bodies WHERE owner = ?1 AND number = ?2 RETURNING body";
    let old: Option<String> =
        tx.sql.prepare_cached(select)?.query_row(params![id, number], |row| row.get(0)).optional()?;
    tx.unreferenced.extend(old.map(|body| UnreferencedBlobs { owner: body.clone(), blob_ids: vec![body] }));
    blob_rows::insert_blob(tx, id, number, &sealed)?;
    tx.referenced.push(sealed);
    Ok(())
}

/// Combines the listed parts, in their order, into the object under the upload's key. Unlisted parts are removed.
pub(in super::super) fn complete_upload(
    tx: &mut IndexTx<'_>,
    bucket: &str,
    upload: UnfinishedUpload,
    parts: &[UploadedPart],
    etag: String,
    conditions: &WriteConditions,
) -> Result<IndexedObject, S3ServerError> {
    let UnfinishedUpload { key, id, content_type, details, .. } = upload;
    let size = parts.iter().map(|part| part.size).sum();
    let object = IndexedObject {
        id: id.clone(),
        etag,
        size,
        part_count: u32::try_from(parts.len()).unwrap_or(u32::MAX),
        content_type,
        details,
        modified_at: tx.now,
    };
    objects::replace_object(tx, bucket, &key, &object, conditions)?;
    let mut start = 0u64;
    {
        let mut place = tx.sql.prepare_cached("UPDATE bodies SET start = ?3 WHERE owner = ?1 AND number = ?2")?;
        // Every part starts at -1 before this loop, so a part that keeps -1 was not listed.
        for part in parts {
            place.execute(params![id, part.number, start as i64])?;
            start += part.size;
        }
    }
    let dropped: Vec<String> = {
        let mut delete = tx.sql.prepare_cached("DELETE FROM bodies WHERE owner = ?1 AND start < 0 RETURNING body")?;
        delete.query_map([&id], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    tx.unreferenced
        .extend(dropped.into_iter().map(|body| UnreferencedBlobs { owner: body.clone(), blob_ids: vec![body] }));
    delete_upload(tx, bucket, &key, &id)?;
    Ok(object)
}

pub(in super::super) fn abort_upload(
    tx: &mut IndexTx<'_>,
    bucket: &str,
    key: &str,
    id: &str,
) -> Result<(), S3ServerError> {
    require_upload(&tx.sql, bucket, key, id)?;
    delete_upload(tx, bucket, key, id)?;
    let bodies = blob_rows::unlink_blobs(&tx.sql, id)?;
    tx.unreferenced.push(UnreferencedBlobs { owner: id.to_owned(), blob_ids: bodies });
    Ok(())
}

fn delete_upload(tx: &IndexTx<'_>, bucket: &str, key: &str, id: &str) -> Result<(), S3ServerError> {
    let delete = "DELETE FROM uploads WHERE bucket = ?1 AND key = ?2 AND id = ?3";
    tx.sql.execute(delete, params![bucket, key.as_bytes(), id])?;
    Ok(())
}
