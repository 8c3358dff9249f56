//! Rows of objects: which blobs belong to a key.

use rusqlite::{Connection, OptionalExtension, params};
use s3s::S3ErrorCode;
use s3s::dto::{ETag, ETagCondition};
use serde::{Deserialize, Serialize};

use super::super::blobs::{PartRange, UnreferencedBlobs, WrittenBlob};
use super::super::digest::BlobChecksums;
use super::super::error::S3ServerError;
use super::events::{self, ObjectEventKind};
use super::{IndexTx, blob_rows, buckets};
use afterload_core::clock::UnixMillis;

/// Headers and metadata that a client stored with an object, besides its content type.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct ObjectDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) content_language: Option<String>,
    /// In the format of an HTTP date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) expires: Option<String>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(in super::super) metadata: std::collections::BTreeMap<String, String>,
}

/// An object in the index.
#[derive(Clone, Debug)]
pub(in super::super) struct IndexedObject {
    pub(in super::super) id: String,
    pub(in super::super) etag: String,
    pub(in super::super) size: u64,
    /// The number of uploaded parts; 0 if the object came in one request.
    pub(in super::super) part_count: u32,
    pub(in super::super) content_type: String,
    pub(in super::super) details: ObjectDetails,
    pub(in super::super) modified_at: UnixMillis,
}

/// Preconditions of a write on the object that exists.
#[derive(Debug, Default)]
pub(in super::super) struct WriteConditions {
    pub(in super::super) if_match: Option<ETagCondition>,
    pub(in super::super) if_none_match: Option<ETagCondition>,
}

impl WriteConditions {
    fn check_existing(&self, there: Option<&IndexedObject>) -> Result<(), S3ServerError> {
        match (&self.if_match, there) {
            (Some(_), None) => return Err(S3ErrorCode::NoSuchKey.into()),
            (Some(ETagCondition::ETag(etag)), Some(there)) if etag.value() != there.etag => {
                return Err(S3ErrorCode::PreconditionFailed.into());
            }
            _ => {}
        }
        match (&self.if_none_match, there) {
            (Some(ETagCondition::Any), Some(_)) => Err(S3ErrorCode::PreconditionFailed.into()),
            (Some(ETagCondition::ETag(etag)), Some(there)) if etag.value() == there.etag => {
                Err(S3ErrorCode::PreconditionFailed.into())
            }
            _ => Ok(()),
        }
    }
}

/// Finds the object under a key.
pub(in super::super) fn find_object(
    sql: &Connection,
    bucket: &str,
    key: &str,
) -> Result<Option<IndexedObject>, S3ServerError> {
    let mut select = sql.prepare_cached(
        "SELECT id, etag, size, parts, content_type, details, modified_at FROM objects WHERE bucket = ?1 AND key = ?2",
    )?;
    let found = select.query_row(params![bucket, key.as_bytes()], |row| {
        let details: String = row.get(5)?;
        Ok(IndexedObject {
            id: row.get(0)?,
            etag: row.get(1)?,
            size: row.get::<_, i64>(2)?.unsigned_abs(),
            part_count: row.get(3)?,
            content_type: row.get(4)?,
            details: serde_json::from_str(&details).unwrap_or_default(),
            modified_at: row.get(6)?,
        })
    });
    Ok(found.optional()?)
}

/// Finds the object under a key, or fails with the S3 error for a missing one.
pub(in super::super) fn require_object(
    sql: &Connection,
    bucket: &str,
    key: &str,
) -> Result<IndexedObject, S3ServerError> {
    match find_object(sql, bucket, key)? {
        Some(object) => Ok(object),
        None => {
            buckets::ensure_bucket_exists(sql, bucket)?;
            Err(S3ErrorCode::NoSuchKey.into())
        }
    }
}

