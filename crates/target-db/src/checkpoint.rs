//! Checkpoints of chunked steps. The target database holds the cursor and commits it together with the rows.
//!
//! `afterload_checkpoints` holds one row per step of a run. Every attempt claims it with its own epoch. The transaction
//! of each chunk first updates the row `WHERE epoch = mine`, so an attempt that lost its lease cannot write.
//! `afterload_rejects` holds the rejected rows in order.

use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{TableName, quote_identifier};

/// The right of one attempt of a step to write its checkpoint.
#[derive(Clone, Debug)]
pub struct Fence {
    /// The key of the step's checkpoint. All attempts share it.
    pub checkpoint_key: String,
    /// The number of the attempt. Each attempt raises it.
    pub epoch: i64,
}

/// A rejected row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// The position among the rejects, from 1.
    pub seq: i64,
    /// The stored text of the row.
    pub line: String,
}

/// How long checkpoints of finished steps are kept.
const FINISHED_RETENTION_MILLIS: i64 = 86_400_000;
/// How long checkpoints of unfinished steps are kept after their last update.
const ABANDONED_RETENTION_MILLIS: i64 = 90 * 86_400_000;

impl Fence {
    /// Creates the fence for attempt `epoch` of the step `key`.
    pub fn new(key: &str, epoch: i64) -> Self {
        Self { checkpoint_key: key.to_owned(), epoch }
    }

    /// The error for an attempt that a later one has replaced.
    pub(crate) fn lease_lost_error(&self) -> Error {
        Error::new(codes::LEASE_LOST, format!("a later attempt has taken over `{}`", self.checkpoint_key))
    }
}

/// The SQL of checkpoints with the table names filled in. Both databases accept the same text.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointSql {
    pub(crate) checkpoints_table: String,
    pub(crate) rejects_table: String,
}

impl CheckpointSql {
    pub(crate) fn new(schema: Option<&str>) -> Self {
        let table = |name: &str| match schema {
            Some(schema) => format!("{}.{}", quote_identifier(schema), quote_identifier(name)),
            None => quote_identifier(name),
        };
        Self { checkpoints_table: table("afterload_checkpoints"), rejects_table: table("afterload_rejects") }
    }

    pub(crate) fn create_tables(&self) -> [String; 2] {
        let Self { checkpoints_table: checkpoints, rejects_table: rejects } = self;
        [
            format!(
                "CREATE TABLE IF NOT EXISTS {checkpoints} (key TEXT PRIMARY KEY, epoch BIGINT NOT NULL, cursor TEXT, \
                 updated_at BIGINT NOT NULL, finished_at BIGINT)"
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {rejects} (key TEXT NOT NULL, seq BIGINT NOT NULL, line TEXT NOT NULL, \
                 PRIMARY KEY (key, seq))"
            ),
        ]
    }

    /// Claims the row for an attempt, unless a later attempt has it. Binds key, epoch and now; returns the cursor.
    pub(crate) fn claim(&self) -> String {
        format!(
            "INSERT INTO {} AS mine (key, epoch, updated_at) VALUES ($1, $2, $3) ON CONFLICT (key) \
             DO UPDATE SET epoch = excluded.epoch, updated_at = excluded.updated_at \
             WHERE mine.epoch <= excluded.epoch RETURNING cursor",
            self.checkpoints_table
        )
    }

    /// The first statement of every chunk. It locks the row, or finds no row if the lease is lost. Binds key, epoch.
    pub(crate) fn check_epoch(&self) -> String {
        format!("UPDATE {} SET epoch = epoch WHERE key = $1 AND epoch = $2", self.checkpoints_table)
    }

    /// The last statement of every chunk. Binds cursor, now, the time of the end, and key.
    ///
    /// SQLite numbers parameters by their first use, so the text must name them in this order.
    pub(crate) fn update_cursor(&self) -> String {
        format!("UPDATE {} SET cursor = $1, updated_at = $2, finished_at = $3 WHERE key = $4", self.checkpoints_table)
    }

    /// Like `update_cursor`, outside of a chunk: it also checks the epoch. Binds the epoch last.
    pub(crate) fn save_cursor(&self) -> String {
        format!("{} AND epoch = $5", self.update_cursor())
    }

