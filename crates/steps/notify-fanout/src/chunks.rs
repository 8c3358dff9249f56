//! The followers in chunks, found one behind the other.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use afterload_core::error::Result;
use afterload_target_db::{Connection, People, Span};

/// Where a chunk ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// The key of the last one.
    pub key: Value,
    /// How many people the chunk had when it was found.
    pub people: u64,
}

/// Finds the chunks behind a key, each by a range of the index; only that of the last one is read more than once.
pub struct Chunks<'a> {
    connection: &'a Connection,
    people: &'a People,
    length: u64,
    after: Option<Value>,
    over: bool,
}

impl<'a> Chunks<'a> {
    /// Chunks of `length` people, of those behind `after`.
    pub fn new(connection: &'a Connection, people: &'a People, length: u64, after: Option<Value>) -> Self {
        Self { connection, people, length, after, over: false }
    }

    /// The next one; only the last one may be shorter.
    pub async fn next(&mut self, stop: &CancellationToken) -> Result<Option<End>> {
        let Self { connection, people, length, .. } = *self;
        while !self.over {
            let rest = Span { after: self.after.clone(), until: None };
            let mut end = End { key: Value::Null, people: length };
            let mut key = people.key_at(connection, &rest, length, stop).await?;
            if key.is_none() {
                end.people = people.count(connection, &rest, stop).await?;
                if end.people > 0 {
                    key = people.key_at(connection, &rest, end.people, stop).await?;
                }
                // Otherwise somebody has left between the two.
                self.over = key.is_some() || end.people == 0;
            }
            if let Some(key) = key {
                self.after = Some(key.clone());
                return Ok(Some(End { key, ..end }));
            }
        }
        Ok(None)
    }
}
