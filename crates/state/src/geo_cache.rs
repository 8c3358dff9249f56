//! What services on the web have said of addresses.

use std::collections::HashMap;

use serde_json::Value;

use super::db::Db;
use super::sql_args::{SqlArgs, args};
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::Result;

/// Placeholders in one statement; both databases take many more.
const MAX_QUERY_ADDRESSES: usize = 1_000;

/// The cached records of geolocation services.
#[derive(Clone, Copy)]
pub struct GeoCacheStore<'a>(pub(super) &'a Db);

impl GeoCacheStore<'_> {
    /// What `provider` said of these addresses at `since` or later, as far as it may still be believed. `None`: that it does
    /// not know.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find(
        self,
        provider: &str,
        addresses: &[String],
        since: UnixMillis,
    ) -> Result<HashMap<String, Option<Value>>> {
        let mut known = HashMap::new();
        for addresses in addresses.chunks(MAX_QUERY_ADDRESSES) {
            let mut args = SqlArgs::default();
            let (provider, since, now) = (args.add(provider), args.add(since), args.add(clock::now_millis()));
            let addresses = args.add_list(addresses);
            let sql = format!(
                "SELECT ip, record FROM geo_cache
                 WHERE provider = {provider} AND fetched_at >= {since} AND expires_at > {now} AND ip IN ({addresses})"
            );
            for row in self.0.fetch(&sql, args.as_slice()).await? {
                known.insert(row.get_text("ip")?, row.get_json("record")?);
            }
        }
        Ok(known)
    }

    /// Remembers what `provider` says of an address.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn upsert(self, provider: &str, ip: &str, answer: Option<&Value>, expires_at: UnixMillis) -> Result<()> {
        let sql = "INSERT INTO geo_cache (provider, ip, record, fetched_at, expires_at) VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (provider, ip) DO UPDATE
                   SET record = excluded.record, fetched_at = excluded.fetched_at, expires_at = excluded.expires_at";
        let answer = answer.map(Value::to_string);
        self.0.execute(sql, &args![provider, ip, answer, clock::now_millis(), expires_at]).await.map(drop)
    }

    /// Forgets some of what may not be believed any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_expired(self, most: u32) -> Result<u64> {
        let sql = "DELETE FROM geo_cache WHERE (provider, ip) IN
                   (SELECT provider, ip FROM geo_cache WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
        let now = clock::now_millis();
        // Looking costs a writer nothing; deleting what is not there would.
        match self
            .0
            .fetch_optional("SELECT 1 AS there FROM geo_cache WHERE expires_at <= $1 LIMIT 1", &args![now])
            .await?
        {
            Some(_) => self.0.execute(sql, &args![now, most]).await,
            None => Ok(0),
        }
    }
}
