//! Polls of buckets: which process scans a prefix, and when it was last scanned.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A poll that this process has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollClaim {
    /// When the trigger was first seen.
    pub since: UnixMillis,
    /// When the last complete scan began.
    pub last_scan_at: Option<UnixMillis>,
}

fn poll_from_row(row: &DbRow) -> Result<PollClaim> {
    Ok(PollClaim { since: row.get_int("since")?, last_scan_at: row.get_opt_int("last_scan_at")? })
}

/// Reads and writes the claims of polls.
#[derive(Clone, Copy)]
pub struct PollStore<'a>(pub(super) &'a Db);

impl PollStore<'_> {
    /// Claims a poll for `holder` for `lease` milliseconds, if no process holds it and its last scan is `period`
    /// milliseconds old. The first claim stores `since`.
    pub async fn claim(
        self,
        id: &str,
        since: UnixMillis,
        period: UnixMillis,
        holder: &str,
        lease: UnixMillis,
    ) -> Result<Option<PollClaim>> {
        let now = self.0.now();
        let mut tx = self.0.begin().await?;
        tx.execute("INSERT INTO poll_claims (id, since) VALUES ($1, $2) ON CONFLICT DO NOTHING", &args![id, since])
            .await?;
        let sql = "UPDATE poll_claims SET holder = $2, lease_until = $3
                   WHERE id = $1 AND lease_until < $4 AND (last_scan_at IS NULL OR last_scan_at <= $5)
                   RETURNING since, last_scan_at";
        let rows = tx.fetch(sql, &args![id, holder, now + lease, now, now - period]).await?;
        let claimed = rows.first().map(poll_from_row).transpose()?;
        tx.commit().await?;
        Ok(claimed)
    }

    /// Renews a claim for `lease` milliseconds. Returns false if the claim is lost.
    pub async fn renew(self, id: &str, holder: &str, lease: UnixMillis) -> Result<bool> {
        let sql = "UPDATE poll_claims SET lease_until = $3 WHERE id = $1 AND holder = $2";
        Ok(self.0.execute(sql, &args![id, holder, self.0.now() + lease]).await? == 1)
    }

    /// Releases a claim. `passed_at` is the start of a complete scan; after a failed scan it is `None`. The next claim
    /// is possible after `pause` milliseconds.
    pub async fn release(self, id: &str, holder: &str, passed_at: Option<UnixMillis>, pause: UnixMillis) -> Result<()> {
        let sql = "UPDATE poll_claims SET last_scan_at = COALESCE($3, last_scan_at), lease_until = $4, holder = NULL
                   WHERE id = $1 AND holder = $2";
        self.0.execute(sql, &args![id, holder, passed_at, self.0.now() + pause]).await.map(drop)
    }

    /// Finds the oldest start among the last scans of all polls; `None` if there are no polls. All older objects have
    /// been seen.
    pub async fn find_oldest_scan(self) -> Result<Option<UnixMillis>> {
        let row =
            self.0.fetch_optional("SELECT MIN(COALESCE(last_scan_at, since)) AS oldest FROM poll_claims", &[]).await?;
        row.map_or(Ok(None), |row| row.get_opt_int("oldest"))
    }

    /// Deletes the polls that no process has scanned since `before`, except those in `live`.
    pub async fn delete_stale(self, before: UnixMillis, live: &[String]) -> Result<()> {
        let sql = "SELECT id FROM poll_claims WHERE COALESCE(last_scan_at, since) < $1 AND lease_until < $1";
        for row in self.0.fetch(sql, &args![before]).await? {
            let id = row.get_text("id")?;
            if !live.contains(&id) {
                self.0.execute("DELETE FROM poll_claims WHERE id = $1", &args![&id]).await?;
            }
        }
        Ok(())
    }
}
