//! The cursor of an import. It is committed with every chunk, and its counts become the outputs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chunk::ImportChunk;
use afterload_core::units::group_digits;
use afterload_step_api::{ProgressCounts, ProgressUpdate};
use afterload_target_db::LoadOutcome;

/// The maximum number of error kinds that are counted separately.
const MAX_FAULT_KINDS: usize = 100;

/// The state of an import. The number of rows is `inserted + updated + skipped + rejected`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImportCursor {
    /// The offset of the next record in the UTF-8 text. For UTF-8 files, it equals the offset in the file.
    pub offset: u64,
    /// The line of the next record.
    pub line: u64,
    /// Bytes of the file that have been read so far.
    pub read: u64,
    /// Rows that have been read.
    pub rows: u64,
    /// Rows that were inserted.
    pub inserted: u64,
    /// Rows that updated existing ones.
    pub updated: u64,
    /// Rows that were skipped.
    pub skipped: u64,
    /// Rows that were rejected. This is also the number of the last reject.
    pub rejected: u64,
    /// Faults by `column.code`, or by `code` if the whole row is wrong. A row may have several.
    pub faults: BTreeMap<String, u64>,
    /// Blank rows that were left out. They do not count as rows.
    #[serde(default)]
    pub blank: u64,
    /// Whether the file has more rows than the import may read.
    #[serde(default)]
    pub cut: bool,
    /// Whether the import is complete.
    pub finished: bool,
}

impl ImportCursor {
    /// The cursor after a chunk.
    pub fn advance_past(&self, chunk: &ImportChunk, outcome: &LoadOutcome) -> Self {
        let mut next = self.clone();
        (next.offset, next.line, next.read, next.finished) = (chunk.offset, chunk.line, chunk.read, chunk.last);
        next.cut = chunk.cut;
        next.blank += chunk.blank;
        next.rows += chunk.row_count();
        next.inserted += outcome.inserted;
        next.updated += outcome.updated;
        next.skipped += outcome.skipped;
        next.rejected += (chunk.rejects.len() + outcome.refused.len()) as u64;
        for reject in &chunk.rejects {
            reject.fault_kinds.iter().for_each(|kind| next.count_fault(kind));
        }
        for refusal in &outcome.refused {
            next.count_fault(&fault_kind(&refusal.column, refusal.code.name()));
        }
        next
    }

    /// Counts the rows that were written and undone as skipped.
    pub fn undo_writes(&mut self) {
        self.skipped += std::mem::take(&mut self.inserted) + std::mem::take(&mut self.updated);
    }

    fn count_fault(&mut self, kind: &str) {
        if self.faults.len() < MAX_FAULT_KINDS || self.faults.contains_key(kind) {
            *self.faults.entry(kind.to_owned()).or_default() += 1;
        }
    }

    /// Whether the rejected share is larger than `share`. It is never checked before row 1,000.
    pub fn too_many_rejects(&self, share: f64) -> bool {
        self.rows >= 1000 && self.rejected as f64 > self.rows as f64 * share
    }

    /// Converts the cursor to progress in bytes, because the number of rows is unknown until the end.
    pub fn to_progress_update(&self, size: u64) -> ProgressUpdate {
        let counts = [
            ("rows", self.rows),
            ("inserted", self.inserted),
            ("updated", self.updated),
            ("skipped", self.skipped),
            ("rejected", self.rejected),
        ];
        ProgressUpdate {
            done: if self.finished { size } else { self.read.min(size) },
            total: Some(size),
            unit: "bytes".into(),
            message: Some(format!("{} rows", group_digits(self.rows))),
            counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect::<ProgressCounts>(),
        }
    }
}

/// Returns `column.code`, or `code` if no single column is at fault.
fn fault_kind(column: &str, code: &str) -> String {
    if column.is_empty() { code.to_owned() } else { format!("{column}.{code}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_applies_from_row_1000() {
        let at = |rows, rejected| ImportCursor { rows, rejected, ..ImportCursor::default() }.too_many_rejects(0.05);
        assert_eq!([at(999, 999), at(1000, 50), at(1000, 51)], [false, false, true]);
    }

    #[test]
    fn undone_rows_count_as_skipped() {
        let mut cursor = ImportCursor { inserted: 5, updated: 2, skipped: 1, ..ImportCursor::default() };
        cursor.undo_writes();
        assert_eq!((cursor.inserted, cursor.updated, cursor.skipped), (0, 0, 8));
    }

    #[test]
    fn progress_reports_bytes_and_rows() {
        let cursor = ImportCursor { read: 70, rows: 1_234_567, ..ImportCursor::default() };
        let report = cursor.to_progress_update(100);
        assert_eq!((report.done, report.total, report.message.as_deref()), (70, Some(100), Some("1,234,567 rows")));
        assert_eq!(ImportCursor { finished: true, ..cursor }.to_progress_update(100).done, 100);
    }
}
