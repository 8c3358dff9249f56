//! Queues and pipelines that nobody works on for now.

use super::db::{Db, DbRow};
use super::group_commit::TxOutcome;
use super::sql_args::args;
use super::steps::STEP_IS_OPEN;
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::Result;

/// What can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseTarget {
    /// A queue: none of its steps starts.
    Queue,
    /// A pipeline: no step of its runs starts.
    Pipeline,
}

impl PauseTarget {
    /// As the database writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Pipeline => "pipeline",
        }
    }
}

/// The steps of a queue that are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStepCounts {
    /// The queue.
    pub queue: String,
    /// Those that wait for a worker, or for the time of their next attempt.
    pub waiting: i64,
    /// Those that workers hold.
    pub running: i64,
}

/// Holds for a step `s` that nothing pauses.
pub(crate) const STEP_NOT_PAUSED: &str = "NOT EXISTS (SELECT 1 FROM pauses p
    WHERE p.kind = 'queue' AND p.name = s.queue
    OR p.kind = 'pipeline' AND p.name = (SELECT r.pipeline FROM runs r WHERE r.id = s.run_id))";

fn pause_from_row(row: &DbRow) -> Result<(String, UnixMillis)> {
    Ok((row.get_text("name")?, row.get_int("paused_at")?))
}

impl Db {
    /// Pauses what is not paused yet, and says since when it is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert_pause(&self, what: PauseTarget, name: &str) -> Result<UnixMillis> {
        let insert = "INSERT INTO pauses (kind, name, paused_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let select = "SELECT name, paused_at FROM pauses WHERE kind = $1 AND name = $2";
        let now = clock::now_millis();
        self.with_tx(async |tx| {
            tx.execute(insert, &args![what.as_str(), name, now]).await?;
            let rows = tx.fetch(select, &args![what.as_str(), name]).await?;
            let since = rows.first().map(pause_from_row).transpose()?;
            Ok(TxOutcome::Commit(since.map_or(now, |(_, since)| since)))
        })
        .await
    }

    /// Ends a pause. False: there was none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_pause(&self, what: PauseTarget, name: &str) -> Result<bool> {
        let sql = "DELETE FROM pauses WHERE kind = $1 AND name = $2";
        Ok(self.execute(sql, &args![what.as_str(), name]).await? == 1)
    }

    /// The names that are paused, and since when.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_paused(&self, what: PauseTarget) -> Result<Vec<(String, UnixMillis)>> {
        let sql = "SELECT name, paused_at FROM pauses WHERE kind = $1 ORDER BY name";
        self.fetch(sql, &args![what.as_str()]).await?.iter().map(pause_from_row).collect()
    }

    /// True if the name means a pipeline: one that is live, one that is paused, or one with runs that have not ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn pipeline_exists(&self, name: &str) -> Result<bool> {
        let sql = "SELECT name FROM pipelines WHERE name = $1
                   UNION ALL SELECT name FROM pauses WHERE kind = 'pipeline' AND name = $1
                   UNION ALL SELECT pipeline FROM runs WHERE pipeline = $1 AND finished_at IS NULL LIMIT 1";
        Ok(self.fetch_optional(sql, &args![name]).await?.is_some())
    }

    /// The open steps of each queue that has some.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_steps_by_queue(&self) -> Result<Vec<QueueStepCounts>> {
        let sql = format!(
            "SELECT queue, COUNT(CASE WHEN status IN ('queued', 'retrying') THEN 1 END) AS waiting,
             COUNT(CASE WHEN status = 'running' THEN 1 END) AS running FROM step_runs s WHERE {STEP_IS_OPEN} GROUP BY queue"
        );
        let count = |row: &DbRow| {
            Ok(QueueStepCounts {
                queue: row.get_text("queue")?,
                waiting: row.get_int("waiting")?,
                running: row.get_int("running")?,
            })
        };
        self.fetch(&sql, &[]).await?.iter().map(count).collect()
    }
}
