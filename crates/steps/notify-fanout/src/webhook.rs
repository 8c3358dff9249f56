//! A call about everybody, under an id that stays the same for the person.

use serde_json::json;

use super::audience::key_text;
use super::each::{self, Trouble};
use super::fields::Hook;
use super::personal::{Part, Personal};
use afterload_core::error::{Error, Result};
use afterload_egress::{Answer, Http, OURS, Request, Webhooks};
use afterload_pipeline::Scope;
use afterload_step_api::Context;
use afterload_target_db::Person;

/// Errors that are those of a server, whatever it was told.
const OF_A_SERVER: [&str; 5] =
    ["egress_blocked", "http_broken", "http_rate_limited", "http_timeout", "http_unreachable"];
/// Statuses by which a server says so. Another one, such as 500, may be about what it was told.
const UNAVAILABLE: [u64; 3] = [502, 503, 504];

/// The way of webhooks.
pub struct Channel {
    http: Http,
    key: String,
    personal: Personal,
    url: Part,
    headers: Vec<(String, Part)>,
    json: Part,
    signed: bool,
    /// Whether all are told by the same server.
    one_server: bool,
}

impl Channel {
    /// Reads what is the same for everybody.
    pub fn new(ctx: &Context, http: &Http, hook: Hook) -> Self {
        let Hook { url, headers, json, sign } = hook;
        let headers = headers.into_iter().filter(|(name, _)| !OURS.contains(&name.to_ascii_lowercase().as_str()));
        let headers: Vec<_> = headers.map(|(name, value)| (name, Part::new(json!(value)))).collect();
        let (url, json) = (Part::new(json!(url)), Part::new(json));
        // `https:`, nothing, the server, and what is behind its `/`.
        let one_server = !url.differs() || url.start(&ctx.scope).splitn(4, '/').count() == 4;
        Self {
            http: http.clone(),
            key: ctx.step.key.clone(),
            personal: Personal::new(&ctx.scope, headers.iter().map(|(_, value)| value).chain([&url, &json])),
            signed: sign.is_some(),
            one_server,
            url,
            headers,
            json,
        }
    }

    fn request(&self, scope: &Scope, id: &str) -> Result<Request, Trouble> {
        let mut request = Request::post(&self.url.text(scope)?).map_err(|error| self.url.trouble(error))?;
        for (name, value) in &self.headers {
            request = request.header(name, &value.text(scope)?).map_err(|error| value.trouble(error))?;
        }
        request = request.json(&self.json.value(scope)?);
        for name in ["idempotency-key", "webhook-id"] {
            request = request.header(name, id).map_err(Trouble::Channel)?;
        }
        match self.signed {
            true => request.signed(self.http.webhooks(), id).map_err(Trouble::Channel),
            false => Ok(request),
        }
    }

    fn trouble(&self, error: Error) -> Trouble {
        let status = error.facts().and_then(|facts| facts["status"].as_u64());
        let of_the_server =
            OF_A_SERVER.contains(&error.code()) || status.is_some_and(|status| UNAVAILABLE.contains(&status));
        match error.code() {
            // Nobody can be called at all.
            "http_client_failed" => Trouble::Channel(error),
            _ if of_the_server && self.one_server => Trouble::Channel(error),
            _ => Trouble::Person(error),
        }
    }
}

impl each::Channel for Channel {
    async fn tell(&self, person: &Person, reason: &'static str) -> Result<(), Trouble> {
        let scope = self.personal.of(person, reason)?;
        let id = Webhooks::id(&format!("{}/{}", self.key, key_text(person)));
        let request = self.request(&scope, &id)?;
        let answer = self.http.send(request).await.and_then(Answer::success).map_err(|error| self.trouble(error))?;
        // What it says does not matter, but a connection is used again only once its answer has been read.
        drop(answer.bytes().await);
        Ok(())
    }
}
