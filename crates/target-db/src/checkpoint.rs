//! Where chunked work keeps its cursor: in the target database, committed together with the rows.
//!
//! `afterload_checkpoints` holds one row per step of a run. Every attempt claims it with its own epoch; a chunk's
//! transaction first updates it `WHERE epoch = mine`, so that an attempt that was overtaken cannot write any more.
//! `afterload_rejects` holds the rows that were not taken, in order.

use crate::codes;
use afterload_core::failpoint;
use sqlx::AssertSqlSafe;

use super::Connection;
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

const DAY_MILLIS: i64 = 86_400_000;

impl Fence {
    /// For the attempt `epoch` of the step `key`.
    pub fn new(key: &str, epoch: i64) -> Self {
        Self { checkpoint_key: key.to_owned(), epoch }
    }

    /// The error of an attempt that was overtaken.
    pub(super) fn lease_lost_error(&self) -> Error {
        Error::new(codes::LEASE_LOST, format!("a later attempt has taken over `{}`", self.checkpoint_key))
    }
}

/// Runs the same expression on either pool.
macro_rules! with_pool {
    ($connection:expr, $pool:ident => $body:expr) => {
        match $connection {
            Connection::Sqlite(sqlite) => {
                let $pool = &sqlite.pool;
                $body
            }
            Connection::Postgres(postgres) => {
                let $pool = &postgres.pool;
                $body
            }
        }
    };
}

/// The statements, with the tables' names filled in; both databases read the same text.
#[derive(Clone, Debug)]
pub(super) struct CheckpointSql {
    pub(super) checkpoints_table: String,
    pub(super) rejects_table: String,
}

impl CheckpointSql {
    pub(super) fn new(schema: Option<&str>) -> Self {
        let table = |name: &str| match schema {
            Some(schema) => format!("{}.{}", quote_identifier(schema), quote_identifier(name)),
            None => quote_identifier(name),
        };
        Self { checkpoints_table: table("afterload_checkpoints"), rejects_table: table("afterload_rejects") }
    }

    pub(super) fn create_tables(&self) -> [String; 2] {
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

    /// First in every chunk: takes the row, or finds that it is no longer ours. Binds key and epoch.
    pub(super) fn check_epoch(&self) -> String {
        format!("UPDATE {} SET epoch = epoch WHERE key = $1 AND epoch = $2", self.checkpoints_table)
    }

    /// Last in every chunk. Binds cursor, now, when finished, and key: in the order of their first use, because SQLite
    /// numbers them so.
    pub(super) fn update_cursor(&self) -> String {
        format!("UPDATE {} SET cursor = $1, updated_at = $2, finished_at = $3 WHERE key = $4", self.checkpoints_table)
    }

    /// Binds key, seq and line.
    pub(super) fn insert_reject(&self) -> String {
        format!("INSERT INTO {} (key, seq, line) VALUES ($1, $2, $3)", self.rejects_table)
    }

    /// The same for many, because on PostgreSQL each statement is a way there and back: binds key, all seqs and all lines.
    pub(super) fn insert_rejects(&self) -> String {
        format!(
            "INSERT INTO {} (key, seq, line) SELECT $1, seq, line FROM unnest($2::bigint[], $3::text[]) AS new (seq, line)",
            self.rejects_table
        )
    }
}

impl Connection {
    /// Makes the tables if they are missing, forgets what is long over, takes the checkpoint for this attempt, and
    /// returns the cursor that was committed last.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has it, or those of the database.
    pub async fn claim_checkpoint(&self, fence: &Fence) -> Result<Option<String>> {
        match self {
            Self::Sqlite(sqlite) => sqlite.create_checkpoint_tables().await,
            Self::Postgres(postgres) => postgres.create_checkpoint_tables().await,
        }
        .map_err(|error| error.context(format!("making `afterload_checkpoints` in connection `{}`", self.name())))?;
        if let Err(error) = self.prune_checkpoints().await {
            // Tidying may collide with another import's; the next one tidies again.
            tracing::debug!(connection.name = self.name(), %error, "old checkpoints were not removed");
        }
        let table = &self.checkpoint_sql().checkpoints_table;
        let sql = format!(
            "INSERT INTO {table} AS mine (key, epoch, updated_at) VALUES ($1, $2, $3) ON CONFLICT (key) \
             DO UPDATE SET epoch = excluded.epoch, updated_at = excluded.updated_at \
             WHERE mine.epoch <= excluded.epoch RETURNING cursor"
        );
        let claimed: Option<Option<String>> = with_pool!(self, pool => {
            let query = sqlx::query_scalar(AssertSqlSafe(sql));
            query.bind(&fence.checkpoint_key).bind(fence.epoch).bind(clock::now_millis()).fetch_optional(pool).await?
        });
        failpoint!("checkpoint.claimed");
        claimed.ok_or_else(|| fence.lease_lost_error())
    }

