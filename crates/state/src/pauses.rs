//! Queues and pipelines that nobody works on for now.

use super::db::Db;
use super::group_commit::TxOutcome;
use super::sql_args::args;
use super::tx::DbRow;
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

/// Holds for a step `s` that nothing pauses.
pub(crate) const STEP_NOT_PAUSED: &str = "NOT EXISTS (SELECT 1 FROM pauses p
    WHERE p.kind = 'queue' AND p.name = s.queue
    OR p.kind = 'pipeline' AND p.name = (SELECT r.pipeline FROM runs r WHERE r.id = s.run_id))";

fn pause_from_row(row: &DbRow) -> Result<(String, UnixMillis)> {
    Ok((row.get_text("name")?, row.get_int("paused_at")?))
}

/// The pauses of queues and pipelines.
#[derive(Clone, Copy)]
pub struct PauseStore<'a>(pub(super) &'a Db);

impl PauseStore<'_> {
    /// Pauses what is not paused yet, and says since when it is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert(self, what: PauseTarget, name: &str) -> Result<UnixMillis> {
        let insert = "INSERT INTO pauses (kind, name, paused_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let select = "SELECT name, paused_at FROM pauses WHERE kind = $1 AND name = $2";
        let now = clock::now_millis();
        self.0
            .with_tx(async |tx| {
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
    pub async fn delete(self, what: PauseTarget, name: &str) -> Result<bool> {
        let sql = "DELETE FROM pauses WHERE kind = $1 AND name = $2";
        Ok(self.0.execute(sql, &args![what.as_str(), name]).await? == 1)
    }

    /// The names that are paused, and since when.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list(self, what: PauseTarget) -> Result<Vec<(String, UnixMillis)>> {
        let sql = "SELECT name, paused_at FROM pauses WHERE kind = $1 ORDER BY name";
        self.0.fetch(sql, &args![what.as_str()]).await?.iter().map(pause_from_row).collect()
    }

    /// True if the name means a pipeline: one that is live, one that is paused, or one with runs that have not ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn pipeline_exists(self, name: &str) -> Result<bool> {
        let sql = "SELECT name FROM pipelines WHERE name = $1
                   UNION ALL SELECT name FROM pauses WHERE kind = 'pipeline' AND name = $1
                   UNION ALL SELECT pipeline FROM runs WHERE pipeline = $1 AND finished_at IS NULL LIMIT 1";
        Ok(self.0.fetch_optional(sql, &args![name]).await?.is_some())
    }
}
