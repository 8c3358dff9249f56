//! Steps that are suspended without a worker, and the events that resume them.

use serde_json::Value;

use super::db::{Db, DbRow, DbTx};
use super::sql_args::args;
use super::steps::{self, StepRecord};
use afterload_core::clock::{self, UnixMillis};
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;

/// What a suspended step waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WakeCondition {
    /// When it wakes at the latest.
    pub until: Option<UnixMillis>,
    /// The event that wakes it.
    pub event: Option<AwaitedEvent>,
}

/// An event that a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedEvent {
    /// Its name.
    pub name: String,
    /// The fields of its body that count, as one text.
    pub fields: String,
    /// The digest of what they must be.
    pub digest: String,
}

/// An event as it was told.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the sender calls it.
    pub key: Option<String>,
    /// What it says.
    pub body: Value,
    /// When it came.
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

impl DbTx {
    /// Holds the name of an event until the end of the transaction: who tells of it and who begins to wait for it
    /// follow one another.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock_event_name(&mut self, name: &str) -> Result<()> {
        // SQLite's transaction is the only writer already.
        if self.dialect() == Dialect::Postgres {
            let sql = "SELECT 1 AS held FROM (SELECT pg_advisory_xact_lock(hashtext('afterload event'), hashtext($1))) AS lock";
            self.fetch(sql, &args![name]).await?;
        }
        Ok(())
    }

    /// Stores an event, unless its sender told of it before: then gives what was stored.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert_event(&mut self, new: &EventRecord) -> Result<Option<EventRecord>> {
        let EventRecord { id, name, key, body, received_at } = new;
        let sql = "INSERT INTO events (id, name, key, body, received_at) VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (name, key) DO NOTHING";
        if self.execute(sql, &args![id, name, key.as_deref(), body.to_string(), *received_at]).await? == 1 {
            return Ok(None);
        }
        let rows =
            self.fetch(&format!("{SELECT_EVENTS} WHERE name = $1 AND key = $2"), &args![name, key.as_deref()]).await?;
        rows.first().map(event_from_row).transpose()
    }

    /// Some of the events of a name, oldest first, after the one of this time and id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_events_after(
        &mut self,
        name: &str,
        time: UnixMillis,
        id: &str,
        limit: u32,
    ) -> Result<Vec<EventRecord>> {
        let sql = format!(
            "{SELECT_EVENTS} WHERE name = $1 AND (received_at > $2 OR received_at = $2 AND id > $3)
             ORDER BY received_at, id LIMIT $4"
        );
        self.fetch(&sql, &args![name, time, id, limit]).await?.iter().map(event_from_row).collect()
    }

    /// The sets of fields by which suspended steps select an event.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_awaited_fields(&mut self, name: &str) -> Result<Vec<String>> {
        let sql =
            "SELECT DISTINCT wake_event_fields FROM step_runs WHERE status = 'suspended' AND wake_event_name = $1";
        self.fetch(sql, &args![name]).await?.iter().map(|row| row.get_text("wake_event_fields")).collect()
    }

    /// The steps that are suspended for exactly this.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_suspended_steps(&mut self, awaited: &AwaitedEvent) -> Result<Vec<StepRecord>> {
        let AwaitedEvent { name, fields, digest } = awaited;
        let sql = format!(
            "SELECT {} FROM step_runs
             WHERE status = 'suspended' AND wake_event_name = $1 AND wake_event_fields = $2 AND wake_event_digest = $3 ORDER BY id",
            steps::STEP_COLUMNS
        );
        self.fetch(&sql, &args![name, fields, digest]).await?.iter().map(steps::step_from_row).collect()
    }

    /// Suspends a step, under the claim of its attempt. False: the claim is lost.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn suspend_step(&mut self, id: &str, claim: i64, sleep: &WakeCondition) -> Result<bool> {
        let sql = "UPDATE step_runs SET status = 'suspended', suspend_count = suspend_count + 1, due_at = $3, suspended_until = $3,
                   wake_event_name = $4, wake_event_fields = $5, wake_event_digest = $6, crashes = 0
                   WHERE id = $1 AND claims = $2 AND status = 'running'";
        let awaited = |field: fn(&AwaitedEvent) -> &String| sleep.event.as_ref().map(field).cloned();
        let args = args![
            id,
            claim,
            sleep.until,
            awaited(|event| &event.name),
            awaited(|event| &event.fields),
            awaited(|event| &event.digest)
        ];
        Ok(self.execute(sql, &args).await? == 1)
    }

    /// Resumes a step with an event. False: it is no longer suspended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn wake_step(&mut self, id: &str, event: &Value) -> Result<bool> {
        let sql = "UPDATE step_runs SET status = 'queued', wake_event = $2, due_at = NULL
                   WHERE id = $1 AND status = 'suspended'";
        Ok(self.execute(sql, &args![id, event.to_string()]).await? == 1)
    }
}

impl Db {
    /// Forgets the events that came before a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_events_before(&self, before: UnixMillis) -> Result<u64> {
        self.execute("DELETE FROM events WHERE received_at < $1", &args![before.min(clock::now_millis())]).await
    }
}
