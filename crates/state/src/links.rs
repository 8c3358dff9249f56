//! Links to files, as mails carry them.

use super::db::{Db, Row, Tx, args};
use super::group::Verdict;
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;

/// A link to a file.
#[derive(Clone, Debug)]
pub struct LinkRecord {
    /// The id, which its token holds.
    pub id: String,
    /// The file.
    pub artifact_id: String,
    /// The run whose step made it.
    pub run_id: String,
    /// The step that made it.
    pub step_id: String,
    /// When it was made.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Millis,
    /// When somebody took it back.
    pub revoked_at: Option<Millis>,
    /// How often the file has been fetched through it.
    pub downloads: i64,
    /// When it was last fetched.
    pub last_download_at: Option<Millis>,
}

const COLUMNS: &str =
    "id, artifact_id, run_id, step_id, created_at, expires_at, revoked_at, downloads, last_download_at";

fn link(row: &Row) -> Result<LinkRecord> {
    Ok(LinkRecord {
        id: row.text("id")?,
        artifact_id: row.text("artifact_id")?,
        run_id: row.text("run_id")?,
        step_id: row.text("step_id")?,
        created_at: row.int("created_at")?,
        expires_at: row.int("expires_at")?,
        revoked_at: row.opt_int("revoked_at")?,
        downloads: row.int("downloads")?,
        last_download_at: row.opt_int("last_download_at")?,
    })
}

fn holder(id: &str) -> String {
    format!("link:{id}")
}

impl Tx {
    /// Stores a link, or lets one that is there live longer, and keeps its file as long. False if there is no such file
    /// any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn keep_link(&mut self, new: &LinkRecord) -> Result<bool> {
        if !self.hold_artifact(&new.artifact_id).await? {
            return Ok(false);
        }
        let sql = "INSERT INTO links (id, artifact_id, run_id, step_id, created_at, expires_at)
                   VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
                   WHERE links.expires_at < excluded.expires_at";
        let LinkRecord { id, artifact_id, run_id, step_id, created_at, expires_at, .. } = new;
        self.execute(sql, &args![id, artifact_id, run_id, step_id, *created_at, *expires_at]).await?;
        let sql = "INSERT INTO artifact_refs (artifact_id, holder, until)
                   SELECT artifact_id, $2, expires_at FROM links WHERE id = $1 AND revoked_at IS NULL
                   ON CONFLICT (artifact_id, holder) DO UPDATE SET until = excluded.until";
        self.execute(sql, &args![id, holder(id)]).await?;
        Ok(true)
    }
}

impl Db {
    /// Takes a link back; gives it, unless there is none. Its file is no longer kept for its sake.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn revoke_link(&self, id: &str) -> Result<Option<LinkRecord>> {
        let now = clock::now();
        let sql = format!("UPDATE links SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1 RETURNING {COLUMNS}");
        self.write(async |tx| {
            let rows = tx.fetch(&sql, &args![id, now]).await?;
            // The sweep lets go of what has ended.
            tx.execute("UPDATE artifact_refs SET until = $2 WHERE holder = $1", &args![holder(id), now]).await?;
            Ok(Verdict::Keep(rows.first().map(link).transpose()?))
        })
        .await
    }

    /// One link.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn link(&self, id: &str) -> Result<Option<LinkRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM links WHERE id = $1");
        self.fetch_one(&sql, &args![id]).await?.as_ref().map(link).transpose()
    }

    /// The links to a file, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn links(&self, artifact: &str) -> Result<Vec<LinkRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM links WHERE artifact_id = $1 ORDER BY created_at, id");
        self.fetch(&sql, &args![artifact]).await?.iter().map(link).collect()
    }

    /// Counts a download.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_download(&self, id: &str) -> Result<()> {
        let sql = "UPDATE links SET downloads = downloads + 1, last_download_at = $2 WHERE id = $1";
        self.execute(sql, &args![id, clock::now()]).await.map(drop)
    }
}