/// Lists the blobs that hold the bytes from `from` up to `to`.
pub(in super::super) fn find_part_ranges(
    sql: &Connection,
    id: &str,
    from: u64,
    to: u64,
) -> Result<Vec<PartRange>, S3ServerError> {
    let mut select = sql.prepare_cached(
        "SELECT body, start, size FROM bodies WHERE owner = ?1 AND start < ?3 AND start + size > ?2 ORDER BY number",
    )?;
    let rows = select.query_map(params![id, from as i64, to as i64], |row| {
        let (start, size): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(PartRange { blob_id: row.get(0)?, start: start.unsigned_abs(), size: size.unsigned_abs() })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The checksums of an object that came in one request.
pub(in super::super) fn object_checksums(
    sql: &Connection,
    object: &IndexedObject,
) -> Result<BlobChecksums, S3ServerError> {
    if object.part_count > 0 {
        return Ok(BlobChecksums::default());
    }
    let mut select = sql.prepare_cached("SELECT checksums FROM bodies WHERE owner = ?1")?;
    let text: Option<String> = select.query_row([&object.id], |row| row.get(0)).optional()?;
    Ok(text.map(|text| BlobChecksums::from_json(&text)).unwrap_or_default())
}

/// Makes a blob the object under `key`.
pub(in super::super) fn insert_object(
    tx: &mut IndexTx<'_>,
    bucket: &str,
    key: &str,
    content_type: String,
    details: ObjectDetails,
    conditions: &WriteConditions,
    sealed: WrittenBlob,
) -> Result<ETag, S3ServerError> {
    buckets::ensure_bucket_exists(&tx.sql, bucket)?;
    let object = IndexedObject {
        id: sealed.id.clone(),
        etag: sealed.md5.clone(),
        size: sealed.size,
        part_count: 0,
        content_type,
        details,
        modified_at: tx.now,
    };
    replace_object(tx, bucket, key, &object, conditions)?;
    blob_rows::insert_blob(tx, &object.id, 1, &sealed)?;
    tx.referenced.push(sealed);
    Ok(ETag::Strong(object.etag))
}

/// Stores the object under its key, and replaces an older one.
pub(super) fn replace_object(
    tx: &mut IndexTx<'_>,
    bucket: &str,
    key: &str,
    object: &IndexedObject,
    conditions: &WriteConditions,
) -> Result<(), S3ServerError> {
    let there = find_object(&tx.sql, bucket, key)?;
    conditions.check_existing(there.as_ref())?;
    if let Some(old) = there {
        let bodies = blob_rows::unlink_blobs(&tx.sql, &old.id)?;
        tx.unreferenced.push(UnreferencedBlobs { owner: old.id, blob_ids: bodies });
    }
    let mut insert = tx.sql.prepare_cached(
        "INSERT OR REPLACE INTO objects (bucket, key, id, etag, size, parts, content_type, details, modified_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let details = serde_json::to_string(&object.details).unwrap_or_default();
    insert.execute(params![
        bucket,
        key.as_bytes(),
        object.id,
        object.etag,
        object.size as i64,
        object.part_count,
        object.content_type,
        details,
        object.modified_at
    ])?;
    drop(insert);
    tx.object_created = true;
    events::record_event(tx, ObjectEventKind::Created, bucket, key, &object.etag, object.size)
}

/// Deletes an object. A missing object is not an error.
pub(in super::super) fn delete_object(tx: &mut IndexTx<'_>, bucket: &str, key: &str) -> Result<(), S3ServerError> {
    let Some(object) = find_object(&tx.sql, bucket, key)? else { return Ok(()) };
    let mut delete = tx.sql.prepare_cached("DELETE FROM objects WHERE bucket = ?1 AND key = ?2")?;
    delete.execute(params![bucket, key.as_bytes()])?;
    drop(delete);
    let bodies = blob_rows::unlink_blobs(&tx.sql, &object.id)?;
    events::record_event(tx, ObjectEventKind::Removed, bucket, key, &object.etag, object.size)?;
    tx.unreferenced.push(UnreferencedBlobs { owner: object.id, blob_ids: bodies });
    Ok(())
}
