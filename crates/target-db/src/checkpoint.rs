//! Where chunked work keeps its cursor: in the target database, committed together with the rows.
//!
//! `afterload_checkpoints` holds one row per step of a run. Every attempt claims it with its own epoch; a chunk's
//! transaction first updates it `WHERE epoch = mine`, so that an attempt that was overtaken cannot write any more.
//! `afterload_rejects` holds the rows that were not taken, in order.

use crate::codes;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::{TableName, quote_identifier};

/// Who may write: the step of a run, and the attempt.
#[derive(Clone, Debug)]
pub struct Fence {
    /// The same over all attempts.
    pub checkpoint_key: String,
    /// Rises with every attempt.
    pub epoch: i64,
}

/// A row that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Its place among the rejects, from 1.
    pub seq: i64,
    /// What is kept of it.
    pub line: String,
}

/// How long finished work is remembered.
const FINISHED_RETENTION_MILLIS: i64 = 86_400_000;
/// How long abandoned work is remembered.
const ABANDONED_RETENTION_MILLIS: i64 = 90 * 86_400_000;

impl Fence {
    /// For the attempt `epoch` of the step `key`.
    pub fn new(key: &str, epoch: i64) -> Self {
        Self { checkpoint_key: key.to_owned(), epoch }
    }

    /// The error of an attempt that was overtaken.
    pub(crate) fn lease_lost_error(&self) -> Error {
        Error::new(codes::LEASE_LOST, format!("a later attempt has taken over `{}`", self.checkpoint_key))
    }
}

/// The statements, with the tables' names filled in; both databases read the same text.
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

    /// Takes the row for an attempt, unless a later one has it. Binds key, epoch and now; gives the cursor.
    pub(crate) fn claim(&self) -> String {
        format!(
            "INSERT INTO {} AS mine (key, epoch, updated_at) VALUES ($1, $2, $3) ON CONFLICT (key) \
             DO UPDATE SET epoch = excluded.epoch, updated_at = excluded.updated_at \
             WHERE mine.epoch <= excluded.epoch RETURNING cursor",
            self.checkpoints_table
        )
    }

    /// First in every chunk: takes the row, or finds that it is no longer ours. Binds key and epoch.
    pub(crate) fn check_epoch(&self) -> String {
        format!("UPDATE {} SET epoch = epoch WHERE key = $1 AND epoch = $2", self.checkpoints_table)
    }

    /// Last in every chunk. Binds cursor, now, when finished, and key: in the order of their first use, because SQLite
    /// numbers them so.
    pub(crate) fn update_cursor(&self) -> String {
        format!("UPDATE {} SET cursor = $1, updated_at = $2, finished_at = $3 WHERE key = $4", self.checkpoints_table)
    }

    /// The same by itself, only while the row is ours. Binds the epoch last.
    pub(crate) fn save_cursor(&self) -> String {
        format!("{} AND epoch = $5", self.update_cursor())
    }

    /// Rejected rows in their order. Binds key, the `seq` before the first one, and their greatest number.
    pub(crate) fn list_rejects(&self) -> String {
        format!("SELECT seq, line FROM {} WHERE key = $1 AND seq > $2 ORDER BY seq LIMIT $3", self.rejects_table)
    }

    /// Forgets old work, its rejected rows first. Both bind when finished and when abandoned work is too old.
    pub(crate) fn delete_expired(&self) -> [String; 2] {
        let Self { checkpoints_table: checkpoints, rejects_table: rejects } = self;
        let expired = "(finished_at < $1 OR updated_at < $2)";
        [
            format!("DELETE FROM {rejects} WHERE key IN (SELECT key FROM {checkpoints} WHERE {expired})"),
            format!("DELETE FROM {checkpoints} WHERE {expired}"),
        ]
    }

    /// Binds key, seq and line.
    pub(crate) fn insert_reject(&self) -> String {
        format!("INSERT INTO {} (key, seq, line) VALUES ($1, $2, $3)", self.rejects_table)
    }

    /// The same for many, because on PostgreSQL each statement is a way there and back: binds key, all seqs and all lines.
    pub(crate) fn insert_rejects(&self) -> String {
        format!(
            "INSERT INTO {} (key, seq, line) SELECT $1, seq, line FROM unnest($2::bigint[], $3::text[]) AS new (seq, line)",
            self.rejects_table
        )
    }
}

/// When a checkpoint is too old to be kept.
pub(crate) struct CheckpointExpiry {
    /// Finished work is forgotten when it ended before this.
    pub(crate) finished_before: i64,
    /// Any work is forgotten when it was last touched before this.
    pub(crate) updated_before: i64,
}

impl CheckpointExpiry {
    pub(crate) fn now() -> Self {
        let now = clock::now_millis();
        Self { finished_before: now - FINISHED_RETENTION_MILLIS, updated_before: now - ABANDONED_RETENTION_MILLIS }
    }
}

/// The checkpoint methods of a target database that sqlx reaches and that reads the shared statements as they are.
macro_rules! sqlx_checkpoint_methods {
    () => {
        async fn claim_checkpoint(&self, fence: &$crate::Fence) -> Result<Option<Option<String>>> {
            let query = sqlx::query_scalar(sqlx::AssertSqlSafe(self.checkpoint_sql.claim()));
            let query = query.bind(&fence.checkpoint_key).bind(fence.epoch).bind(afterload_core::clock::now_millis());
            Ok(query.fetch_optional(&self.pool).await?)
        }

        async fn save_checkpoint(&self, fence: &$crate::Fence, cursor: &str, finished: bool) -> Result<bool> {
            let now = afterload_core::clock::now_millis();
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

/// An error for the tables that users may not write into.
pub(crate) fn refuse_reserved_table(name: &TableName) -> Result<()> {
    match name.table.as_str() {
        "afterload_checkpoints" | "afterload_rejects" => {
            Err(Error::new(codes::TABLE_RESERVED, format!("`{name}` belongs to afterload")))
        }
        _ => Ok(()),
    }
}
