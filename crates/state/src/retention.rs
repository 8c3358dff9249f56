//! Retention: files that nothing references expire, and old runs are deleted.
//!
//! Rows of `artifact_refs` keep a file: those of the runs that own or received it, and those of links that still work.
//! After the last reference ends, the file has expired. Then its object is deleted, and later its row with the run.
//! Each part is a transaction of its own that checks its condition again. So several processes may do this at once,
//! and a crash at any point does no harm.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbTx;
use afterload_core::error::Result;

/// How long a pipeline keeps its runs, in milliseconds, if it differs from the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionOverride {
    /// The time for runs.
    pub runs_ms: Option<i64>,
    /// The time for files of runs.
    pub artifacts_ms: Option<i64>,
}

/// Expires files and deletes runs.
#[derive(Clone, Copy)]
pub struct RetentionStore<C>(pub(super) C);

impl RetentionStore<&mut DbTx> {
    /// Sets how long a run is kept.
    pub async fn set_override(self, id: &str, keep: RetentionOverride) -> Result<()> {
        let sql = "UPDATE runs SET retention_runs_ms = $2, retention_artifacts_ms = $3 WHERE id = $1";
        self.0.execute(sql, &args![id, keep.runs_ms, keep.artifacts_ms]).await.map(drop)
    }

    /// Returns true if a run has released its artifacts.
    pub async fn artifacts_expired(self, id: &str) -> Result<bool> {
        let sql = "SELECT id FROM runs WHERE id = $1 AND artifacts_released_at IS NOT NULL";
        Ok(!self.0.fetch(sql, &args![id]).await?.is_empty())
    }

    /// Deletes the references of a run to its files. Files without any other reference expire.
    pub async fn release_run_artifacts(self, id: &str) -> Result<()> {
        let sql = "UPDATE runs SET artifacts_released_at = $2 WHERE id = $1 AND finished_at IS NOT NULL AND artifacts_released_at IS NULL";
        if self.0.execute(sql, &args![id, self.0.now()]).await? == 1 {
            let sql = "DELETE FROM artifact_refs WHERE holder = $1 RETURNING artifact_id";
            let rows = self.0.fetch(sql, &args![format!("run:{id}")]).await?;
            self.0
                .retention()
                .expire_unreferenced(rows.iter().map(|row| row.get_text("artifact_id")).collect::<Result<_>>()?)
                .await?;
        }
        Ok(())
    }

    /// Deletes the reference of a link to its file, if the link has ended.
    pub async fn release_link_artifact(self, artifact: &str, holder: &str) -> Result<()> {
        let sql = "DELETE FROM artifact_refs WHERE artifact_id = $1 AND holder = $2 AND until <= $3";
        if self.0.execute(sql, &args![artifact, holder, self.0.now()]).await? == 1 {
            self.0.retention().expire_unreferenced(vec![artifact.to_owned()]).await?;
        }
        Ok(())
    }

    /// Expires those of the files that have no reference. Locks each row first and checks it in a second statement: on
    /// PostgreSQL one statement would not see a reference that was added while it waited for the lock.
    async fn expire_unreferenced(self, mut artifacts: Vec<String>) -> Result<()> {
        // All transactions lock rows in the same order, so they cannot deadlock.
        artifacts.sort();
        for id in artifacts {
            if self.0.artifacts().lock_live(&id).await? {
                let sql = "UPDATE artifacts SET expired_at = $2
                           WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM artifact_refs WHERE artifact_id = $1)";
                self.0.execute(sql, &args![&id, self.0.now()]).await?;
            }
        }
        Ok(())
    }
}

impl RetentionStore<&Db> {
    /// Lists runs whose files are due: `keep` milliseconds after the end of the run, or after the time that its
    /// pipeline sets.
    pub async fn list_runs_to_release(self, keep: i64, limit: u32) -> Result<Vec<String>> {
        let open = "finished_at IS NOT NULL AND artifacts_released_at IS NULL";
        self.list_due_runs(open, "retention_artifacts_ms", keep, limit).await
    }

    /// Lists runs that are due for deletion and whose files are all purged.
    pub async fn list_runs_to_delete(self, keep: i64, limit: u32) -> Result<Vec<String>> {
        let bare = "finished_at IS NOT NULL AND artifacts_released_at IS NOT NULL AND NOT EXISTS
                    (SELECT 1 FROM artifacts WHERE run_id = runs.id AND purged_at IS NULL)";
        self.list_due_runs(bare, "retention_runs_ms", keep, limit).await
    }

    /// The query has two conditions because each has an index of its own.
    async fn list_due_runs(self, which: &str, column: &str, keep: i64, limit: u32) -> Result<Vec<String>> {
        let now = self.0.now();
        let sql = format!(
            "SELECT id FROM runs WHERE {which} AND {column} IS NULL AND finished_at <= $1
             UNION ALL
             SELECT id FROM runs WHERE {which} AND {column} IS NOT NULL AND (finished_at + {column}) <= $2
             LIMIT $3"
        );
        let rows = self.0.fetch(&sql, &args![now.saturating_sub(keep), now, limit]).await?;
        rows.iter().map(|row| row.get_text("id")).collect()
    }

    /// Lists the references of ended links, as `(artifact, holder)`.
    pub async fn list_links_to_release(self, limit: u32) -> Result<Vec<(String, String)>> {
        let sql = "SELECT artifact_id, holder FROM artifact_refs WHERE until <= $1 LIMIT $2";
        let rows = self.0.fetch(sql, &args![self.0.now(), limit]).await?;
        rows.iter().map(|row| Ok((row.get_text("artifact_id")?, row.get_text("holder")?))).collect()
    }

    /// Lists expired files whose objects still exist, as `(id, file)`.
    pub async fn list_artifacts_to_purge(self, limit: u32) -> Result<Vec<(String, serde_json::Value)>> {
        let sql = "SELECT id, file FROM artifacts WHERE expired_at IS NOT NULL AND purged_at IS NULL
                   ORDER BY expired_at LIMIT $1";
        let rows = self.0.fetch(sql, &args![limit]).await?;
        rows.iter().map(|row| Ok((row.get_text("id")?, row.get_json("file")?.unwrap_or_default()))).collect()
    }

    /// Records that the object of a file is deleted.
    pub async fn mark_purged(self, artifact: &str) -> Result<()> {
        self.0
            .execute("UPDATE artifacts SET purged_at = $2 WHERE id = $1", &args![artifact, self.0.now()])
            .await
            .map(drop)
    }

    /// Deletes a run with all its rows. Returns false if the run goes on again or has a file that is not purged.
    pub async fn delete_run(self, id: &str) -> Result<bool> {
        let sql = "DELETE FROM runs WHERE id = $1 AND finished_at IS NOT NULL AND artifacts_released_at IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM artifacts WHERE run_id = $1 AND purged_at IS NULL)";
        Ok(self.0.execute(sql, &args![id]).await? == 1)
    }

    /// Returns true if the artifact exists, or if the run has not ended and may still create it.
    pub async fn artifact_has_owner(self, artifact: &str, run: &str) -> Result<bool> {
        let sql = "SELECT id FROM artifacts WHERE id = $1 UNION ALL
                   SELECT id FROM runs WHERE id = $2 AND finished_at IS NULL LIMIT 1";
        Ok(self.0.fetch_optional(sql, &args![artifact, run]).await?.is_some())
    }
}
