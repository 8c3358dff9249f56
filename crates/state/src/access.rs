//! API keys, stored hashed.

use super::db::{Db, Row, args};
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;

/// An API key as stored: its hash, never the key.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The public part, which logs and lists show.
    pub id: String,
    /// SHA-256 of the whole key, in hexadecimal.
    pub hash: String,
    /// What it is for, for people.
    pub name: String,
    /// What it may do, such as `runs:read:contacts-import`.
    pub scopes: Vec<String>,
    /// The buckets whose objects it may name in parameters.
    pub buckets: Vec<String>,
    /// When it was made.
    pub created_at: Millis,
}

const COLUMNS: &str = "SELECT id, hash, name, scopes, buckets, created_at FROM api_keys";

fn key(row: &Row) -> Result<StoredKey> {
    Ok(StoredKey {
        id: row.text("id")?,
        hash: row.text("hash")?,
        name: row.text("name")?,
        scopes: row.json("scopes")?.unwrap_or_default(),
        buckets: row.json("buckets")?.unwrap_or_default(),
        created_at: row.int("created_at")?,
    })
}

impl Db {
    /// Stores a key, unless one of the same id is there. True if it was stored.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn insert_key(&self, key: &StoredKey) -> Result<bool> {
        let scopes = serde_json::json!(key.scopes);
        let buckets = serde_json::json!(key.buckets);
        let sql = "INSERT INTO api_keys (id, hash, name, scopes, buckets, created_at) VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT DO NOTHING";
        let args = args![&key.id, &key.hash, &key.name, &scopes, &buckets, clock::now()];
        Ok(self.execute(sql, &args).await? == 1)
    }

    /// The key with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn key(&self, id: &str) -> Result<Option<StoredKey>> {
        self.fetch_one(&format!("{COLUMNS} WHERE id = $1"), &args![id]).await?.as_ref().map(key).transpose()
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn keys(&self) -> Result<Vec<StoredKey>> {
        self.fetch(&format!("{COLUMNS} ORDER BY created_at, id"), &[]).await?.iter().map(key).collect()
    }

    /// Deletes a key. True if there was one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_key(&self, id: &str) -> Result<bool> {
        Ok(self.execute("DELETE FROM api_keys WHERE id = $1", &args![id]).await? == 1)
    }
}
