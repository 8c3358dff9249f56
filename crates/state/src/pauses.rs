//! Pauses: queues and pipelines that start no work.

use super::db::Db;
use super::group_commit::TxOutcome;
use super::sql_args::args;
use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A target of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseTarget {
    /// A queue: none of its steps starts.
    Queue,
    /// A pipeline: no step of its runs starts.
    Pipeline,
}

impl PauseTarget {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Pipeline => "pipeline",
        }
    }
}

/// The condition that neither the queue nor the pipeline of a step `s` is paused.
pub(crate) const STEP_NOT_PAUSED: &str = "NOT EXISTS (SELECT 1 FROM pauses p
    WHERE p.kind = 'queue' AND p.name = s.queue
    OR p.kind = 'pipeline' AND p.name = (SELECT r.pipeline FROM runs r WHERE r.id = s.run_id))";

fn pause_from_row(row: &DbRow) -> Result<(String, UnixMillis)> {
    Ok((row.get_text("name")?, row.get_int("paused_at")?))
}

/// Reads and writes the pauses of queues and pipelines.
#[derive(Clone, Copy)]
pub struct PauseStore<'a>(pub(super) &'a Db);

impl PauseStore<'_> {
    /// Pauses a target, unless it is paused already. Returns the time since which it is paused.
    pub async fn insert(self, what: PauseTarget, name: &str) -> Result<UnixMillis> {
        let insert = "INSERT INTO pauses (kind, name, paused_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let select = "SELECT name, paused_at FROM pauses WHERE kind = $1 AND name = $2";
        let now = self.0.now();
        self.0
            .with_tx(async |tx| {
                tx.execute(insert, &args![what.as_str(), name, now]).await?;
                let rows = tx.fetch(select, &args![what.as_str(), name]).await?;
                let since = rows.first().map(pause_from_row).transpose()?;
                Ok(TxOutcome::Commit(since.map_or(now, |(_, since)| since)))
            })
            .await
    }

    /// Ends a pause. Returns false if there was none.
    pub async fn delete(self, what: PauseTarget, name: &str) -> Result<bool> {
        let sql = "DELETE FROM pauses WHERE kind = $1 AND name = $2";
        Ok(self.0.execute(sql, &args![what.as_str(), name]).await? == 1)
    }

    /// Lists the paused names, each with the time of its pause.
    pub async fn list(self, what: PauseTarget) -> Result<Vec<(String, UnixMillis)>> {
        let sql = "SELECT name, paused_at FROM pauses WHERE kind = $1 ORDER BY name";
        self.0.fetch(sql, &args![what.as_str()]).await?.iter().map(pause_from_row).collect()
    }

    /// Returns true if a pipeline with this name is live, is paused, or has runs that have not ended.
    pub async fn pipeline_exists(self, name: &str) -> Result<bool> {
        let sql = "SELECT name FROM pipelines WHERE name = $1
                   UNION ALL SELECT name FROM pauses WHERE kind = 'pipeline' AND name = $1
                   UNION ALL SELECT pipeline FROM runs WHERE pipeline = $1 AND finished_at IS NULL LIMIT 1";
        Ok(self.0.fetch_optional(sql, &args![name]).await?.is_some())
    }
}
