//! Finds the chunks of the followers one after another.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use afterload_core::error::Result;
use afterload_target_db::{Connection, KeyRange, RecipientQuery};

/// The end of a chunk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChunkBound {
    /// The key of the last recipient.
    pub key: Value,
    /// The number of recipients when the chunk was found.
    pub people: u64,
}

/// Finds the chunks after a key. Each chunk is one range scan of the index; only the last range is read more than once.
pub struct ChunkFinder<'a> {
    connection: &'a Connection,
    people: &'a RecipientQuery,
    length: u64,
    after: Option<Value>,
    finished: bool,
}

impl<'a> ChunkFinder<'a> {
    /// Finds chunks of `length` recipients, starting after the key `after`.
    pub fn new(connection: &'a Connection, people: &'a RecipientQuery, length: u64, after: Option<Value>) -> Self {
        Self { connection, people, length, after, finished: false }
    }

    /// Returns the next chunk. Only the last one may be shorter.
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
                // If there is no key here, a follower was removed between the two queries, so search again.
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
