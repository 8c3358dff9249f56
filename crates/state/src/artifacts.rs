//! Artifacts: the files that afterload owns. A run has uploads and the files that its steps produce.

use std::collections::HashSet;

use super::db::Db;
use super::sql_args::{SqlArgs, args};
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// Both databases limit the arguments of a statement.
const MAX_IDS_PER_STATEMENT: usize = 500;

/// An artifact, a file that afterload owns.
#[derive(Clone, Debug)]
pub struct ArtifactRecord {
    /// The id of the artifact.
    pub id: String,
    /// The run to which the artifact belongs.
    pub run_id: String,
    /// The step that produced the file; `None` for an upload.
    pub step_id: Option<String>,
    /// The file as JSON.
    pub file: serde_json::Value,
    /// When the artifact became visible.
    pub created_at: UnixMillis,
    /// When the last reference to the file ended. From then on the file is gone.
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

/// Reads and writes artifacts and the references to them.
#[derive(Clone, Copy)]
pub struct ArtifactStore<C>(pub(super) C);

impl ArtifactStore<&mut DbTx> {
    /// Stores an artifact, which makes its file visible, and adds the reference of its run.
    pub async fn insert(self, id: &str, run: &str, step: Option<&str>, file: &serde_json::Value) -> Result<()> {
        let sql = "INSERT INTO artifacts (id, run_id, step_id, file, created_at) VALUES ($1, $2, $3, $4, $5)";
        self.0.execute(sql, &args![id, run, step, file, self.0.now()]).await?;
        self.0.artifacts().add_ref(id, run).await
    }

    /// Adds a run's reference to a file. The file may belong to another run.
    pub async fn add_ref(self, id: &str, run: &str) -> Result<()> {
        let sql = "INSERT INTO artifact_refs (artifact_id, holder) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.0.execute(sql, &args![id, format!("run:{run}")]).await.map(drop)
    }

    /// Returns those of the ids, in their order, that belong to files that have not expired. A caller may name any number
    /// of ids.
    pub async fn retain_live(self, ids: Vec<String>) -> Result<Vec<String>> {
        let mut live = HashSet::new();
        for some in ids.chunks(MAX_IDS_PER_STATEMENT) {
            let mut args = SqlArgs::default();
            let list = args.add_list(some);
            let sql = format!("SELECT id FROM artifacts WHERE id IN ({list}) AND expired_at IS NULL");
            for row in self.0.fetch(&sql, args.as_slice()).await? {
                live.insert(row.get_text("id")?);
            }
        }
        Ok(ids.into_iter().filter(|id| live.contains(id)).collect())
    }

    /// Locks the row of an artifact until the end of the transaction, so that the file cannot expire meanwhile.
    /// Returns false if it has expired or does not exist.
    pub async fn lock_live(self, id: &str) -> Result<bool> {
        let sql = "UPDATE artifacts SET expired_at = expired_at WHERE id = $1 AND expired_at IS NULL";
        Ok(self.0.execute(sql, &args![id]).await? == 1)
    }
}

impl ArtifactStore<&Db> {
    /// Finds an artifact by its id.
    pub async fn find(self, id: &str) -> Result<Option<ArtifactRecord>> {
        self.0
            .fetch_optional(&format!("{SELECT_ARTIFACTS} WHERE id = $1"), &args![id])
            .await?
            .as_ref()
            .map(artifact_from_row)
            .transpose()
    }

    /// Lists the artifacts of a run, oldest first.
    pub async fn list(self, run: &str) -> Result<Vec<ArtifactRecord>> {
        let sql = format!("{SELECT_ARTIFACTS} WHERE run_id = $1 ORDER BY id");
        self.0.fetch(&sql, &args![run]).await?.iter().map(artifact_from_row).collect()
    }
}
