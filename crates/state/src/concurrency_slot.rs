//! The concurrency slot of a run, stored in the row of the run.

use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// The concurrency slot of a run, or its position while it waits for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencySlot {
    /// The concurrency key. Runs with the same key count together.
    pub key: String,
    /// How many runs with this key may be active.
    pub limit: u32,
    /// The run cancels earlier runs of its key that are in its way.
    pub supersedes: bool,
    /// The position in the queue for slots; `None` before the time of the run has come.
    pub queue_position: Option<i64>,
    /// When the run began to wait for a slot; `None` if it is active.
    pub waiting_since: Option<UnixMillis>,
}

/// The columns that [`slot_from_row`] reads.
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
