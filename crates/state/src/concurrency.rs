//! Concurrency slots: they limit how many runs with one concurrency key are active.
//!
//! The statements count the rows of the runs themselves, so a count cannot stay wrong after a transaction. A
//! transaction that hands out slots holds the lock of the key.

use super::concurrency_slot::ConcurrencySlot;
use super::db::Db;
use super::runs::{self, RunRecord};
use super::sql_args::{SqlArg, args};
use super::tx::DbTx;
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

/// The condition of runs that wait for a slot or for their time and are not cancelled.
const RUN_IS_WAITING: &str = "waiting_since IS NOT NULL AND finished_at IS NULL AND cancel_requested_at IS NULL";

/// Reads and writes the concurrency slots of runs.
#[derive(Clone, Copy)]
pub struct ConcurrencyStore<C>(pub(super) C);

impl ConcurrencyStore<&mut DbTx> {
    /// Locks a concurrency key until the end of the transaction, so that decisions about its slots follow one another.
    ///
    /// The caller may hold rows of active or ended runs. From here on it must not wait for the row of another run.
    pub async fn lock_key(self, key: &str) -> Result<()> {
        // A transaction on SQLite is the only writer already.
        if self.0.dialect() == Dialect::Postgres {
            let sql = "SELECT 1 AS held FROM (SELECT pg_advisory_xact_lock(hashtext('afterload places'), hashtext($1))) AS lock";
            self.0.fetch(sql, &args![key]).await?;
        }
        Ok(())
    }

    /// Makes a run wait: for a slot if `in_line` is set, otherwise for its time.
    pub async fn set_waiting(self, id: &str, place: &ConcurrencySlot, in_line: bool) -> Result<()> {
        let ConcurrencySlot { key, limit, supersedes, .. } = place;
        let queue_position = match in_line {
            true => {
                "(SELECT COALESCE(MAX(queue_position), 0) + 1 FROM runs WHERE concurrency_key = $2 AND finished_at IS NULL)"
            }
            false => "NULL",
        };
        let sql = format!(
            "UPDATE runs SET concurrency_key = $2, concurrency_limit = $3, supersedes = $4, queue_position = {queue_position},
             waiting_since = COALESCE(waiting_since, $5) WHERE id = $1"
        );
        self.0.execute(&sql, &args![id, key, *limit, *supersedes, self.0.now()]).await.map(drop)
    }

    /// Gives a free slot of a key to the first run that waits for one, and returns that run. The caller has locked the
    /// key. A run whose row is locked is being cancelled, so this skips it.
    pub async fn admit_next(self, key: &str) -> Result<Option<RunRecord>> {
        let lock = if self.0.dialect() == Dialect::Postgres { "FOR UPDATE SKIP LOCKED" } else { "" };
        let sql = format!(
            "UPDATE runs SET waiting_since = NULL, revision = revision + 1 WHERE id = (
                SELECT id FROM runs WHERE concurrency_key = $1 AND queue_position IS NOT NULL AND {RUN_IS_WAITING} AND concurrency_limit >
                    (SELECT COUNT(*) FROM runs WHERE concurrency_key = $1 AND finished_at IS NULL AND waiting_since IS NULL)
                ORDER BY queue_position LIMIT 1 {lock})
             RETURNING {}",
            runs::all_run_columns()
        );
        self.0.fetch(&sql, &args![key]).await?.first().map(runs::run_from_row).transpose()
    }

    /// Finds the first active run of a key.
    pub async fn find_first_active(self, key: &str) -> Result<Option<String>> {
        let sql = "SELECT id FROM runs WHERE concurrency_key = $1 AND finished_at IS NULL AND waiting_since IS NULL
                   ORDER BY queue_position LIMIT 1";
        self.0.fetch(sql, &args![key]).await?.first().map(|row| row.get_text("id")).transpose()
    }

    /// Cancels a run that waits for a slot; none of its steps has started. Returns true if the run has a notification,
    /// which is now due.
    pub async fn cancel_waiting(self, id: &str) -> Result<bool> {
        let now = self.0.now();
        let sql =
            "UPDATE step_runs SET status = 'cancelled', finished_at = $2 WHERE run_id = $1 AND status = 'waiting'";
        self.0.execute(sql, &args![id, now]).await?;
        let sql = "UPDATE runs SET status = 'cancelled', finished_at = $2, waiting_since = NULL WHERE id = $1";
        self.0.notifications().end_run_with(id, sql, &args![id, now]).await
    }
}

impl ConcurrencyStore<&Db> {
    /// Returns true if any run waits for a slot or for its time.
    pub async fn has_waiting(self) -> Result<bool> {
        let sql = "SELECT id FROM runs WHERE waiting_since IS NOT NULL AND finished_at IS NULL LIMIT 1";
        Ok(self.0.fetch_optional(sql, &[]).await?.is_some())
    }

    /// Lists runs whose time has come and that do not wait for a slot yet.
    pub async fn list_due(self, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT id FROM runs WHERE {RUN_IS_WAITING} AND queue_position IS NULL AND run_at <= $1 ORDER BY run_at LIMIT $2"
        );
        self.fetch_ids(&sql, &args![self.0.now(), limit]).await
    }

    /// Lists keys that have a free slot and a run that waits for it.
    pub async fn list_keys_with_capacity(self, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT waiting.id FROM (SELECT concurrency_key AS id, MAX(concurrency_limit) AS most FROM runs
                WHERE {RUN_IS_WAITING} AND queue_position IS NOT NULL GROUP BY concurrency_key) AS waiting
             WHERE waiting.most > (SELECT COUNT(*) FROM runs
                WHERE concurrency_key = waiting.id AND finished_at IS NULL AND waiting_since IS NULL)
             LIMIT $1"
        );
        self.fetch_ids(&sql, &args![limit]).await
    }

    /// Lists waiting runs that are to be cancelled.
    pub async fn list_cancelled(self, limit: u32) -> Result<Vec<String>> {
        let sql = "SELECT id FROM runs WHERE waiting_since IS NOT NULL AND finished_at IS NULL
                   AND cancel_requested_at IS NOT NULL LIMIT $1";
        self.fetch_ids(sql, &args![limit]).await
    }

    /// Lists runs that a later waiting run supersedes: all runs of its key but the last `concurrency_limit` ones. Those that
    /// timed out are ending already.
    pub async fn list_superseded(self, limit: u32) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT DISTINCT old.id FROM (SELECT concurrency_key, concurrency_limit, queue_position FROM runs
                WHERE {RUN_IS_WAITING} AND supersedes = 1 AND queue_position IS NOT NULL) AS new
             JOIN runs old ON old.concurrency_key = new.concurrency_key AND old.queue_position < new.queue_position
                AND old.finished_at IS NULL AND old.cancel_requested_at IS NULL AND old.timed_out_at IS NULL
             WHERE (SELECT COUNT(*) FROM runs n WHERE n.concurrency_key = new.concurrency_key AND n.queue_position > old.queue_position
                AND n.queue_position <= new.queue_position AND n.finished_at IS NULL AND n.cancel_requested_at IS NULL)
                >= new.concurrency_limit
             LIMIT $1"
        );
        self.fetch_ids(&sql, &args![limit]).await
    }

    async fn fetch_ids(self, sql: &str, args: &[SqlArg]) -> Result<Vec<String>> {
        self.0.fetch(sql, args).await?.iter().map(|row| row.get_text("id")).collect()
    }
}
