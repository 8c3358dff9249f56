//! Files that afterload owns: what was uploaded for a run, and what its steps made.

use super::db::{Db, Row, Tx, args};
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;

/// A file that afterload owns.
#[derive(Clone, Debug)]
pub struct ArtifactRecord {
    /// The id.
    pub id: String,
    /// The run it belongs to.
    pub run_id: String,
    /// The step that made it; `None` for what was uploaded.
    pub step_id: Option<String>,
    /// The file's shape, as JSON.
    pub file: serde_json::Value,
    /// When it became visible.
    pub created_at: Millis,
    /// When nobody needed it any more: from then on it is gone.
    pub expired_at: Option<Millis>,
}

const COLUMNS: &str = "SELECT id, run_id, step_id, file, created_at, expired_at FROM artifacts";

fn artifact(row: &Row) -> Result<ArtifactRecord> {
    Ok(ArtifactRecord {
        id: row.text("id")?,
        run_id: row.text("run_id")?,
        step_id: row.opt_text("step_id")?,
        file: row.json("file")?.unwrap_or_default(),
        created_at: row.int("created_at")?,
        expired_at: row.opt_int("expired_at")?,
    })
}

impl Tx {
    /// Makes a file visible.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert_artifact(
        &mut self,
        id: &str,
        run: &str,
        step: Option<&str>,
        file: &serde_json::Value,
    ) -> Result<()> {
        let sql = "INSERT INTO artifacts (id, run_id, step_id, file, created_at) VALUES ($1, $2, $3, $4, $5)";
        self.execute(sql, &args![id, run, step, file, clock::now()]).await?;
        self.refer_to_artifact(id, run).await
    }

    /// Says that a run needs a file, its own or another run's.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn refer_to_artifact(&mut self, id: &str, run: &str) -> Result<()> {
        let sql = "INSERT INTO artifact_refs (artifact_id, holder) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.execute(sql, &args![id, format!("run:{run}")]).await.map(drop)
    }

    /// Holds a file's row until the end of the transaction, so that nobody lets the file expire meanwhile. False if it
    /// has expired, or never was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hold_artifact(&mut self, id: &str) -> Result<bool> {
        let sql = "UPDATE artifacts SET expired_at = expired_at WHERE id = $1 AND expired_at IS NULL";
        Ok(self.execute(sql, &args![id]).await? == 1)
    }
}

impl Db {
    /// One artifact.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn artifact(&self, id: &str) -> Result<Option<ArtifactRecord>> {
        self.fetch_one(&format!("{COLUMNS} WHERE id = $1"), &args![id]).await?.as_ref().map(artifact).transpose()
    }

    /// The artifacts of a run, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn artifacts(&self, run: &str) -> Result<Vec<ArtifactRecord>> {
        let sql = format!("{COLUMNS} WHERE run_id = $1 ORDER BY id");
        self.fetch(&sql, &args![run]).await?.iter().map(artifact).collect()
    }
}
