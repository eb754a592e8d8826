//! The ports of a service.

use std::fmt;

use super::value::{Value, value};
use crate::cluster as report;

value!(PortRange);

/// The protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Its number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One port or several in a row: `80/tcp`, `30000-30100/tcp`. Never port 0, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The lowest port.
    pub first: u16,
    /// The highest port; the same as the lowest for one port.
    pub last: u16,
}

impl PortRange {
    /// One TCP port.
    pub(super) const fn tcp(port: u16) -> Self {
        Self {
            protocol: Protocol::Tcp,
            first: port,
            last: port,
        }
    }

    /// Whether both have a port in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }
}

impl From<PortRange> for report::PortRange {
    fn from(range: PortRange) -> Self {
        Self {
            protocol: range.protocol.number(),
            first: range.first,
            last: range.last,
        }
    }
}

impl Value for PortRange {
    const WANTED: &'static str = "ports of a service: write PORT/tcp or FIRST-LAST/tcp with 1 to 65535, as in \"80/tcp\" or \"30000-30100/tcp\"";

    fn read(text: &str) -> Option<Self> {
        let (ports, protocol) = text.split_once('/')?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (port(first)?, port(last)?);
        (first <= last).then_some(Self {
            protocol,
            first,
            last,
        })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            first,
            last,
        } = self;
        if first == last {
            write!(f, "{first}/{protocol}")
        } else {
            write!(f, "{first}-{last}/{protocol}")
        }
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn printed_range_reads_back(a in 1..=u16::MAX, b in 1..=u16::MAX, udp: bool) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let range = PortRange { protocol, first: a.min(b), last: a.max(b) };
            prop_assert_eq!(range.to_string().parse(), Ok(range));
        }
    }

    #[test]
    fn what_is_no_range_of_ports() {
        for text in [
            "",
            "80",
            "80/",
            "/tcp",
            "0/tcp",
            "65536/tcp",
            "+80/tcp",
            "80/sctp",
            "80/TCP",
            "2-1/tcp",
            "1-2-3/tcp",
            "-/tcp",
        ] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_overlap_where_they_share_a_port() {
        let overlap =
            |a: &str, b: &str| a.parse::<PortRange>().unwrap().overlaps(b.parse().unwrap());
        assert!(overlap("80/tcp", "80/tcp"));
        assert!(overlap("1-10/tcp", "10-20/tcp"));
        assert!(overlap("1-100/tcp", "50/tcp"));
        assert!(!overlap("1-9/tcp", "10-20/tcp"));
        assert!(!overlap("80/tcp", "80/udp"));
    }
}
