//! The IP ranges outside the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first address, the prefix length and the description of each network.
const NON_PUBLIC_V4_RANGES: [([u8; 4], u8, &str); 17] = [
    ([0, 0, 0, 0], 8, "an unspecified address"),
    ([10, 0, 0, 0], 8, "a private address"),
    ([100, 64, 0, 0], 10, "a carrier's private address"),
    ([127, 0, 0, 0], 8, "a loopback address"),
    // Azure's metadata service for virtual machines.
    ([168, 63, 129, 16], 32, "a metadata address"),
    ([169, 254, 169, 254], 32, "a metadata address"),
    ([169, 254, 0, 0], 16, "a link-local address"),
    ([172, 16, 0, 0], 12, "a private address"),
    ([192, 0, 0, 0], 24, "a reserved address"),
    ([192, 0, 2, 0], 24, "a documentation address"),
    ([192, 88, 99, 0], 24, "a reserved address"),
    ([192, 168, 0, 0], 16, "a private address"),
    ([198, 18, 0, 0], 15, "a benchmark address"),
    ([198, 51, 100, 0], 24, "a documentation address"),
    ([203, 0, 113, 0], 24, "a documentation address"),
    ([224, 0, 0, 0], 4, "a multicast address"),
    ([240, 0, 0, 0], 4, "a reserved address"),
];

const NON_PUBLIC_V6_RANGES: [([u16; 8], u8, &str); 14] = [
    ([0; 8], 128, "an unspecified address"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "a loopback address"),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "an IPv4 address within an IPv6 address"),
    ([0; 8], 96, "an IPv4 address within an IPv6 address"),
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "a metadata address"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "a private address"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "a link-local address"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "a private address"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "a multicast address"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "a documentation address"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "a documentation address"),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "a benchmark address"),
    // Teredo and other protocols that carry IPv4 over IPv6.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "a reserved address"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "an IPv4 address within an IPv6 address"),
];

/// Describes an address that is not public; `None` for a public one.
pub fn non_public_kind(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => non_public_v4_kind(ip),
        IpAddr::V6(ip) => non_public_v6_kind(ip),
    }
}

fn non_public_v4_kind(ip: Ipv4Addr) -> Option<&'static str> {
    let within = |(start, prefix, _): &&([u8; 4], u8, &str)| {
        let differing_bits = Ipv4Addr::from(*start).to_bits() ^ ip.to_bits();
        differing_bits.leading_zeros() >= u32::from(*prefix)
    };
    NON_PUBLIC_V4_RANGES.iter().find(within).map(|(.., what)| *what)
}

fn non_public_v6_kind(ip: Ipv6Addr) -> Option<&'static str> {
    // NAT64: the address leads to the IPv4 address within, so that one decides.
    if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = ip.segments() {
        return non_public_v4_kind(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
    }
    let within = |(start, prefix, _): &&([u16; 8], u8, &str)| {
        let differing_bits = Ipv6Addr::from(*start).to_bits() ^ ip.to_bits();
        differing_bits.leading_zeros() >= u32::from(*prefix)
    };
    let known = NON_PUBLIC_V6_RANGES.iter().find(within).map(|(.., what)| *what);
    // Only 2000::/3 is allocated to the public internet.
    known.or_else(|| (ip.segments()[0] >> 13 != 1).then_some("a reserved address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_public_addresses_are_described() {
        for (address, what) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.255.255.255", "private"),
            ("100.64.0.1", "carrier"),
            ("100.100.100.200", "carrier"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "metadata"),
            ("169.254.169.254", "metadata"),
            ("169.254.0.1", "link-local"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "reserved"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "reserved"),
            ("192.168.0.1", "private"),
            ("198.18.0.1", "benchmark"),
            ("198.19.255.255", "benchmark"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "within"),
            ("::ffff:8.8.8.8", "within"),
            ("::8.8.8.8", "within"),
            ("::127.0.0.1", "within"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::169.254.169.254", "metadata"),
            ("64:ff9b:1::8.8.8.8", "reserved"),
            ("100::1", "reserved"),
            ("2001::1", "reserved"),
            ("2001:2::1", "benchmark"),
            ("2001:20::1", "reserved"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::", "within"),
            ("2002:808:808::", "within"),
            ("3fff::1", "documentation"),
            ("4000::1", "reserved"),
            ("5f00::1", "reserved"),
            ("fc00::1", "private"),
            ("fd12:3456::1", "private"),
            ("fd00:ec2::254", "metadata"),
            ("fe80::1", "link-local"),
            ("fec0::1", "private"),
            ("ff02::1", "multicast"),
        ] {
            let found = non_public_kind(address.parse().unwrap());
            assert!(found.is_some_and(|found| found.contains(what)), "{address}: {found:?}");
        }
    }

    #[test]
    fn neighbors_of_private_networks_are_public() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1111",
            "64:ff9b::8.8.8.8",
            "3ffe::1",
        ] {
            assert_eq!(non_public_kind(address.parse().unwrap()), None, "{address}");
        }
    }
}
