//! Events that the application published. Steps wait for them.

use serde_json::Value;

use super::db::Db;
use super::sql_args::args;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

/// An event as it was published.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// The id of the event.
    pub id: String,
    /// The name of the event.
    pub name: String,
    /// The dedup key of the sender.
    pub key: Option<String>,
    /// The body of the event.
    pub body: Value,
    /// When the event was received.
    pub received_at: UnixMillis,
}

fn event_from_row(row: &DbRow) -> Result<EventRecord> {
    Ok(EventRecord {
        id: row.get_text("id")?,
        name: row.get_text("name")?,
        key: row.get_opt_text("key")?,
        body: row.get_json("body")?.unwrap_or_default(),
        received_at: row.get_int("received_at")?,
    })
}

const SELECT_EVENTS: &str = "SELECT id, name, key, body, received_at FROM events";

/// Reads and writes published events.
#[derive(Clone, Copy)]
pub struct EventStore<C>(pub(super) C);

impl EventStore<&mut DbTx> {
    /// Locks the name of an event until the end of the transaction. A publisher of the event and a step that begins to
    /// wait for it then follow one another, so no event is missed.
    pub async fn lock_name(self, name: &str) -> Result<()> {
        // A transaction on SQLite is the only writer already.
        if self.0.dialect() == Dialect::Postgres {
            let sql = "SELECT 1 AS held FROM (SELECT pg_advisory_xact_lock(hashtext('afterload event'), hashtext($1))) AS lock";
            self.0.fetch(sql, &args![name]).await?;
        }
        Ok(())
    }

    /// Stores an event. If its name and key exist already, returns the stored event instead.
    pub async fn insert(self, new: &EventRecord) -> Result<Option<EventRecord>> {
        let EventRecord { id, name, key, body, received_at } = new;
        let sql = "INSERT INTO events (id, name, key, body, received_at) VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (name, key) DO NOTHING";
        if self.0.execute(sql, &args![id, name, key.as_deref(), body.to_string(), *received_at]).await? == 1 {
            return Ok(None);
        }
        let rows = self
            .0
            .fetch(&format!("{SELECT_EVENTS} WHERE name = $1 AND key = $2"), &args![name, key.as_deref()])
            .await?;
        rows.first().map(event_from_row).transpose()
    }

    /// Lists events of a name, oldest first, after the given time and id.
    pub async fn list_after(self, name: &str, time: UnixMillis, id: &str, limit: u32) -> Result<Vec<EventRecord>> {
        let sql = format!(
            "{SELECT_EVENTS} WHERE name = $1 AND (received_at > $2 OR received_at = $2 AND id > $3)
             ORDER BY received_at, id LIMIT $4"
        );
        self.0.fetch(&sql, &args![name, time, id, limit]).await?.iter().map(event_from_row).collect()
    }
}

impl EventStore<&Db> {
    /// Deletes the events received before a time. Returns how many it deleted.
    pub async fn delete_before(self, before: UnixMillis) -> Result<u64> {
        self.0.execute("DELETE FROM events WHERE received_at < $1", &args![before.min(self.0.now())]).await
    }
}
