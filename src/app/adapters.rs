//! Connects crates that do not depend on each other: one declares a small trait, and this file implements it with
//! another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_core::secret::Secret;
use afterload_egress::{EgressClient, EgressRequest};
use afterload_engine::RecordSource;
use afterload_engine::maintenance::PeriodicTask;
use afterload_geoip::{AnswerCache, HttpGet};
use afterload_mailer::{GrantedTurns, MAX_TURN_LEAD_MS, RateSlots, TurnRequest};
use afterload_pipeline::params::RecordRule;
use afterload_state::{Db, StartRequest, TxOutcome};
use afterload_target_db::Connections;

/// How often the cache of geo services is cleaned.
const GEO_CACHE_INTERVAL: Duration = Duration::from_secs(5);
/// How many answers one pass deletes; the rest follows in the next.
const MAX_EXPIRED_GEO_RECORDS: u32 = 200;

/// The turns of mail domains, in the state database.
pub(super) struct DbRateSlots(pub Db);

impl RateSlots for DbRateSlots {
    fn take_turns<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<GrantedTurns>> {
        let TurnRequest { key, interval, count, reserved } = request;
        Box::pin(self.0.with_tx(async move |tx| {
            let (now, starts) = (tx.now(), StartRequest { interval, count, reserved });
            let granted = match tx.rate_limits().take_starts(key, now, starts, MAX_TURN_LEAD_MS).await? {
                Some(first) => GrantedTurns::Taken(first),
                None => GrantedTurns::Reserved(tx.rate_limits().reserve_starts(key, now, interval, count).await?),
            };
            Ok(TxOutcome::Commit(granted))
        }))
    }
}

/// The cached answers of geo services, in the state database.
pub(super) struct DbAnswerCache(pub Db);

impl AnswerCache for DbAnswerCache {
    fn answers<'a>(
        &'a self,
        provider: &'a str,
        addresses: &'a [String],
        since: UnixMillis,
    ) -> BoxFuture<'a, Result<HashMap<String, Option<Value>>>> {
        Box::pin(self.0.geo_cache().find(provider, addresses, since))
    }

    fn store_answer<'a>(
        &'a self,
        provider: &'a str,
        address: &'a str,
        answer: Option<&'a Value>,
        expires_at: UnixMillis,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.0.geo_cache().upsert(provider, address, answer, expires_at))
    }
}

/// Deletes answers of geo services that are too old to be used.
pub(super) fn geo_cache_task(db: &Db) -> PeriodicTask {
    PeriodicTask::new("geo_cache", GEO_CACHE_INTERVAL, db.clone(), |db| async move {
        db.geo_cache().delete_expired(MAX_EXPIRED_GEO_RECORDS).await.map(drop)
    })
}

/// Keeps the clock on the time of the database. The first correction is made before anything starts.
pub(super) fn clock_task(db: &Db) -> PeriodicTask {
    PeriodicTask::new(
        "correct_clock",
        Db::CORRECT_CLOCK_INTERVAL,
        db.clone(),
        |db| async move { db.correct_clock().await },
    )
    .first_run_after(Db::CORRECT_CLOCK_INTERVAL)
}

/// Calls geo services within the egress policy.
pub(super) struct EgressGet(EgressClient);

impl EgressGet {
    pub(super) fn shared(http: &EgressClient) -> Arc<dyn HttpGet> {
        Arc::new(Self(http.clone()))
    }
}

impl HttpGet for EgressGet {
    fn get_json<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Value>>> {
        Box::pin(async move {
            let mut request = EgressRequest::get(url)?.with_header("accept", "application/json")?.with_timeout(timeout);
            for (name, value) in headers {
                request = request.with_header(name, value.expose_secret())?;
            }
            let response = self.0.send(request).await?;
            if response.status_code() == 404 {
                return Ok(None);
            }
            // Some services repeat the request in the response, including its API key.
            Ok(Some(self.0.redactor().redact_json(response.error_for_status()?.read_json().await?)))
        })
    }
}

/// Reads the rows of params of type `record` from the target databases.
pub(super) struct TargetRecords(pub Connections);

impl RecordSource for TargetRecords {
    fn read_record<'a>(
        &'a self,
        rule: &'a RecordRule,
        key: &'a Value,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Option<Map<String, Value>>>> {
        Box::pin(async move {
            let connection = self.0.get(&rule.connection).await?;
            connection.fetch_record(&rule.table, &rule.key, key, stop).await
        })
    }
}
