//! Cursors of cron schedules: up to which time the ticks have their runs.

use super::db::Db;
use super::sql_args::args;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// Reads and writes the cursors of cron schedules.
#[derive(Clone, Copy)]
pub struct ScheduleStore<'a>(pub(super) &'a Db);

impl ScheduleStore<'_> {
    /// Loads the time up to which the ticks of a schedule have their runs. A new schedule begins at `since`.
    pub async fn load_cursor(self, id: &str, since: UnixMillis) -> Result<UnixMillis> {
        let sql = "SELECT cursor FROM schedules WHERE id = $1";
        if let Some(row) = self.0.fetch_optional(sql, &args![id]).await? {
            return row.get_int("cursor");
        }
        let insert = "INSERT INTO schedules (id, cursor) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.0.execute(insert, &args![id, since]).await?;
        Ok(since)
    }

    /// Deletes the schedules that are not in `live`. A schedule that comes back later has missed no ticks.
    pub async fn retain(self, live: &[String]) -> Result<()> {
        for row in self.0.fetch("SELECT id FROM schedules", &[]).await? {
            let id = row.get_text("id")?;
            if !live.contains(&id) {
                self.0.execute("DELETE FROM schedules WHERE id = $1", &args![&id]).await?;
            }
        }
        Ok(())
    }

    /// Advances the cursor of a schedule to `time`. A cursor never goes back.
    pub async fn advance_cursor(self, id: &str, time: UnixMillis) -> Result<()> {
        let sql = "UPDATE schedules SET cursor = $2 WHERE id = $1 AND cursor < $2";
        self.0.execute(sql, &args![id, time]).await.map(drop)
    }
}
