//! Files that afterload owns: what was uploaded for a run, and what its steps made.

use super::db::Db;
use super::sql_args::args;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::{self, UnixMillis};
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
    pub created_at: UnixMillis,
    /// When nobody needed it any more: from then on it is gone.
    pub expired_at: Option<UnixMillis>,
}

const SELECT_ARTIFACTS: &str = "SELECT id, run_id, step_id, file, created_at, expired_at FROM artifacts";

fn artifact_from_row(row: &DbRow) -> Result<ArtifactRecord> {
    Ok(ArtifactRecord {
        id: row.get_text("id")?,
        run_id: row.get_text("run_id")?,
        step_id: row.get_opt_text("step_id")?,
        file: row.get_json("file")?.unwrap_or_default(),
        created_at: row.get_int("created_at")?,
        expired_at: row.get_opt_int("expired_at")?,
    })
}

/// The files that afterload owns, and what refers to them.
#[derive(Clone, Copy)]
pub struct ArtifactStore<C>(pub(super) C);

impl ArtifactStore<&mut DbTx> {
    /// Makes a file visible.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert(self, id: &str, run: &str, step: Option<&str>, file: &serde_json::Value) -> Result<()> {
        let sql = "INSERT INTO artifacts (id, run_id, step_id, file, created_at) VALUES ($1, $2, $3, $4, $5)";
        self.0.execute(sql, &args![id, run, step, file, clock::now_millis()]).await?;
        self.0.artifacts().add_ref(id, run).await
    }

    /// Says that a run needs a file, its own or another run's.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_ref(self, id: &str, run: &str) -> Result<()> {
        let sql = "INSERT INTO artifact_refs (artifact_id, holder) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.0.execute(sql, &args![id, format!("run:{run}")]).await.map(drop)
    }

    /// Holds a file's row until the end of the transaction, so that nobody lets the file expire meanwhile. False if it
    /// has expired, or never was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock_live(self, id: &str) -> Result<bool> {
        let sql = "UPDATE artifacts SET expired_at = expired_at WHERE id = $1 AND expired_at IS NULL";
        Ok(self.0.execute(sql, &args![id]).await? == 1)
    }
}

impl ArtifactStore<&Db> {
    /// One artifact.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find(self, id: &str) -> Result<Option<ArtifactRecord>> {
        self.0
            .fetch_optional(&format!("{SELECT_ARTIFACTS} WHERE id = $1"), &args![id])
            .await?
            .as_ref()
            .map(artifact_from_row)
            .transpose()
    }

    /// The artifacts of a run, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list(self, run: &str) -> Result<Vec<ArtifactRecord>> {
        let sql = format!("{SELECT_ARTIFACTS} WHERE run_id = $1 ORDER BY id");
        self.0.fetch(&sql, &args![run]).await?.iter().map(artifact_from_row).collect()
    }
}
