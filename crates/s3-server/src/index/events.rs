//! Changes of objects, recorded for triggers.

use rusqlite::{Connection, Row, params};

use super::super::error::S3ServerError;
use super::IndexTx;
use afterload_core::clock::UnixMillis;

/// The kind of an object event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectEventKind {
    /// The object was written, perhaps over an older one.
    Created,
    /// The object was deleted.
    Removed,
}

impl ObjectEventKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Removed => "removed",
        }
    }
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEvent {
    /// Its position in the order of all changes. A number is never reused.
    pub seq: i64,
    /// The kind of change.
    pub kind: ObjectEventKind,
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The ETag of the object that was written or deleted, without quotes.
    pub etag: String,
    /// The size of the object in bytes.
    pub size: u64,
    /// The time of the change.
    pub occurred_at: UnixMillis,
}

/// Records a change in the transaction that makes it.
pub(in super::super) fn record_event(
    tx: &IndexTx<'_>,
    kind: ObjectEventKind,
    bucket: &str,
    key: &str,
    etag: &str,
    size: u64,
) -> Result<(), S3ServerError> {
    let mut insert = tx
        .sql
        .prepare_cached("INSERT INTO events (kind, bucket, key, etag, size, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    insert.execute(params![kind.as_str(), bucket, key.as_bytes(), etag, size as i64, tx.now])?;
    Ok(())
}

/// Lists the events after `seq`.
pub(in super::super) fn list_events_after(
    sql: &Connection,
    seq: i64,
    limit: u32,
) -> Result<Vec<ObjectEvent>, S3ServerError> {
    let mut select = sql.prepare_cached(
        "SELECT seq, kind, bucket, key, etag, size, at FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let rows = select.query_map(params![seq, limit], event_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(in super::super) fn delete_events_through(sql: &Connection, seq: i64) -> Result<(), S3ServerError> {
    sql.execute("DELETE FROM events WHERE seq <= ?1", [seq])?;
    Ok(())
}

fn event_from_row(row: &Row<'_>) -> rusqlite::Result<ObjectEvent> {
    let kind = match row.get_ref(1)?.as_str()? {
        "removed" => ObjectEventKind::Removed,
        _ => ObjectEventKind::Created,
    };
    let size: i64 = row.get(5)?;
    Ok(ObjectEvent {
        seq: row.get(0)?,
        kind,
        bucket: row.get(2)?,
        key: key_from_row(row, 3)?,
        etag: row.get(4)?,
        size: size.unsigned_abs(),
        occurred_at: row.get(6)?,
    })
}

/// Reads a key: stored as bytes, but always UTF-8.
pub(super) fn key_from_row(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_blob()?).into_owned())
}
