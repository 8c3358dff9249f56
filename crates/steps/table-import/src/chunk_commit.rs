//! What is committed with a chunk: the cursor, and the rejected rows in the order of the file.

use super::chunk::ImportChunk;
use super::cursor::ImportCursor;
use super::rejects::{RejectFormat, RejectInfo};
use afterload_target_db::{ChunkCommit, LoadOutcome, RejectedRow};

/// Builds the data that is committed with a chunk: the new cursor, and the rejects in the order of the file.
pub fn build_chunk_commit(
    before: &ImportCursor,
    chunk: &ImportChunk,
    outcome: &LoadOutcome,
    format: &RejectFormat,
    max: u64,
) -> ChunkCommit {
    let cursor = before.advance_past(chunk, outcome);
    let room = max.saturating_sub(before.rejected) as usize;
    let mut refused = outcome.refused.iter().map(|refusal| (&chunk.accepted[refusal.row], refusal)).peekable();
    let mut broken = chunk.rejects.iter().peekable();
    let mut rejects = Vec::new();
    while rejects.len() < room {
        let from_rules = match (broken.peek(), refused.peek()) {
            (None, None) => break,
            (Some(broken), Some((origin, _))) => broken.row < origin.row,
            (broken, _) => broken.is_some(),
        };
        let line = if from_rules {
            broken.next().map(|rejected| rejected.text.clone())
        } else {
            refused.next().map(|(origin, refusal)| {
                let (code, message) = (refusal.code, refusal.message.as_str());
                let column = refusal.column.as_str();
                let place = RejectInfo { row: origin.row, line: origin.line, column, code, message };
                format.reject_line(chunk.original_fields(origin), &place)
            })
        };
        let seq = before.rejected as i64 + rejects.len() as i64 + 1;
        rejects.extend(line.map(|line| RejectedRow { seq, line }));
    }
    let text = serde_json::to_string(&cursor).unwrap_or_default();
    ChunkCommit { cursor: text, rejects, finished: cursor.finished }
}
