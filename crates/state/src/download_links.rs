//! Download links: URLs in mails, each of which opens one file without a key.

use super::db::Db;
use super::group_commit::TxOutcome;
use super::sql_args::args;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A download link as stored.
#[derive(Clone, Debug)]
pub struct DownloadLinkRecord {
    /// The id, which is part of the token.
    pub id: String,
    /// The artifact that the link opens.
    pub artifact_id: String,
    /// The run whose step created the link.
    pub run_id: String,
    /// The step that created the link.
    pub step_id: String,
    /// When the link was created.
    pub created_at: UnixMillis,
    /// When the link expires.
    pub expires_at: UnixMillis,
    /// When the link was revoked.
    pub revoked_at: Option<UnixMillis>,
    /// How many downloads used the link.
    pub downloads: i64,
    /// The time of the last download.
    pub last_download_at: Option<UnixMillis>,
}

const LINK_COLUMNS: &str =
    "id, artifact_id, run_id, step_id, created_at, expires_at, revoked_at, downloads, last_download_at";

fn link_from_row(row: &DbRow) -> Result<DownloadLinkRecord> {
    Ok(DownloadLinkRecord {
        id: row.get_text("id")?,
        artifact_id: row.get_text("artifact_id")?,
        run_id: row.get_text("run_id")?,
        step_id: row.get_text("step_id")?,
        created_at: row.get_int("created_at")?,
        expires_at: row.get_int("expires_at")?,
        revoked_at: row.get_opt_int("revoked_at")?,
        downloads: row.get_int("downloads")?,
        last_download_at: row.get_opt_int("last_download_at")?,
    })
}

fn link_holder(id: &str) -> String {
    format!("link:{id}")
}

/// Reads and writes download links.
#[derive(Clone, Copy)]
pub struct DownloadLinkStore<C>(pub(super) C);

impl DownloadLinkStore<&mut DbTx> {
    /// Stores a link, or extends an existing one, and keeps its file as long. Returns false if the file no longer
    /// exists.
    pub async fn upsert(self, new: &DownloadLinkRecord) -> Result<bool> {
        if !self.0.artifacts().lock_live(&new.artifact_id).await? {
            return Ok(false);
        }
        let sql = "INSERT INTO download_links (id, artifact_id, run_id, step_id, created_at, expires_at)
                   VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
                   WHERE download_links.expires_at < excluded.expires_at";
        let DownloadLinkRecord { id, artifact_id, run_id, step_id, created_at, expires_at, .. } = new;
        self.0.execute(sql, &args![id, artifact_id, run_id, step_id, *created_at, *expires_at]).await?;
        let sql = "INSERT INTO artifact_refs (artifact_id, holder, until)
                   SELECT artifact_id, $2, expires_at FROM download_links WHERE id = $1 AND revoked_at IS NULL
                   ON CONFLICT (artifact_id, holder) DO UPDATE SET until = excluded.until";
        self.0.execute(sql, &args![id, link_holder(id)]).await?;
        Ok(true)
    }
}

impl DownloadLinkStore<&Db> {
    /// Revokes a link and returns it, or `None` if there is none. The link no longer keeps its file.
    pub async fn revoke(self, id: &str) -> Result<Option<DownloadLinkRecord>> {
        let now = self.0.now();
        let sql = format!(
            "UPDATE download_links SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1 RETURNING {LINK_COLUMNS}"
        );
        self.0
            .with_tx(async |tx| {
                let rows = tx.fetch(&sql, &args![id, now]).await?;
                // The sweep deletes references that have ended.
                tx.execute("UPDATE artifact_refs SET until = $2 WHERE holder = $1", &args![link_holder(id), now])
                    .await?;
                Ok(TxOutcome::Commit(rows.first().map(link_from_row).transpose()?))
            })
            .await
    }

    /// Finds a link by its id.
    pub async fn find(self, id: &str) -> Result<Option<DownloadLinkRecord>> {
        let sql = format!("SELECT {LINK_COLUMNS} FROM download_links WHERE id = $1");
        self.0.fetch_optional(&sql, &args![id]).await?.as_ref().map(link_from_row).transpose()
    }

    /// Lists the links to a file, oldest first.
    pub async fn list(self, artifact: &str) -> Result<Vec<DownloadLinkRecord>> {
        let sql = format!("SELECT {LINK_COLUMNS} FROM download_links WHERE artifact_id = $1 ORDER BY created_at, id");
        self.0.fetch(&sql, &args![artifact]).await?.iter().map(link_from_row).collect()
    }

    /// Counts a download through a link.
    pub async fn count_download(self, id: &str) -> Result<()> {
        let sql = "UPDATE download_links SET downloads = downloads + 1, last_download_at = $2 WHERE id = $1";
        self.0.execute(sql, &args![id, self.0.now()]).await.map(drop)
    }
}
