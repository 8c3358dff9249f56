//! The delivery log: which recipients a step has notified, and which it cannot reach.

use super::db::Db;
use super::sql_args::{SqlArgs, args};
use afterload_core::error::Result;

/// The maximum of placeholders in one statement. Both databases allow many more.
const MAX_QUERY_PEOPLE: usize = 1_000;

/// Reads and writes the delivery log of fan-out steps.
#[derive(Clone, Copy)]
pub struct DeliveryLogStore<'a>(pub(super) &'a Db);

impl DeliveryLogStore<'_> {
    /// Returns those of the people whose deliveries have ended.
    pub async fn list_ended(self, run: &str, step: &str, people: &[String]) -> Result<Vec<String>> {
        let mut known = Vec::new();
        for people in people.chunks(MAX_QUERY_PEOPLE) {
            let mut args = SqlArgs::default();
            let (run, step, people) = (args.add(run), args.add(step), args.add_list(people));
            let sql = format!(
                "SELECT person FROM delivery_log WHERE run_id = {run} AND step_id = {step} AND person IN ({people})"
            );
            for row in self.0.fetch(&sql, args.as_slice()).await? {
                known.push(row.get_text("person")?);
            }
        }
        Ok(known)
    }

    /// Records the end of a delivery. `failure` is the error code of a delivery that is not possible.
    pub async fn record(
        self,
        run: &str,
        step: &str,
        (person, reason): (&str, &str),
        failure: Option<&str>,
    ) -> Result<()> {
        let sql = "INSERT INTO delivery_log (run_id, step_id, person, reason, failure, ended_at)
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
        self.0.execute(sql, &args![run, step, person, reason, failure, self.0.now()]).await.map(drop)
    }

    /// Counts the deliveries of a step that succeeded and those that failed.
    pub async fn count(self, run: &str, step: &str) -> Result<(u64, u64)> {
        let sql =
            "SELECT COUNT(*) AS ended, COUNT(failure) AS failed FROM delivery_log WHERE run_id = $1 AND step_id = $2";
        let Some(row) = self.0.fetch_optional(sql, &args![run, step]).await? else { return Ok((0, 0)) };
        let (ended, failed) = (row.get_int("ended")?.unsigned_abs(), row.get_int("failed")?.unsigned_abs());
        Ok((ended - failed, failed))
    }
}
