//! Chooses the size of the next chunk, so that other writers wait only briefly for its locks.

use std::time::Duration;

/// The target time for which a chunk holds its locks.
const TARGET_CHUNK_TIME: Duration = Duration::from_millis(50);
const FIRST_CHUNK_ROWS: u64 = 100;

pub fn first_chunk_rows(most: u64) -> u64 {
    FIRST_CHUNK_ROWS.min(most)
}

/// Returns the size of the next chunk after one of `rows` that held its locks for `held`. A slow chunk shrinks the size
/// at once. A fast chunk grows it by half only, because the next rows may be slower.
pub fn next_chunk_rows(rows: u64, held: Duration, most: u64) -> u64 {
    let fitting = rows as f64 * TARGET_CHUNK_TIME.as_secs_f64() / held.as_secs_f64().max(1e-6);
    let grown = (rows as f64 * 1.5).ceil();
    (fitting.min(grown) as u64).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_size_grows_slowly_and_shrinks_at_once() {
        let millis = Duration::from_millis;
        assert_eq!([first_chunk_rows(10_000), first_chunk_rows(7)], [100, 7]);
        assert_eq!(next_chunk_rows(100, millis(1), 10_000), 150);
        assert_eq!(next_chunk_rows(1, Duration::ZERO, 10_000), 2);
        assert_eq!(next_chunk_rows(1_000, millis(45), 10_000), 1_111);
        assert_eq!(next_chunk_rows(1_000, millis(500), 10_000), 100);
        assert_eq!(next_chunk_rows(9_000, millis(10), 10_000), 10_000);
        assert_eq!(next_chunk_rows(3, Duration::from_secs(60), 10_000), 1);
    }
}
