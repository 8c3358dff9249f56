//! Polls: which process looks at a prefix, and what it need not look at again.

use super::db::{Db, Row, args};
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;

/// A poll that this process has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// When the trigger was first seen.
    pub since: Millis,
    /// When the last complete look began.
    pub passed_at: Option<Millis>,
}

fn poll(row: &Row) -> Result<Poll> {
    Ok(Poll { since: row.int("since")?, passed_at: row.opt_int("passed_at")? })
}

impl Db {
    /// Claims a poll for `holder`, for `lease` milliseconds, if it is due every `period` milliseconds and nobody holds
    /// it. `since` counts when it is claimed for the first time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_poll(
        &self,
        id: &str,
        since: Millis,
        period: Millis,
        holder: &str,
        lease: Millis,
    ) -> Result<Option<Poll>> {
        let now = clock::now();
        let mut tx = self.begin().await?;
        tx.execute("INSERT INTO polls (id, since) VALUES ($1, $2) ON CONFLICT DO NOTHING", &args![id, since]).await?;
        let sql = "UPDATE polls SET holder = $2, held_until = $3
                   WHERE id = $1 AND held_until < $4 AND (passed_at IS NULL OR passed_at <= $5)
                   RETURNING since, passed_at";
        let rows = tx.fetch(sql, &args![id, holder, now + lease, now, now - period]).await?;
        let claimed = rows.first().map(poll).transpose()?;
        tx.commit().await?;
        Ok(claimed)
    }

    /// Keeps a claim for `lease` milliseconds more. False if it is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn keep_poll(&self, id: &str, holder: &str, lease: Millis) -> Result<bool> {
        let sql = "UPDATE polls SET held_until = $3 WHERE id = $1 AND holder = $2";
        Ok(self.execute(sql, &args![id, holder, clock::now() + lease]).await? == 1)
    }

    /// Gives a claim back: after a complete look with the time when it began, after a failed one with a pause.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_poll(&self, id: &str, holder: &str, passed_at: Option<Millis>, pause: Millis) -> Result<()> {
        let sql = "UPDATE polls SET passed_at = COALESCE($3, passed_at), held_until = $4, holder = NULL
                   WHERE id = $1 AND holder = $2";
        self.execute(sql, &args![id, holder, passed_at, clock::now() + pause]).await.map(drop)
    }

    /// When the look began after which everything that is polled has been seen; `None` if nothing is polled.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn all_polled_at(&self) -> Result<Option<Millis>> {
        let row = self.fetch_one("SELECT MIN(COALESCE(passed_at, since)) AS oldest FROM polls", &[]).await?;
        row.map_or(Ok(None), |row| row.opt_int("oldest"))
    }

    /// Forgets the polls that nobody has looked after since `before`, but for those in `live`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_polls(&self, before: Millis, live: &[String]) -> Result<()> {
        let sql = "SELECT id FROM polls WHERE COALESCE(passed_at, since) < $1 AND held_until < $1";
        for row in self.fetch(sql, &args![before]).await? {
            let id = row.text("id")?;
            if !live.contains(&id) {
                self.execute("DELETE FROM polls WHERE id = $1", &args![&id]).await?;
            }
        }
        Ok(())
    }
}
