//! What a peer's module says of a request that it relays: who the client is, and that the request was routed. Sealed with a key
//! made from the cluster's, so that a client can't say such a thing, and no request is relayed twice.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::exchange::Keyring;

/// The header of a relayed request. What a client sends under this name is taken out.
const HEADER: HeaderName = HeaderName::from_static("balancer-relayed");

/// Bytes of a hop: TLS, address, port.
const LENGTH: usize = 1 + 16 + 2;

/// The client of a relayed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The client.
    pub client: SocketAddr,
    /// It came by TLS.
    pub tls: bool,
}

/// The keys that hops are sealed with.
pub struct Seals(Keyring);

impl Seals {
    /// Made from the cluster's.
    pub fn new(cluster: &Keyring) -> Self {
        Self(cluster.derive(b"balancer: relayed client"))
    }

    /// Tells the next server of the client.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn put(&self, headers: &mut HeaderMap, hop: Hop) -> Result<(), crate::exchange::SealError> {
        let sealed = self.0.seal(&hop.to_bytes())?;
        if let Ok(value) = HeaderValue::try_from(BASE64_URL_SAFE_NO_PAD.encode(sealed)) {
            headers.insert(HEADER, value);
        }
        Ok(())
    }

    /// Takes the header out. What is returned was said by a server of the cluster.
    pub fn take(&self, headers: &mut HeaderMap) -> Option<Hop> {
        let value = headers.remove(HEADER)?;
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
        Hop::from_bytes(&self.0.open(&sealed).ok()?)
    }
}

/// Takes the header out.
pub fn remove(headers: &mut HeaderMap) {
    headers.remove(HEADER);
}

impl Hop {
    fn to_bytes(self) -> [u8; LENGTH] {
        let address = match self.client.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut bytes = [0; LENGTH];
        bytes[0] = self.tls.into();
        bytes[1..17].copy_from_slice(&address.octets());
        bytes[17..].copy_from_slice(&self.client.port().to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let (tls, rest) = bytes.split_first()?;
        let (address, port) = rest.split_first_chunk::<16>()?;
        let address = IpAddr::V6(Ipv6Addr::from(*address)).to_canonical();
        let port = u16::from_be_bytes(port.try_into().ok()?);
        Some(Self {
            client: SocketAddr::new(address, port),
            tls: *tls == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Key;

    fn seals(key: u8) -> Seals {
        Seals::new(&Keyring::new(&Key::from([key; 32]), &[]))
    }

    #[test]
    fn only_a_server_of_the_cluster_is_believed() {
        for client in ["192.0.2.7:40000", "[2001:db8::7]:1"] {
            let hop = Hop {
                client: client.parse().unwrap(),
                tls: true,
            };
            let mut headers = HeaderMap::new();
            seals(1).put(&mut headers, hop).unwrap();
            assert_eq!(seals(1).take(&mut headers.clone()), Some(hop));
            assert_eq!(seals(2).take(&mut headers.clone()), None);

            let mut changed = headers[HEADER].as_bytes().to_vec();
            changed[60] ^= 1;
            headers.insert(HEADER, HeaderValue::from_bytes(&changed).unwrap());
            assert_eq!(seals(1).take(&mut headers), None);
            assert!(headers.is_empty(), "nothing of it reaches the web server");
        }
    }

    #[test]
    fn what_is_no_seal_is_taken_out() {
        for value in ["", "0", "zz", "+1", "00", "\u{e9}"] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            assert_eq!(seals(1).take(&mut headers), None);
            assert!(headers.is_empty());
        }
    }
}
