//! Web services for geo lookups, as the configuration describes them.

mod circuit_breaker;
mod response_fields;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use self::circuit_breaker::CircuitBreaker;
use super::{CallWaiter, GeoHttpConfig, GeoRecord, HttpGet};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::secret::Secret;

/// A web service for geo lookups.
pub(super) struct GeoHttpService {
    name: String,
    url: String,
    headers: Vec<(String, Secret)>,
    fields: Vec<(String, String)>,
    unknown_markers: Vec<(String, Value)>,
    timeout: Duration,
    breaker: CircuitBreaker,
    http: Arc<dyn HttpGet>,
    /// Contains a digest of the configuration: a changed configuration must not read the old answers from the cache.
    pub(super) cache_key: String,
}

impl GeoHttpService {
    pub(super) fn new(name: &str, config: &GeoHttpConfig, http: Arc<dyn HttpGet>) -> Self {
        let GeoHttpConfig { url, headers, fields, unknown, per_minute, timeout, .. } = config.with_preset();
        let name = format!("http:{name}");
        let url = url.unwrap_or_default();
        let facts = serde_json::json!([url, fields, unknown]).to_string();
        let cached_as = format!("{name}#{}", hex::encode(&Sha256::digest(facts)[..8]));
        Self {
            name,
            url,
            headers: headers.into_iter().collect(),
            fields: fields.into_iter().collect(),
            unknown_markers: unknown.into_iter().collect(),
            timeout: timeout.0,
            breaker: CircuitBreaker::new(per_minute),
            http,
            cache_key: cached_as,
        }
    }

    /// Looks up one address; waits and retries when the service asks for a short wait.
    pub(super) async fn find_record(
        &self,
        ip: IpAddr,
        waiter: &dyn CallWaiter,
        stop: &CancellationToken,
    ) -> Result<Option<GeoRecord>> {
        loop {
            self.breaker.acquire(&self.name, waiter).await?;
            let asked = tokio::select! {
                asked = self.request_record(ip) => asked,
                () = stop.cancelled() => return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop")),
            };
            match asked {
                Ok(answer) => {
                    self.breaker.on_success();
                    return Ok(answer);
                }
                Err(error) if self.breaker.on_failure(&error) => {
                    tracing::info!(geo.provider = self.name, %error, "the geo service asked to wait; retrying after that");
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn request_record(&self, ip: IpAddr) -> Result<Option<GeoRecord>> {
        let url = self.url.replace("{ip}", &ip.to_string());
        let Some(body) = self.http.get_json(&url, &self.headers, self.timeout).await? else { return Ok(None) };
        if self.unknown_markers.iter().any(|(pointer, value)| body.pointer(pointer) == Some(value)) {
            return Ok(None);
        }
        let answer = response_fields::record_from_json(&body, &self.fields);
        let named = |answer| GeoRecord { provider: Some(self.name.clone()), ..answer };
        Ok(Some(answer).filter(GeoRecord::has_data).map(named))
    }
}
