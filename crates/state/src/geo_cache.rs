//! The cache of answers of geolocation services.

use std::collections::HashMap;

use serde_json::Value;

use super::db::Db;
use super::sql_args::{SqlArgs, args};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// The maximum of placeholders in one statement. Both databases allow many more.
const MAX_QUERY_ADDRESSES: usize = 1_000;

/// Reads and writes cached geolocation records.
#[derive(Clone, Copy)]
pub struct GeoCacheStore<'a>(pub(super) &'a Db);

impl GeoCacheStore<'_> {
    /// Finds the records of these addresses that `provider` returned at `since` or later and that have not expired.
    /// The value is `None` if the provider does not know the address.
    pub async fn find(
        self,
        provider: &str,
        addresses: &[String],
        since: UnixMillis,
    ) -> Result<HashMap<String, Option<Value>>> {
        let mut known = HashMap::new();
        for addresses in addresses.chunks(MAX_QUERY_ADDRESSES) {
            let mut args = SqlArgs::default();
            let (provider, since, now) = (args.add(provider), args.add(since), args.add(self.0.now()));
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

    /// Stores the answer of `provider` for an address.
    pub async fn upsert(self, provider: &str, ip: &str, answer: Option<&Value>, expires_at: UnixMillis) -> Result<()> {
        let sql = "INSERT INTO geo_cache (provider, ip, record, fetched_at, expires_at) VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (provider, ip) DO UPDATE
                   SET record = excluded.record, fetched_at = excluded.fetched_at, expires_at = excluded.expires_at";
        let answer = answer.map(Value::to_string);
        self.0.execute(sql, &args![provider, ip, answer, self.0.now(), expires_at]).await.map(drop)
    }

    /// Deletes up to `most` expired records. Returns how many it deleted.
    pub async fn delete_expired(self, most: u32) -> Result<u64> {
        let sql = "DELETE FROM geo_cache WHERE (provider, ip) IN
                   (SELECT provider, ip FROM geo_cache WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
        let now = self.0.now();
        // A read needs no write lock; a delete needs one even if there is nothing to delete.
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
