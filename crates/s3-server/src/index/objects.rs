//! Objects: which bodies a key stands for.

use rusqlite::{Connection, OptionalExtension, params};
use s3s::S3ErrorCode;
use s3s::dto::{ETag, ETagCondition};
use serde::{Deserialize, Serialize};

use super::super::bodies::{Garbage, Sealed};
use super::super::digest::Checksums;
use super::super::fault::Fault;
use super::events::{self, EventKind};
use super::{Tx, buckets, uploads};
use afterload_core::clock::{self, Millis};

/// What a client said of an object beside its bytes and their type.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) content_language: Option<String>,
    /// An HTTP date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in super::super) expires: Option<String>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(in super::super) metadata: std::collections::BTreeMap<String, String>,
}

/// An object as the index knows it.
#[derive(Clone, Debug)]
pub(in super::super) struct Object {
    pub(in super::super) id: String,
    pub(in super::super) etag: String,
    pub(in super::super) size: u64,
    /// How many parts it was uploaded in; 0 if it was put in one request.
    pub(in super::super) parts: u32,
    pub(in super::super) content_type: String,
    pub(in super::super) details: Details,
    pub(in super::super) modified_at: Millis,
}

/// A file that holds a stretch of an object.
#[derive(Clone, Debug)]
pub(in super::super) struct Stretch {
    pub(in super::super) body: String,
    pub(in super::super) start: u64,
    pub(in super::super) size: u64,
}

/// What must be true of the object that is there, for a write to go on.
#[derive(Debug, Default)]
pub(in super::super) struct Conditions {
    pub(in super::super) if_match: Option<ETagCondition>,
    pub(in super::super) if_none_match: Option<ETagCondition>,
}

impl Conditions {
    fn check(&self, there: Option<&Object>) -> Result<(), Fault> {
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

/// The object under a key.
pub(in super::super) fn find(sql: &Connection, bucket: &str, key: &str) -> Result<Option<Object>, Fault> {
    let mut select = sql.prepare_cached(
        "SELECT id, etag, size, parts, content_type, details, modified_at FROM objects WHERE bucket = ?1 AND key = ?2",
    )?;
    let found = select.query_row(params![bucket, key.as_bytes()], |row| {
        let details: String = row.get(5)?;
        Ok(Object {
            id: row.get(0)?,
            etag: row.get(1)?,
            size: row.get::<_, i64>(2)?.unsigned_abs(),
            parts: row.get(3)?,
            content_type: row.get(4)?,
            details: serde_json::from_str(&details).unwrap_or_default(),
            modified_at: row.get(6)?,
        })
    });
    Ok(found.optional()?)
}

/// The object under a key, or what S3 says if it is not there.
pub(in super::super) fn get(sql: &Connection, bucket: &str, key: &str) -> Result<Object, Fault> {
    match find(sql, bucket, key)? {
        Some(object) => Ok(object),
        None => {
            buckets::check(sql, bucket)?;
            Err(S3ErrorCode::NoSuchKey.into())
        }
    }
}

/// The files that hold the bytes from `from` up to `to`.
pub(in super::super) fn stretches(sql: &Connection, id: &str, from: u64, to: u64) -> Result<Vec<Stretch>, Fault> {
    let mut select = sql.prepare_cached(
        "SELECT body, start, size FROM bodies WHERE owner = ?1 AND start < ?3 AND start + size > ?2 ORDER BY number",
    )?;
    let rows = select.query_map(params![id, from as i64, to as i64], |row| {
        let (start, size): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(Stretch { body: row.get(0)?, start: start.unsigned_abs(), size: size.unsigned_abs() })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The checksums of an object that was put in one request.
pub(in super::super) fn checksums(sql: &Connection, object: &Object) -> Result<Checksums, Fault> {
    if object.parts > 0 {
        return Ok(Checksums::default());
    }
    let mut select = sql.prepare_cached("SELECT checksums FROM bodies WHERE owner = ?1")?;
    let text: Option<String> = select.query_row([&object.id], |row| row.get(0)).optional()?;
    Ok(text.map(|text| Checksums::from_json(&text)).unwrap_or_default())
}

/// A body that came in with one request becomes the object under `key`.
pub(in super::super) fn put(
    tx: &mut Tx<'_>,
    bucket: &str,
    key: &str,
    content_type: String,
    details: Details,
    conditions: &Conditions,
    sealed: Sealed,
) -> Result<ETag, Fault> {
    buckets::check(&tx.sql, bucket)?;
    let object = Object {
        id: sealed.id.clone(),
        etag: sealed.md5.clone(),
        size: sealed.size,
        parts: 0,
        content_type,
        details,
        modified_at: clock::now(),
    };
    replace(tx, bucket, key, &object, conditions)?;
    uploads::insert_body(&tx.sql, &object.id, 1, &sealed)?;
    tx.kept.push(sealed);
    Ok(ETag::Strong(object.etag))
}

/// Puts the object under its key, in place of the one that was there.
pub(super) fn replace(
    tx: &mut Tx<'_>,
    bucket: &str,
    key: &str,
    object: &Object,
    conditions: &Conditions,
) -> Result<(), Fault> {
    let there = find(&tx.sql, bucket, key)?;
    conditions.check(there.as_ref())?;
    if let Some(old) = there {
        let bodies = uploads::take_bodies(&tx.sql, &old.id)?;
        tx.garbage.push(Garbage { owner: old.id, bodies });
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
        object.parts,
        object.content_type,
        details,
        object.modified_at
    ])?;
    drop(insert);
    tx.created = true;
    events::note(&tx.sql, EventKind::Created, bucket, key, &object.etag, object.size)
}

/// Deletes an object; one that is not there counts as deleted.
pub(in super::super) fn delete(tx: &mut Tx<'_>, bucket: &str, key: &str) -> Result<(), Fault> {
    let Some(object) = find(&tx.sql, bucket, key)? else { return Ok(()) };
    let mut delete = tx.sql.prepare_cached("DELETE FROM objects WHERE bucket = ?1 AND key = ?2")?;
    delete.execute(params![bucket, key.as_bytes()])?;
    drop(delete);
    let bodies = uploads::take_bodies(&tx.sql, &object.id)?;
    events::note(&tx.sql, EventKind::Removed, bucket, key, &object.etag, object.size)?;
    tx.garbage.push(Garbage { owner: object.id, bodies });
    Ok(())
}