    /// Notes a cursor by itself, without rows.
    ///
    /// # Errors
    /// `lease_lost` if a later attempt has taken over, or those of the database.
    pub async fn save_checkpoint(&self, fence: &Fence, cursor: &str, finished: bool) -> Result<()> {
        let sql = format!("{} AND epoch = $5", self.checkpoint_sql().update_cursor());
        let now = clock::now_millis();
        let noted = with_pool!(self, pool => {
            let query = sqlx::query(AssertSqlSafe(sql)).bind(cursor).bind(now).bind(finished.then_some(now));
            query.bind(&fence.checkpoint_key).bind(fence.epoch).execute(pool).await?.rows_affected()
        });
        if noted == 0 { Err(fence.lease_lost_error()) } else { Ok(()) }
    }

    /// The rejected rows of a step after `seq`, in order, at most `limit`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_rejects(&self, key: &str, after: i64, limit: i64) -> Result<Vec<RejectedRow>> {
        let table = &self.checkpoint_sql().rejects_table;
        let sql = format!("SELECT seq, line FROM {table} WHERE key = $1 AND seq > $2 ORDER BY seq LIMIT $3");
        let rows: Vec<(i64, String)> = with_pool!(self, pool => {
            sqlx::query_as(AssertSqlSafe(sql)).bind(key).bind(after).bind(limit).fetch_all(pool).await?
        });
        Ok(rows.into_iter().map(|(seq, line)| RejectedRow { seq, line }).collect())
    }

    /// Finished work is forgotten after a day, abandoned work after a quarter.
    async fn prune_checkpoints(&self) -> Result<()> {
        let CheckpointSql { checkpoints_table: checkpoints, rejects_table: rejects } = self.checkpoint_sql();
        let over = "(finished_at < $1 OR updated_at < $2)";
        let of_rejects = format!("DELETE FROM {rejects} WHERE key IN (SELECT key FROM {checkpoints} WHERE {over})");
        let of_checkpoints = format!("DELETE FROM {checkpoints} WHERE {over}");
        let (day, quarter) = (clock::now_millis() - DAY_MILLIS, clock::now_millis() - 90 * DAY_MILLIS);
        for sql in [of_rejects, of_checkpoints] {
            with_pool!(self, pool => {
                sqlx::query(AssertSqlSafe(sql)).bind(day).bind(quarter).execute(pool).await?;
            });
        }
        Ok(())
    }

    fn checkpoint_sql(&self) -> &CheckpointSql {
        match self {
            Self::Sqlite(sqlite) => &sqlite.checkpoint_sql,
            Self::Postgres(postgres) => &postgres.checkpoint_sql,
        }
    }
}

/// An error for the tables that users may not write into.
pub(super) fn refuse_reserved_table(name: &TableName) -> Result<()> {
    match name.table.as_str() {
        "afterload_checkpoints" | "afterload_rejects" => {
            Err(Error::new(codes::TABLE_RESERVED, format!("`{name}` belongs to afterload")))
        }
        _ => Ok(()),
    }
}
