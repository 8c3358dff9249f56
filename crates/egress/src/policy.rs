//! What may be called: the public internet, and what the configuration allows beside it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::config::{EgressRule, HostPattern};
use super::ip_ranges::non_public_kind;

/// Knows the addresses of names. The tests put one here that changes its mind.
pub(crate) trait DnsResolver: Send + Sync {
    /// The addresses of a name, at least one.
    fn resolve_host(&self, name: &str) -> DnsFuture;
}

/// What a look-up comes to.
pub(crate) type DnsFuture = Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;

/// The names that the system knows.
pub(super) struct SystemResolver;

impl DnsResolver for SystemResolver {
    fn resolve_host(&self, name: &str) -> DnsFuture {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// An address that must not be called; holds what it is. Nothing is told of where the name led, which may be nobody's
/// business who can start a run.
#[derive(Debug)]
pub(super) struct BlockedAddress(pub &'static str);

impl fmt::Display for BlockedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must not be called", self.0)
    }
}

impl std::error::Error for BlockedAddress {}

/// The rules. A port is `None` where no rule names it.
pub(super) struct EgressPolicy(Vec<EgressRule>);

impl EgressPolicy {
    pub(super) fn new(allowed: Vec<EgressRule>) -> Self {
        Self(allowed)
    }

    /// The ports that rules name.
    pub(super) fn rule_ports(&self) -> BTreeSet<u16> {
        self.0.iter().filter_map(|rule| rule.port).collect()
    }

    /// Whether the host of a URL may be called, as far as the URL itself tells: a name is looked up only with the
    /// connection, so that exactly the addresses that were checked are called.
    pub(super) fn check_host(&self, url: &Url) -> Result<(), BlockedAddress> {
        let port = url.port_or_known_default();
        match url.host() {
            Some(Host::Ipv4(ip)) => self.check_address(ip.into(), port),
            Some(Host::Ipv6(ip)) => self.check_address(ip.into(), port),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn check_address(&self, ip: IpAddr, port: Option<u16>) -> Result<(), BlockedAddress> {
        let Some(what) = non_public_kind(ip) else { return Ok(()) };
        let allows = |rule: &EgressRule| {
            rule.matches_port(port) && matches!(&rule.host_pattern, HostPattern::Net(net) if net.contains(&ip))
        };
        if self.0.iter().any(allows) { Ok(()) } else { Err(BlockedAddress(what)) }
    }

    fn allows_name(&self, name: &str, port: Option<u16>) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.0.iter().any(|rule| {
            let fits = match &rule.host_pattern {
                HostPattern::Net(_) => false,
                HostPattern::Name(known) => *known == name,
                HostPattern::Subdomains(end) => name.ends_with(end.as_str()) && name.len() > end.len(),
            };
            fits && rule.matches_port(port)
        })
    }
}

/// Looks names up for the connections to one port, and gives addresses only if every one of them may be called.
pub(super) struct EgressResolver {
    pub policy: Arc<EgressPolicy>,
    pub dns: Arc<dyn DnsResolver>,
    pub port: Option<u16>,
}

impl Resolve for EgressResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, port) = (self.policy.clone(), self.port);
        let looked = self.dns.resolve_host(name.as_str());
        Box::pin(async move {
            let found = looked.await?;
            if !guard.allows_name(name.as_str(), port) {
                found.iter().try_for_each(|ip| guard.check_address(*ip, port))?;
            }
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
