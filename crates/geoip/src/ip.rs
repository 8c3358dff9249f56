//! Parses IP addresses and recognizes those without a public location.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use ipnet::IpNet;

/// Local and carrier networks. No provider knows their addresses, and asking one would only leak them.
static LOCAL_NETWORKS: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    let nets = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "255.255.255.255/32",
    ];
    nets.iter().filter_map(|net| net.parse().ok()).collect()
});

/// Parses an address from a log or header: with surrounding white space, with a port, in brackets, or as IPv4 within
/// IPv6, which yields the IPv4 address.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    // `fe80::1%eth0` also names a network interface.
    let plain = bare.split_once('%').map_or(bare, |(address, _)| address);
    let found = plain.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(found.to_canonical())
}

/// True for an address without a public location: loopback, private or link-local.
pub fn is_local_ip(ip: IpAddr) -> bool {
    LOCAL_NETWORKS.iter().any(|net| net.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_as_logs_write_them() {
        for (text, ip) in [
            (" 8.8.8.8 ", "8.8.8.8"),
            ("8.8.8.8:443", "8.8.8.8"),
            ("[2001:4860:4860::8888]:53", "2001:4860:4860::8888"),
            ("[2001:4860:4860::8888]", "2001:4860:4860::8888"),
            ("2001:4860:4860:0:0:0:0:8888", "2001:4860:4860::8888"),
            ("::ffff:8.8.8.8", "8.8.8.8"),
            ("fe80::1%eth0", "fe80::1"),
        ] {
            assert_eq!(parse_ip(text).map(|ip| ip.to_string()).as_deref(), Some(ip), "{text}");
        }
        for text in ["", "8.8.8", "8.8.8.8.8", "010.1.1.1", "localhost", "8.8.8.8, 1.1.1.1", "::g"] {
            assert_eq!(parse_ip(text), None, "{text}");
        }
    }

    #[test]
    fn home_and_carrier_networks_are_local() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(parse_ip(text).is_some_and(is_local_ip), "{text}");
        }
        for text in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:4860:4860::8888", "192.169.0.1"] {
            assert!(!parse_ip(text).is_some_and(is_local_ip), "{text}");
        }
    }
}
