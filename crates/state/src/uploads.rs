//! Uploads that were announced: files on their way straight to the store, each to become a run.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A file that somebody may send.
#[derive(Clone, Debug)]
pub struct UploadRecord {
    /// Its id, which becomes the run's.
    pub id: String,
    /// The pipeline to start.
    pub pipeline: String,
    /// The param that the file is for.
    pub param: String,
    /// All other params.
    pub params: serde_json::Value,
    /// The file as it will be.
    pub file: serde_json::Value,
    /// Until when it may come.
    pub expires_at: UnixMillis,
}

const SELECT_UPLOADS: &str = "SELECT id, pipeline, param, params, file, expires_at FROM uploads";

fn upload_from_row(row: &DbRow) -> Result<UploadRecord> {
    Ok(UploadRecord {
        id: row.get_text("id")?,
        pipeline: row.get_text("pipeline")?,
        param: row.get_text("param")?,
        params: row.get_json("params")?.unwrap_or_default(),
        file: row.get_json("file")?.unwrap_or_default(),
        expires_at: row.get_int("expires_at")?,
    })
}

/// The announced uploads.
#[derive(Clone, Copy)]
pub struct UploadStore<'a>(pub(super) &'a Db);

impl UploadStore<'_> {
    /// Stores an upload.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert(self, new: &UploadRecord) -> Result<()> {
        let UploadRecord { id, pipeline, param, params, file, expires_at } = new;
        let sql = "INSERT INTO uploads (id, pipeline, param, params, file, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";
        self.0.execute(sql, &args![id, pipeline, param, params, file, *expires_at]).await.map(drop)
    }

    /// The upload with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find(self, id: &str) -> Result<Option<UploadRecord>> {
        self.0
            .fetch_optional(&format!("{SELECT_UPLOADS} WHERE id = $1"), &args![id])
            .await?
            .as_ref()
            .map(upload_from_row)
            .transpose()
    }

    /// Uploads that could not come any more at this time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_expired(self, before: UnixMillis, limit: u32) -> Result<Vec<UploadRecord>> {
        let sql = format!("{SELECT_UPLOADS} WHERE expires_at < $1 ORDER BY expires_at LIMIT $2");
        self.0.fetch(&sql, &args![before, limit]).await?.iter().map(upload_from_row).collect()
    }

    /// Forgets an upload.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete(self, id: &str) -> Result<()> {
        self.0.execute("DELETE FROM uploads WHERE id = $1", &args![id]).await.map(drop)
    }
}
