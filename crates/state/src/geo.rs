//! What services on the web have said of addresses.

use std::collections::HashMap;

use serde_json::Value;

use super::db::{Arg, Db, args};
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;

/// Placeholders in one statement; both databases take many more.
const AT_ONCE: usize = 1_000;

impl Db {
    /// What `provider` said of these addresses at `since` or later, as far as it may still be believed. `None`: that it does
    /// not know.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn known_places(
        &self,
        provider: &str,
        addresses: &[String],
        since: Millis,
    ) -> Result<HashMap<String, Option<Value>>> {
        let mut known = HashMap::new();
        for addresses in addresses.chunks(AT_ONCE) {
            let mut args: Vec<Arg> = args![provider, since, clock::now()].into();
            let places: Vec<_> = (0..addresses.len()).map(|at| format!("${}", at + 4)).collect();
            args.extend(addresses.iter().map(Arg::from));
            let places = places.join(", ");
            let sql = format!(
                "SELECT ip, answer FROM geo_cache
                 WHERE provider = $1 AND looked_at >= $2 AND expires_at > $3 AND ip IN ({places})"
            );
            for row in self.fetch(&sql, &args).await? {
                known.insert(row.text("ip")?, row.json("answer")?);
            }
        }
        Ok(known)
    }

    /// Remembers what `provider` says of an address.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn keep_place(&self, provider: &str, ip: &str, answer: Option<&Value>, expires_at: Millis) -> Result<()> {
        let sql = "INSERT INTO geo_cache (provider, ip, answer, looked_at, expires_at) VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (provider, ip) DO UPDATE
                   SET answer = excluded.answer, looked_at = excluded.looked_at, expires_at = excluded.expires_at";
        let answer = answer.map(Value::to_string);
        self.execute(sql, &args![provider, ip, answer, clock::now(), expires_at]).await.map(drop)
    }

    /// Forgets some of what may not be believed any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_places(&self, most: u32) -> Result<u64> {
        let sql = "DELETE FROM geo_cache WHERE (provider, ip) IN
                   (SELECT provider, ip FROM geo_cache WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
        let now = clock::now();
        // Looking costs a writer nothing; deleting what is not there would.
        match self.fetch_one("SELECT 1 AS there FROM geo_cache WHERE expires_at <= $1 LIMIT 1", &args![now]).await? {
            Some(_) => self.execute(sql, &args![now, most]).await,
            None => Ok(0),
        }
    }
}
