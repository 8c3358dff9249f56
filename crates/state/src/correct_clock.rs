//! Keeps the clock of this process on the time of the state database, which all processes share.
//!
//! The machines of the processes may disagree about the time, but leases, due times and retention are compared across
//! processes. So each process corrects its clock by what the database says, and every statement gets its time from
//! that clock. SQLite runs in this process and asks the same clock of the machine.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::Db;
use crate::clock_offset::ClockOffset;
use afterload_core::error::Result;

/// The only statement that asks a database for the time.
const SELECT_DATABASE_TIME: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
/// How many round trips one measurement makes. The shortest counts.
const ROUND_TRIPS: u32 = 3;

impl Db {
    /// Corrects the clock by the time of the database. A process calls this at its start and then every
    /// [`Self::CORRECT_CLOCK_INTERVAL`].
    pub async fn correct_clock(&self) -> Result<()> {
        let Some(measured) = self.measure_clock_offset().await? else { return Ok(()) };
        let mut known = self.clock_offset.lock().unwrap_or_else(PoisonError::into_inner);
        if measured.is_better_than(*known) {
            let before = known.replace(measured).map_or(0, |known| known.offset_ms);
            if before != measured.offset_ms {
                tracing::info!(offset_ms = measured.offset_ms, "the clock is corrected by that of the database");
                self.clock().correct_by(measured.offset_ms);
            }
        }
        Ok(())
    }

    /// How often the clock is to be corrected.
    pub const CORRECT_CLOCK_INTERVAL: Duration = Duration::from_secs(60);

    /// Measures the offset of PostgreSQL; `None` on SQLite.
    async fn measure_clock_offset(&self) -> Result<Option<ClockOffset>> {
        let Some(pool) = self.postgres_pool() else { return Ok(None) };
        // The wait for a connection is no part of the round trip.
        let mut connection = pool.acquire().await?;
        let mut best: Option<ClockOffset> = None;
        for _ in 0..ROUND_TRIPS {
            let begun = Instant::now();
            let told = sqlx::query_scalar(SELECT_DATABASE_TIME).fetch_one(&mut *connection).await?;
            let measured = ClockOffset::from_round_trip(told, self.clock().uncorrected_now(), begun.elapsed());
            if best.is_none_or(|best| measured.max_error_ms < best.max_error_ms) {
                best = Some(measured);
            }
        }
        Ok(best)
    }
}