    /// Reads rejected rows in order. Binds key, the `seq` before the first row, and the limit.
    pub(crate) fn list_rejects(&self) -> String {
        format!("SELECT seq, line FROM {} WHERE key = $1 AND seq > $2 ORDER BY seq LIMIT $3", self.rejects_table)
    }

    /// Deletes expired checkpoints, their rejected rows first. Both bind `finished_before` and `updated_before`.
    pub(crate) fn delete_expired(&self) -> [String; 2] {
        let Self { checkpoints_table: checkpoints, rejects_table: rejects } = self;
        let expired = "(finished_at < $1 OR updated_at < $2)";
        [
            format!("DELETE FROM {rejects} WHERE key IN (SELECT key FROM {checkpoints} WHERE {expired})"),
            format!("DELETE FROM {checkpoints} WHERE {expired}"),
        ]
    }

    /// Inserts one rejected row. Binds key, seq and line.
    pub(crate) fn insert_reject(&self) -> String {
        format!("INSERT INTO {} (key, seq, line) VALUES ($1, $2, $3)", self.rejects_table)
    }

    /// Inserts many rejected rows in one round trip, on PostgreSQL only. Binds key, all seqs and all lines.
    pub(crate) fn insert_rejects(&self) -> String {
        format!(
            "INSERT INTO {} (key, seq, line) SELECT $1, seq, line FROM unnest($2::bigint[], $3::text[]) AS new (seq, line)",
            self.rejects_table
        )
    }
}

/// The times before which a checkpoint is expired.
pub(crate) struct CheckpointExpiry {
    /// A finished checkpoint is expired if it ended before this time.
    pub(crate) finished_before: i64,
    /// Any checkpoint is expired if its last update was before this time.
    pub(crate) updated_before: i64,
}

impl CheckpointExpiry {
    pub(crate) fn at(now: UnixMillis) -> Self {
        Self { finished_before: now - FINISHED_RETENTION_MILLIS, updated_before: now - ABANDONED_RETENTION_MILLIS }
    }
}

/// Implements the checkpoint methods for a target database with an sqlx pool that accepts the shared SQL as it is.
macro_rules! sqlx_checkpoint_methods {
    () => {
        async fn claim_checkpoint(&self, fence: &$crate::Fence) -> Result<Option<Option<String>>> {
            let query = sqlx::query_scalar(sqlx::AssertSqlSafe(self.checkpoint_sql.claim()));
            let query = query.bind(&fence.checkpoint_key).bind(fence.epoch).bind(self.options.clock.now());
            Ok(query.fetch_optional(&self.pool).await?)
        }

        async fn save_checkpoint(&self, fence: &$crate::Fence, cursor: &str, finished: bool) -> Result<bool> {
            let now = self.options.clock.now();
            let query = sqlx::query(sqlx::AssertSqlSafe(self.checkpoint_sql.save_cursor()));
            let query = query.bind(cursor).bind(now).bind(finished.then_some(now));
            let query = query.bind(&fence.checkpoint_key).bind(fence.epoch);
            Ok(query.execute(&self.pool).await?.rows_affected() > 0)
        }

        async fn list_rejects(&self, key: &str, after: i64, limit: i64) -> Result<Vec<$crate::RejectedRow>> {
            let query = sqlx::query_as(sqlx::AssertSqlSafe(self.checkpoint_sql.list_rejects()));
            let rows: Vec<(i64, String)> = query.bind(key).bind(after).bind(limit).fetch_all(&self.pool).await?;
            Ok(rows.into_iter().map(|(seq, line)| $crate::RejectedRow { seq, line }).collect())
        }

        async fn prune_checkpoints(&self, expiry: $crate::checkpoint::CheckpointExpiry) -> Result<()> {
            for sql in self.checkpoint_sql.delete_expired() {
                let query = sqlx::query(sqlx::AssertSqlSafe(sql));
                query.bind(expiry.finished_before).bind(expiry.updated_before).execute(&self.pool).await?;
            }
            Ok(())
        }
    };
}
pub(crate) use sqlx_checkpoint_methods;

/// Refuses the tables that belong to the checkpoints.
pub(crate) fn refuse_reserved_table(name: &TableName) -> Result<()> {
    match name.table.as_str() {
        "afterload_checkpoints" | "afterload_rejects" => {
            Err(Error::new(codes::TABLE_RESERVED, format!("`{name}` belongs to afterload")))
        }
        _ => Ok(()),
    }
}
