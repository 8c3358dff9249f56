//! How far the schedules of cron triggers have come.

use super::db::Db;
use super::sql_args::args;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// The cursors of cron schedules.
#[derive(Clone, Copy)]
pub struct ScheduleStore<'a>(pub(super) &'a Db);

impl ScheduleStore<'_> {
    /// Up to which time the moments of a schedule have had their runs. One that is new begins at `since`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn load_cursor(self, id: &str, since: UnixMillis) -> Result<UnixMillis> {
        let sql = "SELECT cursor FROM schedules WHERE id = $1";
        if let Some(row) = self.0.fetch_optional(sql, &args![id]).await? {
            return row.get_int("cursor");
        }
        let insert = "INSERT INTO schedules (id, cursor) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.0.execute(insert, &args![id, since]).await?;
        Ok(since)
    }

    /// Forgets the schedules that are not among these: what comes back later has missed nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn retain(self, live: &[String]) -> Result<()> {
        for row in self.0.fetch("SELECT id FROM schedules", &[]).await? {
            let id = row.get_text("id")?;
            if !live.contains(&id) {
                self.0.execute("DELETE FROM schedules WHERE id = $1", &args![&id]).await?;
            }
        }
        Ok(())
    }

    /// Says that the moments of a schedule up to a time have their runs. It never goes back.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn advance_cursor(self, id: &str, time: UnixMillis) -> Result<()> {
        let sql = "UPDATE schedules SET cursor = $2 WHERE id = $1 AND cursor < $2";
        self.0.execute(sql, &args![id, time]).await.map(drop)
    }
}
