//! Which addresses are public.
//!
//! Owns the table and the resolver that filters by it. Both are needed: a name can be
//! public when it is looked at and private when it is connected to, so the filter sits
//! where the connection takes its addresses from; and a host that is written as an address
//! never reaches a resolver, so the URL is looked at as well.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// The host is not, or has no address that is, public.
#[derive(Debug)]
pub(super) struct Blocked(String);

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a public address, and this worker reaches no other",
            self.0
        )
    }
}

impl Error for Blocked {}

/// Looks at the host of a URL as it is written. The URL parser has already turned forms
/// such as `0x7f.1` and `2130706433` into plain addresses.
pub(super) fn check_host(url: &Url) -> Result<(), Blocked> {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let refused = match bare.parse::<IpAddr>() {
        Ok(address) => !is_public(address),
        Err(_) => is_inner_name(bare),
    };
    if refused { Err(Blocked(host.to_owned())) } else { Ok(()) }
}

/// Names that lead inside whatever a resolver says.
fn is_inner_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    ["localhost", "internal", "local", "home.arpa"].iter().any(|inner| {
        host.strip_suffix(inner)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// Whether an address belongs to the public internet and to one host.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        // This network, private, loopback.
        (0 | 10 | 127, _, _)
        // Addresses shared behind the translation of a carrier; also metadata there.
        | (100, 64..=127, _)
        // Link-local, which is where most clouds keep metadata and keys.
        | (169, 254, _)
        | (172, 16..=31, _)
        // Protocol assignments, documentation, the relay of 6to4.
        | (192, 0, 0 | 2)
        | (192, 88, 99)
        | (192, 168, _)
        // Benchmarks and documentation.
        | (198, 18..=19, _)
        | (198, 51, 100)
        | (203, 0, 113)
        // Multicast, reserved, broadcast.
        | (224..=255, _, _) => true,
        _ => false,
    };
    // The wire server of Azure has a public number and serves metadata inside.
    !special && address != Ipv4Addr::new(168, 63, 129, 16)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Only 2000::/3 is given out. Loopback, unique local, link-local, multicast, the
    // addresses of version 4 in version 6 and those behind NAT64 are all outside of it.
    let given_out = a & 0xe000 == 0x2000;
    let special = match (a, b) {
        // 2001::/23 holds Teredo and other protocols that carry other addresses inside.
        (0x2001, 0..=0x01ff) | (0x2001, 0x0db8) => true,
        // 6to4 carries any address of version 4 inside.
        (0x2002, _) => true,
        (0x3fff, 0..=0x0fff) => true,
        _ => false,
    };
    given_out && !special
}

/// A resolver that gives out public addresses only.
#[derive(Debug)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            if is_inner_name(&host) {
                return Err(Blocked(host).into());
            }
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let public: Vec<SocketAddr> =
                found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(Blocked(host).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for text in [
            "0.0.0.0",
            "10.0.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378::1",
            "2001:db8::1",
            "2001:20::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "223.255.255.255",
            "2001:4860::8888",
            "2400:cb00::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn hosts_are_looked_at_in_every_spelling() {
        let check = |text: &str| check_host(&Url::parse(text).unwrap());
        for text in [
            "http://127.0.0.1/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://017700000001/",
            "http://169.254.169.254/latest",
            "http://metadata.google.internal/",
            "http://printer.local/",
            "http://[fe80::1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        for text in
            ["http://example.com/", "http://1.1.1.1/", "http://mylocalhost.com/"]
        {
            assert!(check(text).is_ok(), "{text}");
        }
    }

    #[tokio::test]
    async fn the_resolver_gives_out_no_inner_address() {
        let error =
            PublicOnly.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(error.is::<Blocked>());
    }
}
