//! Announced uploads: files that clients send straight to the object store. Each then starts a run.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// An announced upload.
#[derive(Clone, Debug)]
pub struct UploadRecord {
    /// The id, which becomes the id of the run.
    pub id: String,
    /// The pipeline to start.
    pub pipeline: String,
    /// The param that the file is for.
    pub param: String,
    /// All other params of the run, with the seals of their files.
    pub params: serde_json::Value,
    /// The file as it is after the upload.
    pub file: serde_json::Value,
    /// When the announcement expires.
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

/// Reads and writes announced uploads.
#[derive(Clone, Copy)]
pub struct UploadStore<'a>(pub(super) &'a Db);

impl UploadStore<'_> {
    /// Stores an upload.
    pub async fn insert(self, new: &UploadRecord) -> Result<()> {
        let UploadRecord { id, pipeline, param, params, file, expires_at } = new;
        let sql = "INSERT INTO uploads (id, pipeline, param, params, file, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";
        self.0.execute(sql, &args![id, pipeline, param, params, file, *expires_at]).await.map(drop)
    }

    /// Finds an upload by its id.
    pub async fn find(self, id: &str) -> Result<Option<UploadRecord>> {
        self.0
            .fetch_optional(&format!("{SELECT_UPLOADS} WHERE id = $1"), &args![id])
            .await?
            .as_ref()
            .map(upload_from_row)
            .transpose()
    }

    /// Sets the file of an upload. Returns false if there is no such upload any more.
    pub async fn replace_file(self, id: &str, file: &serde_json::Value) -> Result<bool> {
        let sql = "UPDATE uploads SET file = $2 WHERE id = $1";
        Ok(self.0.execute(sql, &args![id, file]).await? > 0)
    }

    /// Lists uploads that expired before this time.
    pub async fn list_expired(self, before: UnixMillis, limit: u32) -> Result<Vec<UploadRecord>> {
        let sql = format!("{SELECT_UPLOADS} WHERE expires_at < $1 ORDER BY expires_at LIMIT $2");
        self.0.fetch(&sql, &args![before, limit]).await?.iter().map(upload_from_row).collect()
    }

    /// Deletes an upload.
    pub async fn delete(self, id: &str) -> Result<()> {
        self.0.execute("DELETE FROM uploads WHERE id = $1", &args![id]).await.map(drop)
    }
}
