//! Deadlines of runs: which have passed, and which runs timed out.

use serde_json::Value;

use super::db::Db;
use super::sql_args::args;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A run of which a deadline has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverdueRun {
    /// The id of the run.
    pub id: String,
    /// The deadline.
    pub deadline: UnixMillis,
}

/// Reads and writes the deadlines of runs.
#[derive(Clone, Copy)]
pub struct DeadlineStore<C>(pub(super) C);

impl DeadlineStore<&mut DbTx> {
    /// Marks a run as timed out, with its error. It no longer waits for a slot: its handlers run without one.
    pub async fn mark_timed_out(self, id: &str, error: &Value) -> Result<()> {
        let sql = "UPDATE runs SET timed_out_at = $2, error = $3, error_code = $4, deadline_check_at = NULL, waiting_since = NULL
                   WHERE id = $1";
        self.0.execute(sql, &args![id, self.0.now(), error, error["code"].as_str()]).await.map(drop)
    }

    /// Sets the deadline that is checked next.
    pub async fn set_next_check(self, id: &str, at: Option<UnixMillis>) -> Result<()> {
        self.0.execute("UPDATE runs SET deadline_check_at = $2 WHERE id = $1", &args![id, at]).await.map(drop)
    }
}

impl DeadlineStore<&Db> {
    /// Lists runs that have not ended and of which a deadline has passed, the most overdue first; only those that follow
    /// `after`.
    pub async fn list_passed(self, after: Option<&OverdueRun>, limit: u32) -> Result<Vec<OverdueRun>> {
        let sql = "SELECT id, deadline_check_at FROM runs
                   WHERE deadline_check_at IS NOT NULL AND deadline_check_at <= $1 AND finished_at IS NULL
                   AND (deadline_check_at, id) > ($2, $3)
                   ORDER BY deadline_check_at, id LIMIT $4";
        let (deadline, id) = after.map_or((UnixMillis::MIN, ""), |run| (run.deadline, run.id.as_str()));
        let rows = self.0.fetch(sql, &args![self.0.now(), deadline, id, limit]).await?;
        let to_overdue = |row: &DbRow| -> Result<OverdueRun> {
            Ok(OverdueRun { id: row.get_text("id")?, deadline: row.get_int("deadline_check_at")? })
        };
        rows.iter().map(to_overdue).collect()
    }
}
