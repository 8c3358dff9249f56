//! Outgoing calls, guarded: no private address, no endless answer, no secret in an error.
//!
//! [`Http::send`] is the way out. It refuses addresses that are not of the public internet unless the configuration allows
//! them, however they are written and wherever a name or a redirect leads: literal addresses are checked before each hop,
//! names when they are looked up for a connection, which then goes to the very addresses that were checked. No proxy of
//! the environment is used: it would call for us whatever we refuse.

mod address;
mod answer;
mod config;
mod fault;
mod fields;
mod guard;
mod redirect;
mod request;
mod retry_after;
mod target;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Client, redirect::Policy};
use tokio::time::{Instant, timeout_at};

pub use answer::Answer;
use answer::Within;
pub use config::{Allowed, Hosts, HttpConfig, HttpLimits, WebhooksConfig};
pub use fields::{Headers, OURS, Sign, check_target};
pub use request::{Request, encode_form, header_name};
pub use reqwest::Method;
pub use target::{parse_url, shown};
pub use webhook::Webhooks;

use self::guard::{Guard, Names, Resolver, System};
use afterload_core::error::{Error, Result};
use afterload_core::redact::Redactor;

/// How many redirects are followed.
pub const MOST_REDIRECTS: usize = 3;

/// Makes guarded calls. Cheap to clone; connections are kept for the next call.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    guard: Arc<Guard>,
    /// Where no calls can be made, everything else goes on.
    clients: Result<Clients>,
    limits: HttpLimits,
    webhooks: Webhooks,
    redactor: Redactor,
}

struct Clients {
    /// For ports that no rule names.
    any: Client,
    /// For each port that one does: the look-up of a name does not know for which port it is.
    by_port: BTreeMap<u16, Client>,
}

impl Http {
    /// With these rules and limits. `webhooks` signs requests, `redactor` removes secrets that servers echo.
    pub fn new(config: &HttpConfig, limits: &HttpLimits, webhooks: Webhooks, redactor: Redactor) -> Self {
        Self::with_names(config, limits, (webhooks, redactor), Arc::new(System))
    }

    /// The same with somebody else to look up names.
    pub(crate) fn with_names(
        config: &HttpConfig,
        limits: &HttpLimits,
        (webhooks, redactor): (Webhooks, Redactor),
        names: Arc<dyn Names>,
    ) -> Self {
        let allowed = config.allow.iter().filter_map(|entry| Allowed::parse(entry)).collect();
        let guard = Arc::new(Guard::new(allowed));
        let limits = limits.clone();
        let clients = Clients::new(&guard, &names, &limits);
        if let Err(error) = &clients {
            tracing::warn!(error.code = error.code(), "calls of other services will fail: {error}");
        }
        Self(Arc::new(Inner { guard, clients, limits, webhooks, redactor }))
    }

    /// What webhooks are signed with.
    pub fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    /// What must not be kept of an answer: servers echo what they were sent.
    pub fn redactor(&self) -> &Redactor {
        &self.0.redactor
    }

    /// Sends a request, follows redirects, and gives the answer, whatever its status; its body is not read yet.
    ///
    /// # Errors
    /// Permanent: `egress_blocked`, `http_redirect_refused`, `http_url_invalid`, and `http_client_failed` where the system
    /// has no certificates. Transient: `http_unreachable` (the request was not sent), `http_timeout`, `http_broken` (it may
    /// have been).
    pub async fn send(&self, request: Request) -> Result<Answer> {
        let timeout = request.timeout.unwrap_or(self.0.limits.total.0);
        let within = Within { timeout, deadline: Instant::now() + timeout, body: self.0.limits.body };
        let mut hop = self.hop(&request, within).await?;
        let mut last = request.clone();
        for followed in 0.. {
            let next = match request.redirects {
                0 => None,
                _ => redirect::next(&last, hop.status(), hop.header("location"))?,
            };
            let Some(next) = next else { break };
            if followed == request.redirects {
                return Err(redirect::too_many(&request, &next.url));
            }
            hop = self.hop(&next, within).await?;
            last = next;
        }
        Ok(hop)
    }

    async fn hop(&self, request: &Request, within: Within) -> Result<Answer> {
        let shown = request.shown();
        self.0.guard.host(&request.url).map_err(|found| fault::blocked(&found, &shown))?;
        let port = request.url.port_or_known_default();
        let clients = self.0.clients.as_ref().map_err(Clone::clone)?;
        let client = port.and_then(|port| clients.by_port.get(&port)).unwrap_or(&clients.any);
        let call = client.request(request.method.clone(), request.url.clone()).headers(request.headers.clone());
        let answered = timeout_at(within.deadline, call.body(request.body.clone()).send()).await;
        let response = match answered {
            Ok(response) => response.map_err(|error| fault::of(&error, &shown))?,
            Err(_) => return Err(fault::timeout(&shown, within.timeout)),
        };
        Ok(Answer { response, shown, within })
    }
}

impl Clients {
    fn new(guard: &Arc<Guard>, names: &Arc<dyn Names>, limits: &HttpLimits) -> Result<Self> {
        let client = |port| client(Resolver { guard: guard.clone(), names: names.clone(), port }, limits);
        let by_port = guard.ports().into_iter().map(|port| Ok((port, client(Some(port))?)));
        Ok(Self { by_port: by_port.collect::<Result<_>>()?, any: client(None)? })
    }
}

fn client(resolver: Resolver, limits: &HttpLimits) -> Result<Client> {
    // A body that is not compressed cannot grow when it is read.
    let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
    let client = Client::builder()
        .user_agent(concat!("afterload/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .dns_resolver(resolver)
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(limits.connect.0)
        .build();
    client.map_err(|error| {
        Error::permanent("http_client_failed", format!("no calls can be made: {error}"))
            .hint("install the certificates of the system (`ca-certificates`) and start the service again")
    })
}

#[cfg(test)]
mod tests;
