//! Rate limits: when steps with a `rate_limit` may start. Each key has a row.
//!
//! The start of a step takes two statements. A *reservation* spreads the waiting steps: each reserves the next free
//! moment and comes back then. A step may be late for its reservation, so the *start* itself keeps starts apart: it is
//! refused while the last start is too near. Mails take several starts at once, so that not each of them needs a statement.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbTx;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A request for several starts of a key.
#[derive(Clone, Copy, Debug)]
pub struct StartRequest {
    /// The time between two starts, in milliseconds.
    pub interval: i64,
    /// How many starts.
    pub count: u32,
    /// The caller has reserved them before, so that no other reservation comes first.
    pub reserved: bool,
}

/// Reads and writes the rate limits of steps.
#[derive(Clone, Copy)]
pub struct RateLimitStore<C>(pub(super) C);

impl RateLimitStore<&mut DbTx> {
    /// Finds the reserved start of a claimed step. The outer `None` means that the claim is lost.
    pub async fn find_reserved_start(self, step: &str, claim: i64) -> Result<Option<Option<UnixMillis>>> {
        let sql = "SELECT reserved_start_at FROM step_runs WHERE id = $1 AND claims = $2 AND status = 'running'";
        self.0
            .fetch(sql, &args![step, claim])
            .await?
            .first()
            .map(|row| row.get_opt_int("reserved_start_at"))
            .transpose()
    }

    /// Reserves the next free moment of a key, `now` or later. The moment after it is free `interval` milliseconds
    /// later.
    pub async fn reserve_start(self, key: &str, now: UnixMillis, interval: i64) -> Result<UnixMillis> {
        self.reserve_starts(key, now, interval, 1).await
    }

    /// Reserves the next `count` free moments of a key, `interval` milliseconds apart, and returns the first of them.
    pub async fn reserve_starts(self, key: &str, now: UnixMillis, interval: i64, count: u32) -> Result<UnixMillis> {
        let sql = "INSERT INTO rate_limits (key, next_at, last_at) VALUES ($1, $2 + $3, 0)
                   ON CONFLICT (key) DO UPDATE SET next_at = $3 +
                       CASE WHEN rate_limits.next_at > $2 THEN rate_limits.next_at ELSE $2 END
                   RETURNING next_at";
        let length = interval.saturating_mul(count.into());
        let rows = self.0.fetch(sql, &args![key, now, length]).await?;
        let next = rows.first().map_or(Ok(now + length), |row| row.get_int("next_at"))?;
        Ok(next - length)
    }

    /// Takes the next `count` moments of a key for starts, `interval` milliseconds apart, if the first of them is at most
    /// `lead` milliseconds ahead. Returns the first one. It comes `interval` milliseconds after the last moment that was
    /// taken; without `reserved` also after all reservations.
    pub async fn take_starts(
        self,
        key: &str,
        now: UnixMillis,
        starts: StartRequest,
        lead: i64,
    ) -> Result<Option<UnixMillis>> {
        let StartRequest { interval, count, reserved } = starts;
        let free = match reserved {
            true => "$2",
            false => "CASE WHEN rate_limits.next_at > $2 THEN rate_limits.next_at ELSE $2 END",
        };
        let first =
            format!("CASE WHEN rate_limits.last_at + $3 > {free} THEN rate_limits.last_at + $3 ELSE {free} END");
        let sql = format!(
            "INSERT INTO rate_limits (key, next_at, last_at) VALUES ($1, $2 + $4 + $3, $2 + $4)
             ON CONFLICT (key) DO UPDATE SET last_at = {first} + $4,
                 next_at = CASE WHEN rate_limits.next_at > {first} + $4 + $3 THEN rate_limits.next_at
                     ELSE {first} + $4 + $3 END
             WHERE {first} <= $2 + $5
             RETURNING last_at"
        );
        let to_last = interval.saturating_mul((count.max(1) - 1).into());
        let rows = self.0.fetch(&sql, &args![key, now, interval, to_last, lead]).await?;
        rows.first().map(|row| Ok(row.get_int("last_at")? - to_last)).transpose()
    }

    /// Records a start at `now`, unless the last start was less than `interval` milliseconds ago. In that case returns
    /// the earliest time for a start.
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

    /// Records the reserved start of a claimed step. A step without a recorded start counts as not started.
    pub async fn record_reserved_start(self, step: &str, claim: i64, slot: UnixMillis) -> Result<()> {
        let sql = "UPDATE step_runs SET reserved_start_at = $3, started_at = CASE WHEN rate_limited_starts = 0 THEN NULL ELSE started_at END
                   WHERE id = $1 AND claims = $2";
        self.0.execute(sql, &args![step, claim, slot]).await.map(drop)
    }

    /// Records that a claimed step has started.
    pub async fn record_start(self, step: &str, claim: i64, now: UnixMillis) -> Result<()> {
        let sql = "UPDATE step_runs SET reserved_start_at = NULL, rate_limited_starts = rate_limited_starts + 1,
                   started_at = CASE WHEN rate_limited_starts = 0 THEN $3 ELSE started_at END WHERE id = $1 AND claims = $2";
        self.0.execute(sql, &args![step, claim, now]).await.map(drop)
    }
}

impl RateLimitStore<&Db> {
    /// Deletes the keys that no step has used since `before`. Returns how many it deleted.
    pub async fn delete_unused(self, before: UnixMillis) -> Result<u64> {
        self.0.execute("DELETE FROM rate_limits WHERE next_at < $1 AND last_at < $1", &args![before]).await
    }
}
