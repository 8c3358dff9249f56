//! Sign-ins to the dashboard: codes that work once, and the sessions of browsers. Both are stored hashed.

use super::db::Db;
use super::group_commit::TxOutcome;
use super::sql_args::args;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A code that is exchanged for a session.
const CODE_KIND: &str = "code";
/// A session of a browser.
const SESSION_KIND: &str = "session";

/// A code or a session as stored: its hash, never its text.
#[derive(Clone, Debug)]
pub struct DashboardSessionRecord {
    /// SHA-256 of the code or of the token, in hexadecimal.
    pub hash: String,
    /// What it permits, as the scopes of an API key.
    pub scopes: Vec<String>,
    /// When it was created.
    pub created_at: UnixMillis,
    /// When it ends.
    pub expires_at: UnixMillis,
}

fn session_from_row(row: &DbRow) -> Result<DashboardSessionRecord> {
    Ok(DashboardSessionRecord {
        hash: row.get_text("hash")?,
        scopes: row.get_json("scopes")?.unwrap_or_default(),
        created_at: row.get_int("created_at")?,
        expires_at: row.get_int("expires_at")?,
    })
}

/// Reads and writes sign-ins.
#[derive(Clone, Copy)]
pub struct DashboardSessionStore<'a>(pub(super) &'a Db);

impl DashboardSessionStore<'_> {
    /// Stores a code. Deletes what has ended, so that the table stays small.
    pub async fn insert_code(self, code: &DashboardSessionRecord) -> Result<()> {
        self.0
            .with_tx(async |tx| {
                tx.execute("DELETE FROM dashboard_sessions WHERE expires_at <= $1", &args![code.created_at]).await?;
                insert_record(tx, CODE_KIND, code).await?;
                Ok(TxOutcome::Commit(()))
            })
            .await
    }

    /// Deletes the code with this hash and stores the session `hash` with the scopes of the code. Returns false if
    /// there is no such code, or if it has ended.
    pub async fn exchange_code(self, code_hash: &str, hash: &str, expires_at: UnixMillis) -> Result<bool> {
        let now = self.0.now();
        let sql = "DELETE FROM dashboard_sessions WHERE hash = $1 AND kind = $2
                   RETURNING hash, scopes, created_at, expires_at";
        self.0
            .with_tx(async |tx| {
                let rows = tx.fetch(sql, &args![code_hash, CODE_KIND]).await?;
                let code = rows.first().map(session_from_row).transpose()?;
                let Some(code) = code.filter(|code| code.expires_at > now) else {
                    return Ok(TxOutcome::Commit(false));
                };
                let session =
                    DashboardSessionRecord { hash: hash.to_owned(), scopes: code.scopes, created_at: now, expires_at };
                insert_record(tx, SESSION_KIND, &session).await?;
                Ok(TxOutcome::Commit(true))
            })
            .await
    }

    /// Finds the session with this hash, unless it has ended.
    pub async fn find(self, hash: &str) -> Result<Option<DashboardSessionRecord>> {
        let sql = "SELECT hash, scopes, created_at, expires_at FROM dashboard_sessions
                   WHERE hash = $1 AND kind = $2 AND expires_at > $3";
        let args = args![hash, SESSION_KIND, self.0.now()];
        self.0.fetch_optional(sql, &args).await?.as_ref().map(session_from_row).transpose()
    }

    /// Ends a session.
    pub async fn delete(self, hash: &str) -> Result<()> {
        self.0.execute("DELETE FROM dashboard_sessions WHERE hash = $1", &args![hash]).await.map(drop)
    }
}

async fn insert_record(tx: &mut DbTx, kind: &str, record: &DashboardSessionRecord) -> Result<()> {
    let DashboardSessionRecord { hash, scopes, created_at, expires_at } = record;
    let scopes = serde_json::json!(scopes);
    let sql = "INSERT INTO dashboard_sessions (hash, kind, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)";
    tx.execute(sql, &args![hash, kind, &scopes, *created_at, *expires_at]).await.map(drop)
}
