//! The followers in chunks, found one behind the other.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use afterload_core::error::Result;
use afterload_target_db::{Connection, KeyRange, RecipientQuery};

/// Where a chunk ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChunkBound {
    /// The key of the last one.
    pub key: Value,
    /// How many people the chunk had when it was found.
    pub people: u64,
}

/// Finds the chunks behind a key, each by a range of the index; only that of the last one is read more than once.
pub struct ChunkFinder<'a> {
    connection: &'a Connection,
    people: &'a RecipientQuery,
    length: u64,
    after: Option<Value>,
    finished: bool,
}

impl<'a> ChunkFinder<'a> {
    /// Chunks of `length` people, of those behind `after`.
    pub fn new(connection: &'a Connection, people: &'a RecipientQuery, length: u64, after: Option<Value>) -> Self {
        Self { connection, people, length, after, finished: false }
    }

    /// The next one; only the last one may be shorter.
    pub async fn next_chunk(&mut self, stop: &CancellationToken) -> Result<Option<ChunkBound>> {
        let Self { connection, people, length, .. } = *self;
        while !self.finished {
            let rest = KeyRange { after: self.after.clone(), until: None };
            let mut end = ChunkBound { key: Value::Null, people: length };
            let mut key = people.key_at(connection, &rest, length, stop).await?;
            if key.is_none() {
                end.people = people.count_in_range(connection, &rest, stop).await?;
                if end.people > 0 {
                    key = people.key_at(connection, &rest, end.people, stop).await?;
                }
                // Otherwise somebody has left between the two.
                self.finished = key.is_some() || end.people == 0;
            }
            if let Some(key) = key {
                self.after = Some(key.clone());
                return Ok(Some(ChunkBound { key, ..end }));
            }
        }
        Ok(None)
    }
}
