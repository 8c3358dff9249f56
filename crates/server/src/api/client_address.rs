//! The address of the client: that of the connection, or what trusted proxies report.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;

use afterload_http_listener::PeerAddress;

const FORWARDED: &str = "forwarded";
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// The address that the outermost layer has resolved. A request that came through no layer came from this process.
    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(Ipv4Addr::LOCALHOST.into()))
    }

    /// Resolves the address of a request. Only a trusted peer may report another one.
    pub(super) fn resolve(extensions: &Extensions, headers: &HeaderMap, proxies: &TrustedProxies) -> Self {
        let peer = extensions.get().map_or(Ipv4Addr::LOCALHOST.into(), |PeerAddress(peer)| peer.to_canonical());
        if !proxies.contains(peer) {
            return Self(peer);
        }
        let listed = [x_forwarded_for(headers), forwarded_for(headers)];
        let mut reported = listed.into_iter().flatten().map(|chain| proxies.client_of(peer, &chain));
        match (reported.next(), reported.next()) {
            // A client can send the header that its proxy does not set. Then the two differ, and neither counts.
            (Some(one), Some(other)) if one != other => Self(peer),
            (Some(one), _) => Self(one),
            (None, _) => Self(peer),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// The proxies whose reports about their clients count.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Reads networks and single addresses. Skips what [`Self::parse_network`] rejects.
    pub fn from_list(entries: &[String]) -> Self {
        Self(entries.iter().filter_map(|entry| Self::parse_network(entry)).collect())
    }

    /// Reads a network such as `10.0.0.0/8`, or an address.
    pub fn parse_network(entry: &str) -> Option<IpNet> {
        entry.parse().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from))
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The last address of the chain that is no trusted proxy: everything before it may be invented. An entry without
    /// an address ends the search.
    fn client_of(&self, peer: IpAddr, chain: &[Option<IpAddr>]) -> IpAddr {
        let mut client = peer;
        for entry in chain.iter().rev() {
            match entry {
                Some(address) => client = *address,
                None => return client,
            }
            if !self.contains(client) {
                return client;
            }
        }
        client
    }
}

/// The values of all headers of this name, as one list.
fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("unknown")).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn x_forwarded_for(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let text = header_text(headers, X_FORWARDED_FOR)?;
    Some(text.split(',').map(|entry| parse_node(entry.trim())).collect())
}

/// The `for` of each element of `Forwarded`, as in RFC 7239.
fn forwarded_for(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let text = header_text(headers, FORWARDED)?;
    let element = |element: &str| {
        let mut pairs = split_unquoted(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
        let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
        let node = node.trim();
        parse_node(node.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(node))
    };
    Some(split_unquoted(&text, ',').into_iter().map(element).collect())
}

fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c| {
        let is_quote = c == '"' && !escaped;
        escaped = quoted && !escaped && c == '\\';
        quoted ^= is_quote;
        c == separator && !quoted
    })
    .collect()
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_node(text: &str) -> Option<IpAddr> {
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse::<IpAddr>().ok().or_else(in_brackets).or_else(with_port);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let proxies: Vec<String> = ["127.0.0.1", "10.0.0.0/8", "2001:db8:f::/48"].map(str::to_owned).into();
        let mut extensions = Extensions::new();
        extensions.insert(PeerAddress(peer.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        ClientAddress::resolve(&extensions, &map, &TrustedProxies::from_list(&proxies)).0.to_string()
    }

    #[test]
    fn the_last_untrusted_address_is_the_client() {
        for (list, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.7, 192.0.2.1", "192.0.2.1"),
            ("192.0.2.7,192.0.2.1 , 10.1.1.1", "192.0.2.1"),
            ("192.0.2.1:4711, 10.1.1.1:80", "192.0.2.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("2001:db8::1, 2001:db8:f::9", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
            ("192.0.2.7, unknown", "127.0.0.1"),
            ("192.0.2.7, unknown, 10.1.1.1", "10.1.1.1"),
            ("", "127.0.0.1"),
            ("192.0.2.7,", "127.0.0.1"),
        ] {
            assert_eq!(resolved("127.0.0.1", &[(X_FORWARDED_FOR, list)]), client, "{list}");
        }
        let lines = [(X_FORWARDED_FOR, "192.0.2.7"), (X_FORWARDED_FOR, "192.0.2.1, 10.1.1.1")];
        assert_eq!(resolved("::ffff:10.3.3.3", &lines), "192.0.2.1", "several lines are one list");
        for (list, client) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("for=192.0.2.7, For=\"192.0.2.1:80\";proto=https;by=10.1.1.1", "192.0.2.1"),
            ("proto=https;for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("by=\"a,for=192.0.2.7\";for=192.0.2.1", "192.0.2.1"),
            ("by=\"a\\\",b\";for=192.0.2.1", "192.0.2.1"),
            ("for=_hidden", "127.0.0.1"),
            ("for=192.0.2.7, proto=https", "127.0.0.1"),
        ] {
            assert_eq!(resolved("127.0.0.1", &[(FORWARDED, list)]), client, "{list}");
        }
    }

    #[test]
    fn nobody_else_reports_an_address() {
        let list = [(X_FORWARDED_FOR, "192.0.2.1"), (FORWARDED, "for=192.0.2.1")];
        assert_eq!(resolved("198.51.100.1", &list), "198.51.100.1", "the peer is no proxy");
        assert_eq!(resolved("127.0.0.1", &list), "192.0.2.1");
        let forged = [(X_FORWARDED_FOR, "192.0.2.1"), (FORWARDED, "for=192.0.2.7")];
        assert_eq!(resolved("127.0.0.1", &forged), "127.0.0.1", "the headers contradict each other");
        assert_eq!(resolved("127.0.0.1", &[]), "127.0.0.1");
    }
}
