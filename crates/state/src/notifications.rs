//! Notifications of the end of a run. A run has at most one, and each end of the run makes it due again.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::db::Db;
use super::group_commit::TxOutcome;
use super::sql_args::{SqlArg, args};
use super::tx::{DbRow, DbTx};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};

/// How far a notification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotificationStatus {
    /// The run has not ended.
    Waiting,
    /// The run has ended; the receiver has not taken the message yet.
    Pending,
    /// The receiver has taken it.
    Sent,
    /// The receiver did not take it for so long that nobody tries any more.
    Failed,
}

impl NotificationStatus {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }

    fn from_name(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Pending, Self::Sent, Self::Failed].into_iter().find(|status| status.as_str() == text)
    }
}

/// A notification as stored.
#[derive(Clone, Debug)]
pub struct NotificationRecord {
    /// The run.
    pub run_id: String,
    /// The URL that receives the notification.
    pub url: String,
    /// The status of the notification.
    pub status: NotificationStatus,
    /// Attempts that were started since the run ended.
    pub attempts: u32,
    /// When the run ended.
    pub since: Option<UnixMillis>,
    /// When the next attempt is due.
    pub next_at: Option<UnixMillis>,
    /// Why the last attempt failed.
    pub error: Option<Value>,
}

const NOTIFICATION_COLUMNS: &str = "run_id, url, status, attempts, since, next_at, error";

fn notification_from_row(row: &DbRow) -> Result<NotificationRecord> {
    let status = row.get_text("status")?;
    Ok(NotificationRecord {
        run_id: row.get_text("run_id")?,
        url: row.get_text("url")?,
        status: NotificationStatus::from_name(&status)
            .ok_or_else(|| Error::new(codes::DATABASE_ERROR, format!("unknown status `{status}` of a notification")))?,
        attempts: row.get_u32("attempts")?,
        since: row.get_opt_int("since")?,
        next_at: row.get_opt_int("next_at")?,
        error: row.get_json("error")?,
    })
}

/// Reads and writes the notifications of runs.
#[derive(Clone, Copy)]
pub struct NotificationStore<C>(pub(super) C);

impl NotificationStore<&mut DbTx> {
    /// Stores the notification of a new run.
    pub async fn insert(self, run: &str, url: &str) -> Result<()> {
        let sql = "INSERT INTO notifications (run_id, url, status) VALUES ($1, $2, 'waiting')";
        self.0.execute(sql, &args![run, url]).await.map(drop)
    }

    /// Executes the statement that ends a run, and makes the notification of the run due. The first value of the
    /// statement is the id of the run. Returns true if the run has a notification.
    pub(super) async fn end_run_with(self, run: &str, ends: &str, args: &[SqlArg]) -> Result<bool> {
        // Most runs have no notification and need no second statement.
        let sql = format!("{ends} RETURNING (SELECT run_id FROM notifications WHERE run_id = $1) AS notified");
        let rows = self.0.fetch(&sql, args).await?;
        let notified = rows.first().map(|row| row.get_opt_text("notified")).transpose()?.flatten().is_some();
        if notified {
            let sql =
                "UPDATE notifications SET status = 'pending', attempts = 0, since = $2, next_at = $2, error = NULL
                       WHERE run_id = $1";
            self.0.execute(sql, &args![run, self.0.now()]).await?;
        }
        Ok(notified)
    }

    /// Sets the notification back to `waiting`, because the run goes on.
    pub(super) async fn reset(self, run: &str) -> Result<()> {
        let sql =
            "UPDATE notifications SET status = 'waiting', attempts = 0, since = NULL, next_at = NULL, error = NULL
                   WHERE run_id = $1";
        self.0.execute(sql, &args![run]).await.map(drop)
    }
}

impl NotificationStore<&Db> {
    /// Finds the notification of a run.
    pub async fn find(self, run: &str) -> Result<Option<NotificationRecord>> {
        let sql = format!("SELECT {NOTIFICATION_COLUMNS} FROM notifications WHERE run_id = $1");
        self.0.fetch_optional(&sql, &args![run]).await?.as_ref().map(notification_from_row).transpose()
    }

    /// Claims at most `limit` due notifications for the time of `lease`. A notification is due again after that time
    /// unless its attempt is recorded.
    pub async fn claim(self, lease: Duration, limit: u32) -> Result<Vec<NotificationRecord>> {
        const SELECT_DUE_NOTIFICATIONS: &str =
            "SELECT run_id FROM notifications WHERE status = 'pending' AND next_at <= $1 ORDER BY next_at";
        let now = self.0.now();
        // Mostly nothing is due. A read then saves the wait for the write lock.
        if self.0.fetch_optional(&format!("{SELECT_DUE_NOTIFICATIONS} LIMIT 1"), &args![now]).await?.is_none() {
            return Ok(Vec::new());
        }
        // SQLite has one writer at a time. On PostgreSQL this skips rows that another process is about to change.
        let lock = if self.0.dialect() == Dialect::Postgres { " FOR UPDATE SKIP LOCKED" } else { "" };
        let sql = format!(
            "WITH due AS MATERIALIZED ({SELECT_DUE_NOTIFICATIONS} LIMIT $3{lock})
             UPDATE notifications SET next_at = $2, attempts = attempts + 1
             WHERE run_id IN (SELECT run_id FROM due) RETURNING {NOTIFICATION_COLUMNS}"
        );
        let until = now.saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX));
        let claim = async |tx: &mut DbTx| {
            let rows = tx.fetch(&sql, &args![now, until, limit]).await?;
            rows.iter().map(notification_from_row).collect::<Result<_>>().map(TxOutcome::Commit)
        };
        self.0.with_tx(claim).await
    }

    /// Records the outcome of a claimed attempt. Writes nothing if the run has gone on or another process has claimed
    /// the notification since.
    pub async fn record_attempt(
        self,
        claimed: &NotificationRecord,
        status: NotificationStatus,
        next_at: Option<UnixMillis>,
        error: Option<&Value>,
    ) -> Result<()> {
        let sql = "UPDATE notifications SET status = $4, next_at = $5, error = $6
                   WHERE run_id = $1 AND since = $2 AND attempts = $3 AND status = 'pending'";
        let NotificationRecord { run_id, since, attempts, .. } = claimed;
        let error = error.map(ToString::to_string);
        self.0.execute(sql, &args![run_id, *since, *attempts, status.as_str(), next_at, error]).await.map(drop)
    }
}
