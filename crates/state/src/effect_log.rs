//! The effect log: effects on the outside that a retry must not knowingly repeat.

use super::db::Db;
use super::sql_args::args;
use afterload_core::error::Result;

/// The detail is null while the outcome is unknown.
const SELECT_EFFECT_DETAIL: &str = "SELECT detail FROM effect_log WHERE run_id = $1 AND step_id = $2 AND effect = $3";

/// Reads and writes the effect log.
#[derive(Clone, Copy)]
pub struct EffectLogStore<'a>(pub(super) &'a Db);

impl EffectLogStore<'_> {
    /// Finds the entry of an effect. Returns `None` if it was never tried, and `Some(None)` if its outcome is unknown.
    pub async fn find(self, run: &str, step: &str, effect: &str) -> Result<Option<Option<serde_json::Value>>> {
        let row = self.0.fetch_optional(SELECT_EFFECT_DETAIL, &args![run, step, effect]).await?;
        row.map(|row| row.get_json("detail")).transpose()
    }

    /// Records that an effect is about to be tried. Returns `None` if it was never tried before, otherwise the entry.
    /// The detail of the entry is `None` while the outcome is unknown.
    pub async fn begin(self, run: &str, step: &str, effect: &str) -> Result<Option<Option<serde_json::Value>>> {
        let mut tx = self.0.begin().await?;
        let fresh = tx
            .execute(
                "INSERT INTO effect_log (run_id, step_id, effect, state, updated_at) VALUES ($1, $2, $3, 'started', $4)
                 ON CONFLICT (run_id, step_id, effect) DO NOTHING",
                &args![run, step, effect, self.0.now()],
            )
            .await?;
        let known = match fresh {
            1 => None,
            _ => {
                let rows = tx.fetch(SELECT_EFFECT_DETAIL, &args![run, step, effect]).await?;
                Some(rows.first().map(|row| row.get_json("detail")).transpose()?.flatten())
            }
        };
        tx.commit().await?;
        Ok(known)
    }

    /// Records that an effect is done.
    pub async fn finish(self, run: &str, step: &str, effect: &str, detail: &serde_json::Value) -> Result<()> {
        let sql = "UPDATE effect_log SET state = 'done', detail = $4, updated_at = $5
                   WHERE run_id = $1 AND step_id = $2 AND effect = $3";
        self.0.execute(sql, &args![run, step, effect, detail, self.0.now()]).await.map(drop)
    }

    /// Deletes the entry of an effect that certainly did not happen.
    pub async fn delete(self, run: &str, step: &str, effect: &str) -> Result<()> {
        let sql = "DELETE FROM effect_log WHERE run_id = $1 AND step_id = $2 AND effect = $3 AND state = 'started'";
        self.0.execute(sql, &args![run, step, effect]).await.map(drop)
    }
}
