//! API keys, stored hashed.

use super::db::Db;
use super::sql_args::args;
use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// An API key as stored: its hash, never the key.
#[derive(Clone, Debug)]
pub struct ApiKeyRecord {
    /// The public part. Logs and lists show it.
    pub id: String,
    /// SHA-256 of the whole key, in hexadecimal.
    pub hash: String,
    /// A label that tells people what the key is for.
    pub name: String,
    /// Its scopes, such as `runs:read:contacts-import`.
    pub scopes: Vec<String>,
    /// The buckets whose objects a request with this key may name in params.
    pub buckets: Vec<String>,
    /// When the key was created.
    pub created_at: UnixMillis,
}

const SELECT_API_KEYS: &str = "SELECT id, hash, name, scopes, buckets, created_at FROM api_keys";

fn api_key_from_row(row: &DbRow) -> Result<ApiKeyRecord> {
    Ok(ApiKeyRecord {
        id: row.get_text("id")?,
        hash: row.get_text("hash")?,
        name: row.get_text("name")?,
        scopes: row.get_json("scopes")?.unwrap_or_default(),
        buckets: row.get_json("buckets")?.unwrap_or_default(),
        created_at: row.get_int("created_at")?,
    })
}

/// Reads and writes API keys.
#[derive(Clone, Copy)]
pub struct ApiKeyStore<'a>(pub(super) &'a Db);

impl ApiKeyStore<'_> {
    /// Stores a key. Returns false if a key with this id exists already.
    pub async fn insert(self, key: &ApiKeyRecord) -> Result<bool> {
        let scopes = serde_json::json!(key.scopes);
        let buckets = serde_json::json!(key.buckets);
        let sql = "INSERT INTO api_keys (id, hash, name, scopes, buckets, created_at) VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT DO NOTHING";
        let args = args![&key.id, &key.hash, &key.name, &scopes, &buckets, key.created_at];
        Ok(self.0.execute(sql, &args).await? == 1)
    }

    /// Finds a key by its id.
    pub async fn find(self, id: &str) -> Result<Option<ApiKeyRecord>> {
        self.0
            .fetch_optional(&format!("{SELECT_API_KEYS} WHERE id = $1"), &args![id])
            .await?
            .as_ref()
            .map(api_key_from_row)
            .transpose()
    }

    /// Lists all keys, oldest first.
    pub async fn list(self) -> Result<Vec<ApiKeyRecord>> {
        self.0
            .fetch(&format!("{SELECT_API_KEYS} ORDER BY created_at, id"), &[])
            .await?
            .iter()
            .map(api_key_from_row)
            .collect()
    }

    /// Deletes a key. Returns false if there is none.
    pub async fn delete(self, id: &str) -> Result<bool> {
        Ok(self.0.execute("DELETE FROM api_keys WHERE id = $1", &args![id]).await? == 1)
    }
}
