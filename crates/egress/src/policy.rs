//! The egress policy: the public internet, and what the configuration allows in addition.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::config::{EgressRule, HostPattern};
use afterload_core::ip_ranges::non_public_kind;

/// Resolves host names. Tests use one whose answers change.
pub(crate) trait DnsResolver: Send + Sync {
    /// Resolves a name to at least one address.
    fn resolve_host(&self, name: &str) -> DnsFuture;
}

pub(crate) type DnsFuture = Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;

/// The resolver of the operating system.
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

/// A blocked address; holds its kind. The address itself is not shown: a caller who can start a run must not learn
/// internal addresses.
#[derive(Debug)]
pub(super) struct BlockedAddress(pub &'static str);

impl fmt::Display for BlockedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must not be called", self.0)
    }
}

impl std::error::Error for BlockedAddress {}

/// The rules. A port is `None` if no rule names it.
pub(super) struct EgressPolicy(Vec<EgressRule>);

impl EgressPolicy {
    pub(super) fn new(allowed: Vec<EgressRule>) -> Self {
        Self(allowed)
    }

    pub(super) fn rule_ports(&self) -> BTreeSet<u16> {
        self.0.iter().filter_map(|rule| rule.port).collect()
    }

    /// Checks the host of a URL if it is a literal address. A name is resolved and checked with the connection, so that
    /// exactly the checked addresses are called.
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
                HostPattern::Name(allowed) => *allowed == name,
                HostPattern::Subdomains(end) => name.ends_with(end.as_str()) && name.len() > end.len(),
            };
            fits && rule.matches_port(port)
        })
    }
}

/// Resolves names for connections to one port. Returns addresses only if all of them are allowed.
pub(super) struct EgressResolver {
    pub policy: Arc<EgressPolicy>,
    pub dns: Arc<dyn DnsResolver>,
    pub port: Option<u16>,
}

impl Resolve for EgressResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, port) = (self.policy.clone(), self.port);
        let lookup = self.dns.resolve_host(name.as_str());
        Box::pin(async move {
            let found = lookup.await?;
            if !guard.allows_name(name.as_str(), port) {
                found.iter().try_for_each(|ip| guard.check_address(*ip, port))?;
            }
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
