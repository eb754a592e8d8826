//! Who asks, by the word of proxies that are believed: `X-Forwarded-For` and `X-Forwarded-Proto`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds at the end whom it got the request from. So the lists are read from their ends, as long as it is a believed
//! proxy who added what is read: the first address that isn't one is the client's. What stands before it anybody may have
//! written.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName};

use super::head::{X_FORWARDED_FOR, X_FORWARDED_PROTO};

/// What believed proxies say of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its address.
    pub client: Option<IpAddr>,
    /// It came to them by TLS, or it didn't.
    pub tls: Option<bool>,
}

/// Reads the claim. `believed`: whether a proxy is.
pub fn claim(headers: &HeaderMap, believed: impl Fn(IpAddr) -> bool) -> Claim {
    let mut claim = Claim::default();
    let mut follow = |node: Option<IpAddr>| {
        claim.client = node.or(claim.client);
        node.is_some_and(&believed)
    };
    if headers.contains_key(X_FORWARDED_FOR) {
        let mut nodes = from_the_end(headers, &X_FORWARDED_FOR);
        while nodes.next().is_some_and(|text| follow(node(text))) {}
    } else {
        let mut elements = from_the_end(headers, &FORWARDED);
        while let Some(element) = elements.next()
            && follow(parameter(element, "for").and_then(node))
        {}
    }
    claim.tls = from_the_end(headers, &X_FORWARDED_PROTO)
        .next()
        .or_else(|| parameter(from_the_end(headers, &FORWARDED).next()?, "proto"))
        .and_then(|scheme| match scheme.to_ascii_lowercase().as_str() {
            "https" => Some(true),
            "http" => Some(false),
            _ => None,
        });
    claim
}

/// What is between the commas of all lines, the last one first.
fn from_the_end<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = headers.get_all(name).iter().rev();
    lines
        .flat_map(|line| line.to_str().unwrap_or("?").rsplit(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// An address, with a port or without.
fn node(text: &str) -> Option<IpAddr> {
    let plain = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse().ok().or_else(plain);
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// The value of a parameter of one element of `Forwarded`.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split(';').find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        let fits = found.trim().eq_ignore_ascii_case(name);
        fits.then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proxies are in 10.0.0.0/8.
    fn read(headers: &[(&'static str, &str)]) -> (String, Option<bool>) {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        let claim = claim(
            &map,
            |address| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10),
        );
        let client = claim.client.map_or(String::new(), |ip| ip.to_string());
        (client, claim.tls)
    }

    #[test]
    fn the_first_address_that_is_no_proxys_is_the_clients() {
        for (list, client) in [
            ("192.0.2.7", "192.0.2.7"),
            ("1.2.3.4, 192.0.2.7", "192.0.2.7"),
            ("1.2.3.4,192.0.2.7, 10.0.0.2,10.0.0.3", "192.0.2.7"),
            ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
            ("192.0.2.7:4000", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]:4000, 10.0.0.2", "2001:db8::7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("1.2.3.4, evil, 10.0.0.2", "10.0.0.2"),
            ("evil", ""),
            ("", ""),
        ] {
            assert_eq!(read(&[("x-forwarded-for", list)]).0, client, "{list}");
        }
        let lines = [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        assert_eq!(read(&lines).0, "192.0.2.7");
    }

    #[test]
    fn the_standard_header_says_as_much() {
        for (list, said) in [
            ("for=192.0.2.7", ("192.0.2.7", None)),
            (
                "for=1.2.3.4, For=\"[2001:db8::7]:80\"; Proto=https",
                ("2001:db8::7", Some(true)),
            ),
            (
                "for=192.0.2.7;proto=http, for=10.0.0.2",
                ("192.0.2.7", None),
            ),
            ("for=_hidden;proto=http", ("", Some(false))),
            ("by=10.0.0.1", ("", None)),
        ] {
            let (client, tls) = read(&[("forwarded", list)]);
            assert_eq!((client.as_str(), tls), said, "{list}");
        }
        let both = [
            ("forwarded", "for=1.2.3.4;proto=http"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "gopher, HTTPS"),
        ];
        assert_eq!(read(&both), ("192.0.2.7".to_owned(), Some(true)));
    }
}
