//! Services on the web, as the configuration describes them.

mod fields;
mod gate;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use self::gate::Gate;
use super::{Answer, GeoHttpConfig, HttpGet};
use afterload_core::error::Result;
use afterload_core::secret::Secret;

/// A service on the web.
pub(super) struct Service {
    name: String,
    url: String,
    headers: Vec<(String, Secret)>,
    fields: Vec<(String, String)>,
    unknown: Vec<(String, Value)>,
    timeout: Duration,
    gate: Gate,
    http: Arc<dyn HttpGet>,
    /// Tells what it answered from what it would answer if it were configured otherwise.
    pub(super) cached_as: String,
}

impl Service {
    pub(super) fn new(name: &str, config: &GeoHttpConfig, http: Arc<dyn HttpGet>) -> Self {
        let GeoHttpConfig { url, headers, fields, unknown, per_minute, timeout, .. } = config.filled();
        let name = format!("http:{name}");
        let url = url.unwrap_or_default();
        let facts = serde_json::json!([url, fields, unknown]).to_string();
        let cached_as = format!("{name}#{}", hex::encode(&Sha256::digest(facts)[..8]));
        Self {
            name,
            url,
            headers: headers.into_iter().collect(),
            fields: fields.into_iter().collect(),
            unknown: unknown.into_iter().collect(),
            timeout: timeout.0,
            gate: Gate::new(per_minute),
            http,
            cached_as,
        }
    }

    /// What it knows of an address.
    pub(super) async fn find(&self, ip: IpAddr, stop: &CancellationToken) -> Result<Option<Answer>> {
        loop {
            self.gate.enter(&self.name, stop).await?;
            let asked = tokio::select! {
                asked = self.ask(ip) => asked,
                () = stop.cancelled() => continue,
            };
            match asked {
                Ok(answer) => {
                    self.gate.well();
                    return Ok(answer);
                }
                Err(error) if self.gate.failed(&error) => {
                    tracing::info!(geo.provider = self.name, %error, "it is asked again when it wants");
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask(&self, ip: IpAddr) -> Result<Option<Answer>> {
        let url = self.url.replace("{ip}", &ip.to_string());
        let Some(body) = self.http.get_json(&url, &self.headers, self.timeout).await? else { return Ok(None) };
        if self.unknown.iter().any(|(pointer, value)| body.pointer(pointer) == Some(value)) {
            return Ok(None);
        }
        let answer = fields::answer(&body, &self.fields);
        let named = |answer| Answer { provider: Some(self.name.clone()), ..answer };
        Ok(Some(answer).filter(Answer::says_something).map(named))
    }
}
