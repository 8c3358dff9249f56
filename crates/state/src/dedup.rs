//! Dedup keys: each starts at most one run per pipeline.

use std::collections::HashSet;

use super::db::Db;
use super::sql_args::{SqlArgs, args};
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A dedup key and the run that it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DedupRecord {
    /// The pipeline's name.
    pub pipeline: String,
    /// The source of the key. Keys of different sources are independent.
    pub source: String,
    /// The key, unique within its pipeline and source.
    pub key: String,
    /// A fingerprint of the request that came with the key.
    pub fingerprint: Option<String>,
    /// The run. It may have been deleted since.
    pub run_id: String,
}

const SELECT_DEDUP_KEY: &str = "SELECT pipeline, source, key, fingerprint, run_id FROM dedup_keys
                      WHERE pipeline = $1 AND source = $2 AND key = $3";

fn dedup_from_row(row: &DbRow) -> Result<DedupRecord> {
    Ok(DedupRecord {
        pipeline: row.get_text("pipeline")?,
        source: row.get_text("source")?,
        key: row.get_text("key")?,
        fingerprint: row.get_opt_text("fingerprint")?,
        run_id: row.get_text("run_id")?,
    })
}

/// Reads and writes dedup keys.
#[derive(Clone, Copy)]
pub struct DedupStore<C>(pub(super) C);

impl DedupStore<&mut DbTx> {
    /// Inserts a record. If the key exists, returns the existing record instead. A second transaction with the same
    /// key waits here until the first has ended.
    pub async fn insert(self, new: &DedupRecord) -> Result<Option<DedupRecord>> {
        let DedupRecord { pipeline, source, key, fingerprint, run_id } = new;
        let sql = "INSERT INTO dedup_keys (pipeline, source, key, fingerprint, run_id, received_at)
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
        loop {
            let args = args![pipeline, source, key, fingerprint.as_deref(), run_id, self.0.now()];
            if self.0.execute(sql, &args).await? == 1 {
                return Ok(None);
            }
            // On PostgreSQL a sweep may delete the row between the two statements.
            if let Some(row) = self.0.fetch(SELECT_DEDUP_KEY, &args![pipeline, source, key]).await?.first() {
                return dedup_from_row(row).map(Some);
            }
        }
    }
}

impl DedupStore<&Db> {
    /// Finds the record of a key.
    pub async fn find(self, pipeline: &str, source: &str, key: &str) -> Result<Option<DedupRecord>> {
        self.0
            .fetch_optional(SELECT_DEDUP_KEY, &args![pipeline, source, key])
            .await?
            .as_ref()
            .map(dedup_from_row)
            .transpose()
    }

    /// Returns those of the keys that either of two sources has used.
    pub async fn list_used(self, pipeline: &str, sources: [&str; 2], keys: &[String]) -> Result<HashSet<String>> {
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        let mut args = SqlArgs::default();
        let (pipeline, sources, keys) = (args.add(pipeline), args.add_list(sources), args.add_list(keys));
        let sql = format!(
            "SELECT key FROM dedup_keys WHERE pipeline = {pipeline} AND source IN ({sources}) AND key IN ({keys})"
        );
        self.0.fetch(&sql, args.as_slice()).await?.iter().map(|row| row.get_text("key")).collect()
    }

    /// Deletes the keys of a source that are older than `before`. Returns how many it deleted.
    pub async fn delete_before(self, source: &str, before: UnixMillis) -> Result<u64> {
        self.0.execute("DELETE FROM dedup_keys WHERE source = $1 AND received_at < $2", &args![source, before]).await
    }
}
