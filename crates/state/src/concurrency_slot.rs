//! The concurrency slot of a run, as the row of the run holds it.

use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// The place of a run among those that it counts together with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencySlot {
    /// Which runs count together.
    pub key: String,
    /// How many of them may be under way.
    pub limit: u32,
    /// Those before it have to make room.
    pub supersedes: bool,
    /// Who came first; `None`: its time has not come yet.
    pub queue_position: Option<i64>,
    /// Since when it waits for room; `None`: it is under way.
    pub waiting_since: Option<UnixMillis>,
}

/// What [`slot_from_row`] reads.
pub(super) const CONCURRENCY_COLUMNS: &str =
    "concurrency_key, concurrency_limit, supersedes, queue_position, waiting_since";

pub(super) fn slot_from_row(row: &DbRow) -> Result<Option<ConcurrencySlot>> {
    let Some(key) = row.get_opt_text("concurrency_key")? else { return Ok(None) };
    Ok(Some(ConcurrencySlot {
        key,
        limit: row.get_u32("concurrency_limit")?,
        supersedes: row.get_int("supersedes")? == 1,
        queue_position: row.get_opt_int("queue_position")?,
        waiting_since: row.get_opt_int("waiting_since")?,
    }))
}
