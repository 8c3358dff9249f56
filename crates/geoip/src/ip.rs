//! Parses IP addresses and recognizes those without a public location.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use afterload_core::ip_ranges::non_public_kind;

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

/// True for an address without a public location: private, reserved, multicast, for documentation, and an IPv6 address
/// that carries such an IPv4 address. No provider knows these, and asking one would only leak them.
pub fn is_local_ip(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V6(ip) => is_local_v6(ip),
        ip @ IpAddr::V4(_) => non_public_kind(ip).is_some(),
    }
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    let is_local = |high: u16, low: u16| {
        let embedded = Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
        non_public_kind(IpAddr::V4(embedded)).is_some()
    };
    match ip.segments() {
        // 6to4: the address of the router.
        [0x2002, high, low, ..] => is_local(high, low),
        // Teredo: the address of the server, and that of the client with all bits inverted.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            is_local(server_high, server_low) || is_local(!high, !low)
        }
        _ => non_public_kind(IpAddr::V6(ip)).is_some(),
    }
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
    fn addresses_without_a_public_location_are_local() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "2001:2::1",
            "3fff::1",
            "64:ff9b::10.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:203.0.113.1",
            // 6to4 of 10.0.0.1, and of 192.168.1.1.
            "2002:a00:1::1",
            "2002:c0a8:101::",
            // Teredo with the server 10.0.0.1, and with the client 192.168.1.1.
            "2001:0:a00:1::f7f7:f7f7",
            "2001:0:808:808::3f57:fefe",
        ] {
            assert!(parse_ip(text).is_some_and(is_local_ip), "{text}");
            assert!(is_local_ip(text.parse().unwrap()), "{text}");
        }
        for text in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2001:4860:4860::8888",
            "192.169.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            // Teredo with the server and the client 8.8.8.8.
            "2001:0:808:808::f7f7:f7f7",
        ] {
            assert!(parse_ip(text).is_some_and(|ip| !is_local_ip(ip)), "{text}");
            assert!(!is_local_ip(text.parse().unwrap()), "{text}");
        }
    }
}
