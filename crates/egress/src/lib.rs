//! Outgoing HTTP calls with limits: no private address, no unbounded response, no secret in an error.
//!
//! [`EgressClient::send`] makes every call. It blocks addresses outside the public internet unless the configuration
//! allows them. Literal addresses are checked before each hop, in every notation. Names are checked when they are
//! resolved for a connection, and the connection uses exactly the checked addresses. Proxies of the environment are
//! ignored, because a proxy would call the blocked addresses for us.

mod body_text;
pub mod codes;
mod config;
mod errors;
mod fields;
mod http_url;
mod policy;
mod redirect;
mod request;
mod response;
mod retry_after;
mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Client, redirect::Policy};
use tokio::time::{Instant, timeout_at};

pub use config::{EgressRule, HostPattern, HttpConfig, HttpLimits, WebhooksConfig};
pub use fields::{RESERVED_HEADERS, RequestHeaders, SignatureScheme, check_request_target};
pub use http_url::{display_origin, parse_url};
pub use request::{EgressRequest, HOPS_HEADER, encode_form, parse_header_name};
pub use reqwest::Method;
pub use response::EgressResponse;
use response::ResponseLimits;
pub use webhook::WebhookSigner;

use self::policy::{DnsResolver, EgressPolicy, EgressResolver, SystemResolver};
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_core::redactor::Redactor;

/// The maximum number of redirects.
pub const MAX_REDIRECTS: usize = 3;

/// Makes outgoing calls within the egress policy. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct EgressClient(Arc<EgressClientState>);

struct EgressClientState {
    policy: Arc<EgressPolicy>,
    clients: ClientsByPort,
    limits: HttpLimits,
    webhook_signer: WebhookSigner,
    redactor: Redactor,
    clock: Clock,
}

struct ClientsByPort {
    /// For ports that no rule names.
    default_client: LazyClient,
    /// One client per port that a rule names: DNS resolution does not see the port of the call.
    by_port: BTreeMap<u16, LazyClient>,
}

/// A client that is built for its first call, because it loads the certificates of the system. An error fails only the
/// calls; the service runs without a client.
type LazyClient = LazyLock<Result<Client>, Box<dyn FnOnce() -> Result<Client> + Send>>;

impl EgressClient {
    /// Creates a client with these rules and limits. `webhooks` signs requests; `redactor` removes secrets that servers
    /// echo.
    pub fn new(
        config: &HttpConfig,
        limits: &HttpLimits,
        webhooks: WebhookSigner,
        redactor: Redactor,
        clock: Clock,
    ) -> Self {
        Self::with_resolver(config, limits, (webhooks, redactor, clock), Arc::new(SystemResolver))
    }

    /// Same as [`Self::new`], with another DNS resolver.
    pub(crate) fn with_resolver(
        config: &HttpConfig,
        limits: &HttpLimits,
        (webhooks, redactor, clock): (WebhookSigner, Redactor, Clock),
        names: Arc<dyn DnsResolver>,
    ) -> Self {
        let allowed = config.allow.iter().filter_map(|entry| EgressRule::parse(entry)).collect();
        let guard = Arc::new(EgressPolicy::new(allowed));
        let limits = limits.clone();
        let clients = ClientsByPort::new(&guard, &names, &limits);
        Self(Arc::new(EgressClientState { policy: guard, clients, limits, webhook_signer: webhooks, redactor, clock }))
    }

    /// The signer of outgoing webhooks.
    pub fn webhook_signer(&self) -> &WebhookSigner {
        &self.0.webhook_signer
    }

    /// The clock of the process.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Removes secrets from responses; servers echo what they receive.
    pub fn redactor(&self) -> &Redactor {
        &self.0.redactor
    }

    /// Sends a request, follows redirects and returns the response, whatever its status. The body is not read yet.
    ///
    /// # Errors
    /// Permanent: `egress_blocked`, `http_redirect_refused`, `http_url_invalid`, and `http_client_failed` if the system
    /// has no certificates. Transient: `http_unreachable` (the request was not sent), `http_timeout` and `http_broken`
    /// (it may have been sent).
    pub async fn send(&self, request: EgressRequest) -> Result<EgressResponse> {
        let timeout = request.timeout.unwrap_or(self.0.limits.total.0);
        let within = ResponseLimits { timeout, deadline: Instant::now() + timeout, max_body: self.0.limits.body };
        let mut hop = self.send_once(&request, within).await?;
        let mut last = request.clone();
        for followed in 0.. {
            let next = match request.max_redirects {
                0 => None,
                _ => redirect::next_request(&last, hop.status_code(), hop.header_text("location"))?,
            };
            let Some(next) = next else { break };
            if followed == request.max_redirects {
                return Err(redirect::too_many_redirects(&request, &next.url));
            }
            hop = self.send_once(&next, within).await?;
            last = next;
        }
        Ok(hop)
    }

    async fn send_once(&self, request: &EgressRequest, within: ResponseLimits) -> Result<EgressResponse> {
        let shown = request.method_and_origin();
        self.0.policy.check_host(&request.url).map_err(|found| errors::address_blocked(&found, &shown))?;
        let port = request.url.port_or_known_default();
        let client = self.0.clients.client_for_port(port)?;
        let call = client.request(request.method.clone(), request.url.clone()).headers(request.headers.clone());
        let answered = timeout_at(within.deadline, call.body(request.body.clone()).send()).await;
        let response = match answered {
            Ok(response) => response.map_err(|error| errors::from_reqwest(&error, &shown))?,
            Err(_) => return Err(errors::call_timed_out(&shown, within.timeout)),
        };
        Ok(EgressResponse {
            response,
            request_label: shown,
            limits: within,
            received_at: self.0.clock.now(),
            redactor: self.0.redactor.clone(),
        })
    }
}

impl ClientsByPort {
    fn new(guard: &Arc<EgressPolicy>, names: &Arc<dyn DnsResolver>, limits: &HttpLimits) -> Self {
        let client = |port| -> LazyClient {
            let resolver = EgressResolver { policy: guard.clone(), dns: names.clone(), port };
            let limits = limits.clone();
            LazyLock::new(Box::new(move || build_client(resolver, &limits)))
        };
        let by_port = guard.rule_ports().into_iter().map(|port| (port, client(Some(port)))).collect();
        Self { by_port, default_client: client(None) }
    }

    fn client_for_port(&self, port: Option<u16>) -> Result<&Client> {
        let client = port.and_then(|port| self.by_port.get(&port)).unwrap_or(&self.default_client);
        LazyLock::force(client).as_ref().map_err(Clone::clone)
    }
}

fn build_client(resolver: EgressResolver, limits: &HttpLimits) -> Result<Client> {
    // A small compressed body could grow beyond every limit when it is read.
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
        let error = Error::new(codes::HTTP_CLIENT_FAILED, format!("no calls can be made: {error}"));
        tracing::warn!(error.code = error.code().name(), "outgoing calls fail: {error}");
        error
    })
}

#[cfg(test)]
mod tests;
