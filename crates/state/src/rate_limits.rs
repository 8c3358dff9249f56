//! When steps with a `rate_limit` may start: a row for each key.
//!
//! A start takes two statements. A *slot* spreads those that wait: each takes the next free moment and comes back then.
//! A step may be late for its slot, so what really keeps starts apart is the *start* itself, which is refused while the
//! one before it is too near.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbTx;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// The reserved starts of steps with a `rate_limit`.
#[derive(Clone, Copy)]
pub struct RateLimitStore<C>(pub(super) C);

impl RateLimitStore<&mut DbTx> {
    /// The slot that a claimed step has taken. The outer `None`: the claim is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find_reserved_start(self, step: &str, claim: i64) -> Result<Option<Option<UnixMillis>>> {
        let sql = "SELECT reserved_start_at FROM step_runs WHERE id = $1 AND claims = $2 AND status = 'running'";
        self.0
            .fetch(sql, &args![step, claim])
            .await?
            .first()
            .map(|row| row.get_opt_int("reserved_start_at"))
            .transpose()
    }

    /// Takes the next free moment of a key, `now` or later; the one after it is free `interval` milliseconds later.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn reserve_start(self, key: &str, now: UnixMillis, interval: i64) -> Result<UnixMillis> {
        let sql = "INSERT INTO rate_limits (key, next_at, last_at) VALUES ($1, $2 + $3, 0)
                   ON CONFLICT (key) DO UPDATE SET next_at = $3 +
                       CASE WHEN rate_limits.next_at > $2 THEN rate_limits.next_at ELSE $2 END
                   RETURNING next_at";
        let rows = self.0.fetch(sql, &args![key, now, interval]).await?;
        let next = rows.first().map_or(Ok(now + interval), |row| row.get_int("next_at"))?;
        Ok(next - interval)
    }

    /// Starts now, unless the start before was less than `interval` milliseconds ago: then gives when the time has come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn try_start_now(self, key: &str, now: UnixMillis, interval: i64) -> Result<Option<UnixMillis>> {
        let sql = "INSERT INTO rate_limits (key, next_at, last_at) VALUES ($1, $2 + $3, $2)
                   ON CONFLICT (key) DO UPDATE SET last_at = $2,
                       next_at = CASE WHEN rate_limits.next_at > $2 + $3 THEN rate_limits.next_at ELSE $2 + $3 END
                   WHERE rate_limits.last_at + $3 <= $2";
        if self.0.execute(sql, &args![key, now, interval]).await? == 1 {
            return Ok(None);
        }
        let rows = self.0.fetch("SELECT last_at FROM rate_limits WHERE key = $1", &args![key]).await?;
        let last = rows.first().map_or(Ok(now), |row| row.get_int("last_at"))?;
        Ok(Some(last + interval))
    }

    /// Says that a claimed step waits for its slot. One that never started in a slot has not started at all.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_reserved_start(self, step: &str, claim: i64, slot: UnixMillis) -> Result<()> {
        let sql = "UPDATE step_runs SET reserved_start_at = $3, started_at = CASE WHEN rate_limited_starts = 0 THEN NULL ELSE started_at END
                   WHERE id = $1 AND claims = $2";
        self.0.execute(sql, &args![step, claim, slot]).await.map(drop)
    }

    /// Says that a claimed step has started in its slot.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_start(self, step: &str, claim: i64, now: UnixMillis) -> Result<()> {
        let sql = "UPDATE step_runs SET reserved_start_at = NULL, rate_limited_starts = rate_limited_starts + 1,
                   started_at = CASE WHEN rate_limited_starts = 0 THEN $3 ELSE started_at END WHERE id = $1 AND claims = $2";
        self.0.execute(sql, &args![step, claim, now]).await.map(drop)
    }
}

impl RateLimitStore<&Db> {
    /// Forgets the keys that nobody has used since a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_unused(self, before: UnixMillis) -> Result<u64> {
        self.0.execute("DELETE FROM rate_limits WHERE next_at < $1 AND last_at < $1", &args![before]).await
    }
}
