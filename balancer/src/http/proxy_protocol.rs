//! The PROXY protocol (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>), versions 1 and 2: who a client is, told
//! by a proxy before the client's first byte.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Builder, Command, Protocol, Version};
use ppp::{HeaderResult, PartialResult as _, v1, v2};

/// Longest header that is waited for, in bytes: with more than addresses and some notes in it, no proxy is at work.
pub const HEADER_MAX: usize = 1024;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The beginning of a header.
    Partial,
    /// A header of so many bytes. It names the client, unless the proxy speaks for itself.
    Whole {
        /// Its length in bytes.
        length: usize,
        /// The client.
        client: Option<SocketAddr>,
    },
    /// Something else.
    None,
}

/// Reads the header of a connection that must have one.
pub fn read(bytes: &[u8]) -> Header {
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() && bytes.len() < HEADER_MAX {
        return Header::Partial;
    }
    match parsed {
        HeaderResult::V1(Ok(header)) => Header::Whole {
            length: header.header.len(),
            client: match header.addresses {
                v1::Addresses::Tcp4(tcp) => Some((tcp.source_address, tcp.source_port).into()),
                v1::Addresses::Tcp6(tcp) => Some((tcp.source_address, tcp.source_port).into()),
                v1::Addresses::Unknown => None,
            },
        },
        HeaderResult::V2(Ok(header)) => Header::Whole {
            length: header.len(),
            client: match (header.command, header.addresses) {
                (Command::Proxy, v2::Addresses::IPv4(tcp)) => {
                    Some((tcp.source_address, tcp.source_port).into())
                }
                (Command::Proxy, v2::Addresses::IPv6(tcp)) => {
                    Some((tcp.source_address, tcp.source_port).into())
                }
                _ => None,
            },
        },
        _ => Header::None,
    }
}

/// The header, of version 2, that tells a web server of a client.
///
/// # Errors
///
/// None that could happen: it is short enough.
pub fn write(client: SocketAddr, server: SocketAddr) -> io::Result<Vec<u8>> {
    // Addresses of two families can't be in one header.
    let (client, server) = match (client, server) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
            (client, server)
        }
        _ => (mapped(client), mapped(server)),
    };
    Builder::with_addresses(
        Version::Two | Command::Proxy,
        Protocol::Stream,
        (client, server),
    )
    .build()
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_name_the_client() {
        let v1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 80\r\nGET / HTTP/1.1\r\n";
        assert_eq!(
            read(v1),
            Header::Whole {
                length: 40,
                client: Some("192.0.2.7:40000".parse().unwrap())
            }
        );
        for (client, server) in [
            ("192.0.2.7:40000", "10.0.0.1:80"),
            ("[2001:db8::7]:40000", "[2001:db8::1]:80"),
        ] {
            let client = client.parse().unwrap();
            let header = write(client, server.parse().unwrap()).unwrap();
            let whole = Header::Whole {
                length: header.len(),
                client: Some(client),
            };
            assert_eq!(read(&header), whole);
            assert_eq!(read(&[&header[..], b"GET"].concat()), whole);
            for length in 1..header.len() {
                assert_eq!(read(&header[..length]), Header::Partial, "{length} bytes");
            }
        }
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        assert_eq!(
            read(b"PROXY UNKNOWN\r\n"),
            Header::Whole {
                length: 15,
                client: None
            }
        );
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        assert_eq!(
            read(local),
            Header::Whole {
                length: 16,
                client: None
            }
        );
    }

    #[test]
    fn other_things_are_no_header() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; HEADER_MAX]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 evil 10.0.0.1 1 2\r\n",
            b"\x16\x03\x01",
            &long,
        ] {
            assert_eq!(read(bytes), Header::None);
        }
    }
}
