//! The addresses outside the public internet that may be called, and the secrets of webhooks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::secret::Secret;
use afterload_core::units::{ByteSize, HumanDuration};

/// Outgoing HTTP calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Private targets that may be called: addresses (`127.0.0.1`), networks (`10.0.0.0/8`) and names
    /// (`internal.example`, `*.corp.example`), each with a port (`127.0.0.1:8080`, `[::1]:8080`) or for every port.
    pub allow: Vec<String>,
}

/// Calls that are signed as Standard Webhooks.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhooksConfig {
    /// The secret that signs outgoing webhooks: `whsec_` and 24 to 64 bytes in Base64. Default: derived from
    /// `secret_key` (`afterload key webhook` prints it); with `previous_secret_keys` a webhook carries a signature for each.
    pub secret: Option<Secret>,
    /// Events that a signed webhook may publish without an API key: their names, each with the secret of its sender.
    pub events: BTreeMap<String, Secret>,
}

impl WebhooksConfig {
    /// The prefix of a secret.
    pub const SECRET_PREFIX: &str = "whsec_";

    /// The bytes of a secret; `None` unless it is Base64 with the prefix and has 24 to 64 bytes.
    pub fn decode_secret(secret: &Secret) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(secret.expose_secret().strip_prefix(Self::SECRET_PREFIX)?).ok()?;
        (24..=64).contains(&bytes.len()).then_some(bytes)
    }
}

/// Limits on outgoing calls, because a server may hang, or send too slowly or too much.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpLimits {
    /// The timeout of a connection; default `5s`.
    pub connect: HumanDuration,
    /// The default timeout of a whole call; default `30s`.
    pub total: HumanDuration,
    /// The largest response body that is read into memory; default `1mb`.
    pub body: ByteSize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        let seconds = |seconds: u64| HumanDuration(std::time::Duration::from_secs(seconds));
        Self { connect: seconds(5), total: seconds(30), body: ByteSize(1 << 20) }
    }
}

/// An entry of `http.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// The hosts that the entry allows.
    pub host_pattern: HostPattern,
    /// The port; `None` for every port.
    pub port: Option<u16>,
}

/// The hosts of an entry of `http.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// These addresses, and names that resolve to them.
    Net(IpNet),
    /// This name, whatever it resolves to.
    Name(String),
    /// Every name with this suffix, which begins with a dot.
    Subdomains(String),
}

impl EgressRule {
    /// Parses an entry; `None` unless it is an address, a network or a name.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(net) = parse_network(text) {
            return Some(Self { host_pattern: HostPattern::Net(net), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let hosts = match (bare, parse_network(bare.unwrap_or(host))) {
            (_, Some(net)) => HostPattern::Net(net),
            (Some(_), None) => return None,
            (None, None) => parse_host_name(host)?,
        };
        Some(Self { host_pattern: hosts, port })
    }

    /// True if the entry covers this port. `None` is a port that no entry names.
    pub fn matches_port(&self, port: Option<u16>) -> bool {
        self.port.is_none() || self.port == port
    }
}

fn parse_network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.ok().map(|net| net.trunc())
}

/// Parses a host name as the URL parser does. A name that the URL parser reads as an address or rewrites is rejected:
/// it would never match.
fn parse_host_name(text: &str) -> Option<HostPattern> {
    let (under, name) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_lowercase();
    let url = url::Url::parse(&format!("http://{name}/")).ok()?;
    let plain = url.domain() == Some(name.as_str()) && url.port().is_none() && !name.contains('*');
    plain.then(|| if under { HostPattern::Subdomains(format!(".{name}")) } else { HostPattern::Name(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_entries_are_addresses_networks_or_names_with_an_optional_port() {
        let net = |text: &str| HostPattern::Net(text.parse().unwrap());
        for (text, hosts, port) in [
            ("127.0.0.1", net("127.0.0.1/32"), None),
            ("127.0.0.1:8080", net("127.0.0.1/32"), Some(8080)),
            ("10.1.2.3/8", net("10.0.0.0/8"), None),
            ("10.0.0.0/8:443", net("10.0.0.0/8"), Some(443)),
            ("::1", net("::1/128"), None),
            ("[::1]:8080", net("::1/128"), Some(8080)),
            ("[fd00::]", net("fd00::/128"), None),
            ("fd00::/8", net("fd00::/8"), None),
            ("Internal.Example.", HostPattern::Name("internal.example".into()), None),
            ("localhost:3000", HostPattern::Name("localhost".into()), Some(3000)),
            ("*.corp.example:8080", HostPattern::Subdomains(".corp.example".into()), Some(8080)),
        ] {
            assert_eq!(EgressRule::parse(text), Some(EgressRule { host_pattern: hosts, port }), "{text}");
        }
        let bad = ["", "*", "*.", "http://a.example", "a.example/path", "a.example:", "a.example:99999", "a@b.example"];
        for text in bad.into_iter().chain(["127.1", "[a.example]", "a.*.example", "10.0.0.0/33", "user:pass@x:80"]) {
            assert_eq!(EgressRule::parse(text), None, "{text}");
        }
    }
}
