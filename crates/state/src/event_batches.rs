//! Batches of events: each becomes the `event` of one run.
//!
//! A trigger has at most one open batch. The row of the batch is locked while an event joins it, so that events have an
//! order, and no event joins a batch that is closed.

use serde_json::Value;

use super::db::Db;
use super::sql_args::args;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_core::file_seals::FileSeals;

/// The batch that an event joins, or opens if its trigger has no open batch.
#[derive(Clone, Debug)]
pub struct NewEventBatch<'a> {
    /// The id, if the event opens the batch.
    pub id: &'a str,
    /// The pipeline of the trigger.
    pub pipeline: &'a str,
    /// Identifies the trigger within its pipeline.
    pub trigger_key: &'a str,
    /// The origin of the run.
    pub source: &'a str,
    /// The `with` of the trigger.
    pub trigger_params: &'a Value,
    /// How many runs came before the event in its chain.
    pub hops: u32,
    /// How long after this event the run is due, in milliseconds.
    pub wait_ms: i64,
    /// How long after the first event it is due at the latest, in milliseconds.
    pub max_wait_ms: i64,
}

/// A batch that an event has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedBatch {
    /// The id of the batch.
    pub id: String,
    /// The number of its events, with this one.
    pub items: i64,
    /// The length of the JSON of the events before.
    pub bytes: i64,
}

/// A batch as stored.
#[derive(Clone, Debug)]
pub struct EventBatchRecord {
    /// The id, which becomes the id of the run.
    pub id: String,
    /// The pipeline of the trigger.
    pub pipeline: String,
    /// Identifies the trigger within its pipeline.
    pub trigger_key: String,
    /// The origin of the run.
    pub source: String,
    /// The `with` of the trigger when the last event came.
    pub trigger_params: Value,
    /// The longest chain of runs before one of its events.
    pub hops: u32,
    /// When its run is due, or is tried next.
    pub due_at: UnixMillis,
    /// When it stopped taking events.
    pub closed_at: Option<UnixMillis>,
}

fn batch_from_row(row: &DbRow) -> Result<EventBatchRecord> {
    Ok(EventBatchRecord {
        id: row.get_text("id")?,
        pipeline: row.get_text("pipeline")?,
        trigger_key: row.get_text("trigger_key")?,
        source: row.get_text("source")?,
        trigger_params: row.get_json("trigger_params")?.unwrap_or_default(),
        hops: row.get_u32("hops")?,
        due_at: row.get_int("due_at")?,
        closed_at: row.get_opt_int("closed_at")?,
    })
}

/// Reads and writes batches of events.
#[derive(Clone, Copy)]
pub struct EventBatchStore<C>(pub(super) C);

impl EventBatchStore<&mut DbTx> {
    /// Counts an event in the open batch of its trigger, or opens a batch. The row stays locked until the end of the
    /// transaction, in which [`Self::insert_item`] stores the event.
    pub async fn join(self, new: &NewEventBatch<'_>) -> Result<JoinedBatch> {
        let NewEventBatch { id, pipeline, trigger_key, source, trigger_params, hops, wait_ms, max_wait_ms } = *new;
        let now = self.0.now();
        let sql = "INSERT INTO event_batches
                   (id, pipeline, trigger_key, source, trigger_params, opened_at, due_at, hops, items, bytes)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $9, 1, 0)
                   ON CONFLICT (pipeline, trigger_key) WHERE closed_at IS NULL DO UPDATE SET
                   items = event_batches.items + 1, trigger_params = excluded.trigger_params,
                   hops = CASE WHEN excluded.hops > event_batches.hops THEN excluded.hops ELSE event_batches.hops END,
                   due_at = CASE WHEN excluded.due_at < event_batches.opened_at + $8 THEN excluded.due_at
                       ELSE event_batches.opened_at + $8 END
                   RETURNING id, items, bytes";
        let due_at = now.saturating_add(wait_ms.min(max_wait_ms));
        let args = args![id, pipeline, trigger_key, source, trigger_params, now, due_at, max_wait_ms, hops];
        let rows = self.0.fetch(sql, &args).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(JoinedBatch { id: row.get_text("id")?, items: row.get_int("items")?, bytes: row.get_int("bytes")? })
    }

    /// Stores the event that has joined a batch. A full batch is closed, and its run is due at once.
    pub async fn insert_item(self, batch: &JoinedBatch, event: &str, is_full: bool) -> Result<()> {
        let JoinedBatch { id, items, .. } = batch;
        let sql = "INSERT INTO event_batch_items (batch_id, position, event) VALUES ($1, $2, $3)";
        self.0.execute(sql, &args![id, *items, event]).await?;
        let bytes = i64::try_from(event.len()).unwrap_or(i64::MAX);
        let closed_at = is_full.then(|| self.0.now());
        let sql =
            "UPDATE event_batches SET bytes = bytes + $2, closed_at = $3, due_at = COALESCE($3, due_at) WHERE id = $1";
        self.0.execute(sql, &args![id, bytes, closed_at]).await.map(drop)
    }
}

impl EventBatchStore<&Db> {
    /// Lists batches that are due, the most overdue first.
    pub async fn list_due(self, limit: u32) -> Result<Vec<EventBatchRecord>> {
        let sql = "SELECT id, pipeline, trigger_key, source, trigger_params, hops, due_at, closed_at FROM event_batches
                   WHERE due_at <= $1 ORDER BY due_at LIMIT $2";
        self.0.fetch(sql, &args![self.0.now(), limit]).await?.iter().map(batch_from_row).collect()
    }

    /// Closes a batch that is due, so that no more events join it. Returns false if another event has put its run off,
    /// or the batch is gone.
    pub async fn close_due(self, id: &str) -> Result<bool> {
        let sql = "UPDATE event_batches SET closed_at = COALESCE(closed_at, $2) WHERE id = $1 AND due_at <= $2";
        Ok(self.0.execute(sql, &args![id, self.0.now()]).await? == 1)
    }

    /// Lists the events of a batch in their order, and the seals of their files.
    pub async fn list_items(self, id: &str) -> Result<(Vec<Value>, FileSeals)> {
        let sql = "SELECT event FROM event_batch_items WHERE batch_id = $1 ORDER BY position";
        let (mut events, mut file_seals) = (Vec::new(), FileSeals::default());
        for row in self.0.fetch(sql, &args![id]).await? {
            events.push(row.get_sealed_json("event", &mut file_seals)?.unwrap_or_default());
        }
        Ok((events, file_seals))
    }

    /// Puts off the next try to start the run of a closed batch.
    pub async fn postpone(self, id: &str, due_at: UnixMillis) -> Result<()> {
        self.0.execute("UPDATE event_batches SET due_at = $2 WHERE id = $1", &args![id, due_at]).await.map(drop)
    }

    /// Deletes a batch with its events.
    pub async fn delete(self, id: &str) -> Result<()> {
        self.0.execute("DELETE FROM event_batches WHERE id = $1", &args![id]).await.map(drop)
    }
}
