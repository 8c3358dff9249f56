//! Letting go: of files that nobody needs any more, and of runs whose time is over.
//!
//! A file is held by rows of `artifact_refs`: by the runs that it belongs to or that were given it, until they let go, and
//! by links that still work. Once the last of them is gone the file has expired; its object goes next, then its row, with
//! the run. Each step is a transaction of its own that asks again whether it is still right, so that processes may do this
//! side by side and be killed at any point.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbTx;
use afterload_core::clock;
use afterload_core::error::Result;

/// What a pipeline says of how long its runs are kept, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionOverride {
    /// The runs.
    pub runs_ms: Option<i64>,
    /// Their files.
    pub artifacts_ms: Option<i64>,
}

/// What has to expire or to be deleted.
#[derive(Clone, Copy)]
pub struct RetentionStore<C>(pub(super) C);

impl RetentionStore<&mut DbTx> {
    /// Says how long a run is kept.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_override(self, id: &str, keep: RetentionOverride) -> Result<()> {
        let sql = "UPDATE runs SET retention_runs_ms = $2, retention_artifacts_ms = $3 WHERE id = $1";
        self.0.execute(sql, &args![id, keep.runs_ms, keep.artifacts_ms]).await.map(drop)
    }

    /// True if a run has let go of its files.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn artifacts_expired(self, id: &str) -> Result<bool> {
        let sql = "SELECT id FROM runs WHERE id = $1 AND artifacts_released_at IS NOT NULL";
        Ok(!self.0.fetch(sql, &args![id]).await?.is_empty())
    }

    /// Lets a run go of its files. Of those that nobody else holds, all expire.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_run_artifacts(self, id: &str) -> Result<()> {
        let sql = "UPDATE runs SET artifacts_released_at = $2 WHERE id = $1 AND finished_at IS NOT NULL AND artifacts_released_at IS NULL";
        if self.0.execute(sql, &args![id, clock::now_millis()]).await? == 1 {
            let sql = "DELETE FROM artifact_refs WHERE holder = $1 RETURNING artifact_id";
            let rows = self.0.fetch(sql, &args![format!("run:{id}")]).await?;
            self.0
                .retention()
                .expire_unreferenced(rows.iter().map(|row| row.get_text("artifact_id")).collect::<Result<_>>()?)
                .await?;
        }
        Ok(())
    }

    /// Lets a link go of its file, if it has ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_link_artifact(self, artifact: &str, holder: &str) -> Result<()> {
        let sql = "DELETE FROM artifact_refs WHERE artifact_id = $1 AND holder = $2 AND until <= $3";
        if self.0.execute(sql, &args![artifact, holder, clock::now_millis()]).await? == 1 {
            self.0.retention().expire_unreferenced(vec![artifact.to_owned()]).await?;
        }
        Ok(())
    }

    /// Lets those files expire that nobody holds. Each row is locked first and asked about in a statement of its own: on
    /// PostgreSQL one statement would not see a holder that came while it waited for the lock.
    async fn expire_unreferenced(self, mut artifacts: Vec<String>) -> Result<()> {
        artifacts.sort();
        for id in artifacts {
            if self.0.artifacts().lock_live(&id).await? {
                let sql = "UPDATE artifacts SET expired_at = $2
                           WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM artifact_refs WHERE artifact_id = $1)";
                self.0.execute(sql, &args![&id, clock::now_millis()]).await?;
            }
        }
        Ok(())
    }
}

impl RetentionStore<&Db> {
    /// Runs that have to let go of their files: `keep` milliseconds after their end, or what their pipeline said.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_runs_to_release(self, keep: i64, limit: u32) -> Result<Vec<String>> {
        let open = "finished_at IS NOT NULL AND artifacts_released_at IS NULL";
        self.list_due_runs(open, "retention_artifacts_ms", keep, limit).await
    }

    /// Runs whose time is over, but for those with files that are still there: they go with their last file.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_runs_to_delete(self, keep: i64, limit: u32) -> Result<Vec<String>> {
        let bare = "finished_at IS NOT NULL AND artifacts_released_at IS NOT NULL AND NOT EXISTS
                    (SELECT 1 FROM artifacts WHERE run_id = runs.id AND purged_at IS NULL)";
        self.list_due_runs(bare, "retention_runs_ms", keep, limit).await
    }

    /// Two conditions, each with an index of its own.
    async fn list_due_runs(self, which: &str, column: &str, keep: i64, limit: u32) -> Result<Vec<String>> {
        let now = clock::now_millis();
        let sql = format!(
            "SELECT id FROM runs WHERE {which} AND {column} IS NULL AND finished_at <= $1
             UNION ALL
             SELECT id FROM runs WHERE {which} AND {column} IS NOT NULL AND (finished_at + {column}) <= $2
             LIMIT $3"
        );
        let rows = self.0.fetch(&sql, &args![now.saturating_sub(keep), now, limit]).await?;
        rows.iter().map(|row| row.get_text("id")).collect()
    }

    /// Links that have ended and still hold their file, as `(artifact, holder)`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_links_to_release(self, limit: u32) -> Result<Vec<(String, String)>> {
        let sql = "SELECT artifact_id, holder FROM artifact_refs WHERE until <= $1 LIMIT $2";
        let rows = self.0.fetch(sql, &args![clock::now_millis(), limit]).await?;
        rows.iter().map(|row| Ok((row.get_text("artifact_id")?, row.get_text("holder")?))).collect()
    }

    /// Files that have expired and whose objects are still there, as `(id, file)`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_artifacts_to_purge(self, limit: u32) -> Result<Vec<(String, serde_json::Value)>> {
        let sql = "SELECT id, file FROM artifacts WHERE expired_at IS NOT NULL AND purged_at IS NULL
                   ORDER BY expired_at LIMIT $1";
        let rows = self.0.fetch(sql, &args![limit]).await?;
        rows.iter().map(|row| Ok((row.get_text("id")?, row.get_json("file")?.unwrap_or_default()))).collect()
    }

    /// Says that the object of a file is gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mark_purged(self, artifact: &str) -> Result<()> {
        self.0
            .execute("UPDATE artifacts SET purged_at = $2 WHERE id = $1", &args![artifact, clock::now_millis()])
            .await
            .map(drop)
    }

    /// Deletes a run with all that hangs on it, unless it goes on again or has a file that is still there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_run(self, id: &str) -> Result<bool> {
        let sql = "DELETE FROM runs WHERE id = $1 AND finished_at IS NOT NULL AND artifacts_released_at IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM artifacts WHERE run_id = $1 AND purged_at IS NULL)";
        Ok(self.0.execute(sql, &args![id]).await? == 1)
    }

    /// True if the artifact is known, or if the run goes on and may still make it one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn artifact_has_owner(self, artifact: &str, run: &str) -> Result<bool> {
        let sql = "SELECT id FROM artifacts WHERE id = $1 UNION ALL
                   SELECT id FROM runs WHERE id = $2 AND finished_at IS NULL LIMIT 1";
        Ok(self.0.fetch_optional(sql, &args![artifact, run]).await?.is_some())
    }
}
