//! What may be called: the public internet, and what the configuration allows beside it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::address::private;
use super::config::{Allowed, Hosts};

/// Knows the addresses of names. The tests put one here that changes its mind.
pub(crate) trait Names: Send + Sync {
    /// The addresses of a name, at least one.
    fn look_up(&self, name: &str) -> Looked;
}

/// What a look-up comes to.
pub(crate) type Looked = Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;

/// The names that the system knows.
pub(super) struct System;

impl Names for System {
    fn look_up(&self, name: &str) -> Looked {
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
pub(super) struct Blocked(pub &'static str);

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must not be called", self.0)
    }
}

impl std::error::Error for Blocked {}

/// The rules. A port is `None` where no rule names it.
pub(super) struct Guard(Vec<Allowed>);

impl Guard {
    pub(super) fn new(allowed: Vec<Allowed>) -> Self {
        Self(allowed)
    }

    /// The ports that rules name.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        self.0.iter().filter_map(|rule| rule.port).collect()
    }

    /// Whether the host of a URL may be called, as far as the URL itself tells: a name is looked up only with the
    /// connection, so that exactly the addresses that were checked are called.
    pub(super) fn host(&self, url: &Url) -> Result<(), Blocked> {
        let port = url.port_or_known_default();
        match url.host() {
            Some(Host::Ipv4(ip)) => self.address(ip.into(), port),
            Some(Host::Ipv6(ip)) => self.address(ip.into(), port),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn address(&self, ip: IpAddr, port: Option<u16>) -> Result<(), Blocked> {
        let Some(what) = private(ip) else { return Ok(()) };
        let allows = |rule: &Allowed| rule.on(port) && matches!(&rule.hosts, Hosts::Net(net) if net.contains(&ip));
        if self.0.iter().any(allows) { Ok(()) } else { Err(Blocked(what)) }
    }

    fn name(&self, name: &str, port: Option<u16>) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.0.iter().any(|rule| {
            let fits = match &rule.hosts {
                Hosts::Net(_) => false,
                Hosts::Name(known) => *known == name,
                Hosts::Under(end) => name.ends_with(end.as_str()) && name.len() > end.len(),
            };
            fits && rule.on(port)
        })
    }
}

/// Looks names up for the connections to one port, and gives addresses only if every one of them may be called.
pub(super) struct Resolver {
    pub guard: Arc<Guard>,
    pub names: Arc<dyn Names>,
    pub port: Option<u16>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, port) = (self.guard.clone(), self.port);
        let looked = self.names.look_up(name.as_str());
        Box::pin(async move {
            let found = looked.await?;
            if !guard.name(name.as_str(), port) {
                found.iter().try_for_each(|ip| guard.address(*ip, port))?;
            }
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
