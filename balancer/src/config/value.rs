//! Values that are written as strings, in the file as on the command line. Each type holds only what is valid.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;

/// Longest name of a server or service, in bytes.
const NAME_MAX: usize = 64;

/// Longest name of an interface, in bytes (`IFNAMSIZ` less the closing NUL).
const INTERFACE_MAX: usize = 15;

/// A text that doesn't say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {wanted}")]
pub struct ValueError {
    given: String,
    wanted: &'static str,
}

impl ValueError {
    pub(super) fn new(given: &str, wanted: &'static str) -> Self {
        Self {
            given: given.to_owned(),
            wanted,
        }
    }
}

/// What is read from a string. [`value!`] makes `FromStr` and `Deserialize` of it.
pub(super) trait Value: Sized {
    /// What it is, and how to write it: the end of 'this is not ...'.
    const WANTED: &'static str;

    /// Whether the file has it in quotes; a whole number isn't.
    const QUOTED: bool = true;

    /// `None`: the text is not such a value.
    fn read(text: &str) -> Option<Self>;
}

/// Makes `FromStr` (for the command line) and `Deserialize` (for the file) of a type's [`Value`].
macro_rules! value {
    ($($type:ty),* $(,)?) => {$(
        impl std::str::FromStr for $type {
            type Err = $crate::config::ValueError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                use $crate::config::{ValueError, value::Value};

                <Self as Value>::read(text).ok_or_else(|| ValueError::new(text, <Self as Value>::WANTED))
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(<$type as $crate::config::value::Value>::WANTED)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        if <$type as $crate::config::value::Value>::QUOTED {
                            text.parse().map_err(E::custom)
                        } else {
                            Err(E::invalid_type(serde::de::Unexpected::Str(text), &self))
                        }
                    }

                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        if <$type as $crate::config::value::Value>::QUOTED {
                            Err(E::invalid_type(serde::de::Unexpected::Signed(number), &self))
                        } else {
                            number.to_string().parse().map_err(E::custom)
                        }
                    }
                }

                deserializer.deserialize_any(Text)
            }
        }
    )*};
}
pub(super) use value;

value!(
    Group,
    Identity,
    InterfaceName,
    Interval,
    KeyPath,
    Name,
    PeerAddress,
    Span
);

/// Name of a server or service: 1 to 64 bytes, printable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// This host's name (`gethostname`), or `localhost` where the host has none that will do.
    pub fn of_host() -> Self {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| Self::read(&name.to_string_lossy()))
            .unwrap_or_else(|| Self("localhost".to_owned()))
    }

    /// What the service of a server is called that nobody told anything.
    pub(super) fn www() -> Self {
        Self("www".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Name {
    const WANTED: &'static str =
        "a name: write 1 to 64 bytes, printable, with no space at either end";

    fn read(text: &str) -> Option<Self> {
        let fits = (1..=NAME_MAX).contains(&text.len());
        (fits && text.trim() == text && !text.contains(char::is_control))
            .then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a network interface, as the kernel would accept it (`dev_valid_name`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for InterfaceName {
    const WANTED: &'static str =
        "an interface name: write 1 to 15 bytes without spaces, slashes and colons, as in \"eth0\"";

    fn read(text: &str) -> Option<Self> {
        let fits = (1..=INTERFACE_MAX).contains(&text.len());
        let odd =
            text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':');
        (fits && !odd && text != "." && text != "..").then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address that clients use, with the prefix length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity(IpNet);

impl Identity {
    /// The address itself.
    pub fn address(self) -> IpAddr {
        self.0.addr()
    }

    /// The address with its prefix length, as it is put on an interface.
    pub fn net(self) -> IpNet {
        self.0
    }
}

impl Value for Identity {
    const WANTED: &'static str = "an identity: write the unicast address of a host with its prefix length, as in \"10.0.0.101/24\"";

    fn read(text: &str) -> Option<Self> {
        let net: IpNet = text.parse().ok()?;
        let names_host = match net {
            // A /31 or /32 has neither a network's own address nor a broadcast address (RFC 3021).
            IpNet::V4(net) => {
                net.prefix_len() >= 31
                    || (net.addr() != net.network() && net.addr() != net.broadcast())
            }
            IpNet::V6(net) => net.addr().to_ipv4_mapped().is_none(),
        };
        (names_host && !net.addr().is_loopback() && is_unicast(net.addr())).then_some(Self(net))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A multicast group and its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group(pub(super) SocketAddr);

impl Value for Group {
    const WANTED: &'static str = "a multicast group: write an address of 224.0.0.0/4 or ff00::/8 and a port, as in \
                                  \"239.255.99.18:9918\" or \"[ff02::9918]:9918\"";

    fn read(text: &str) -> Option<Self> {
        let group: SocketAddr = text.parse().ok()?;
        (group.ip().is_multicast() && group.port() != 0).then_some(Self(group))
    }
}

/// Where one peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerAddress(pub(super) SocketAddr);

impl Value for PeerAddress {
    const WANTED: &'static str = "a peer: write its unicast address and port, as in \"10.0.1.2:9918\" or \"[2001:db8::2]:9918\"";

    fn read(text: &str) -> Option<Self> {
        let peer: SocketAddr = text.parse().ok()?;
        (is_unicast(peer.ip()) && peer.port() != 0).then_some(Self(peer))
    }
}

/// A time between 10 ms and 60 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    /// As the standard library has it.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Value for Interval {
    const WANTED: &'static str =
        "a time from 10ms to 60s: write a whole number and ms, s or m, as in \"500ms\"";

    fn read(text: &str) -> Option<Self> {
        milliseconds(text)
            .filter(|ms| (10..=60_000).contains(ms))
            .map(|ms| Self(Duration::from_millis(ms)))
    }
}

/// A time between 1 s and 24 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl Value for Span {
    const WANTED: &'static str =
        "a time from 1s to 24h: write a whole number and s, m or h, as in \"10m\"";

    fn read(text: &str) -> Option<Self> {
        milliseconds(text)
            .filter(|ms| (1_000..=24 * 3_600_000).contains(ms))
            .map(|ms| Self(Duration::from_millis(ms)))
    }
}

fn milliseconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    u64::from_str(number).ok()?.checked_mul(unit_ms)
}

/// Where a key of the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPath(pub(super) PathBuf);

impl Value for KeyPath {
    const WANTED: &'static str =
        "a key file: write its whole path, as in \"/etc/balancer/cluster.key\"";

    fn read(text: &str) -> Option<Self> {
        (Path::new(text).is_absolute() && !text.contains('\0')).then(|| Self(text.into()))
    }
}

fn is_unicast(address: IpAddr) -> bool {
    !address.is_multicast() && !address.is_unspecified() && address != IpAddr::from([255; 4])
}
