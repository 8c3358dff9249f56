//! Buckets.

use rusqlite::{Connection, OptionalExtension, params};
use s3s::S3ErrorCode;

use super::super::bodies::Garbage;
use super::super::fault::Fault;
use super::{Tx, uploads};
use afterload_core::clock::{self, Millis};

/// A bucket.
pub(in super::super) struct Bucket {
    pub(in super::super) name: String,
    pub(in super::super) created_at: Millis,
}

pub(in super::super) fn create(tx: &Tx<'_>, name: &str) -> Result<(), Fault> {
    let values = params![name, clock::now()];
    tx.sql.execute("INSERT INTO buckets (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING", values)?;
    Ok(())
}

/// An error unless the bucket is there.
pub(in super::super) fn check(sql: &Connection, name: &str) -> Result<(), Fault> {
    let mut select = sql.prepare_cached("SELECT 1 FROM buckets WHERE name = ?1")?;
    let found = select.query_row([name], |_| Ok(())).optional()?;
    found.ok_or_else(|| S3ErrorCode::NoSuchBucket.into())
}

/// Deletes an empty bucket; unfinished uploads go with it.
pub(in super::super) fn delete(tx: &mut Tx<'_>, name: &str) -> Result<(), Fault> {
    check(&tx.sql, name)?;
    let full = tx.sql.query_row("SELECT 1 FROM objects WHERE bucket = ?1 LIMIT 1", [name], |_| Ok(())).optional()?;
    if full.is_some() {
        return Err(S3ErrorCode::BucketNotEmpty.into());
    }
    let ids: Vec<String> = {
        let mut select = tx.sql.prepare("SELECT id FROM uploads WHERE bucket = ?1")?;
        select.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    for id in ids {
        let bodies = uploads::take_bodies(&tx.sql, &id)?;
        tx.garbage.push(Garbage { owner: id, bodies });
    }
    tx.sql.execute("DELETE FROM uploads WHERE bucket = ?1", [name])?;
    tx.sql.execute("DELETE FROM buckets WHERE name = ?1", [name])?;
    Ok(())
}

/// The buckets from `from` on whose names start with `prefix`.
pub(in super::super) fn list(sql: &Connection, prefix: &str, from: &str, limit: u32) -> Result<Vec<Bucket>, Fault> {
    let mut select = sql.prepare(
        "SELECT name, created_at FROM buckets WHERE name >= ?1 AND substr(name, 1, length(?2)) = ?2
         ORDER BY name LIMIT ?3",
    )?;
    let rows = select
        .query_map(params![from, prefix, limit], |row| Ok(Bucket { name: row.get(0)?, created_at: row.get(1)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
