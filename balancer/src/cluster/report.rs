//! What servers say to each other, and how it looks on the wire.
//!
//! Seals keep strangers out, but a server of the cluster may be broken or broken into, so what arrives is checked as if
//! it weren't sealed: [`Message::decode`] gives nothing that a caller would have to check again.

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::ServerId;
use super::recovery::{FlowsPart, FlowsQuery};

/// Bytes that the name of a server or service may have.
pub const MAX_NAME: usize = 64;
/// Services in a report.
pub const MAX_SERVICES: usize = balancer_common::types::MAX_SERVICES as usize;
/// Balanced interfaces in a report.
pub const MAX_LINKS: usize = 8;
/// Addresses of one link.
pub const MAX_ADDRESSES: usize = 64;
/// Identities in a report.
pub const MAX_IDENTITIES: usize = 64;
/// Draining servers whose guests a report counts.
pub const MAX_GUESTS: usize = 64;
/// Port ranges of one service.
pub const MAX_PORTS: usize = 64;
/// Host names of one service.
pub const MAX_NAMES: usize = 8;
/// Paths of one service.
pub const MAX_SERVES: usize = 16;
/// Bytes of a host name or a path.
pub const MAX_PATH: usize = 256;
/// Queries that one report answers.
pub const MAX_ANSWERS: usize = 64;
/// Milliseconds between two reports. With more, a broken server would seem to be there for days.
pub const MAX_PERIOD_MS: u32 = 60_000;
/// Bytes of an encoded message: what a datagram of 8,972 bytes (9,000 of a jumbo frame less 28 of IPv4 and UDP headers)
/// holds beside the 52 bytes of the seal.
pub const MAX_ENCODED: usize = 8_920;

/// What one datagram says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// How the sender is.
    Report(Box<Report>),
    /// Whoever hears this: report to me now.
    Query {
        /// A number that this server never asked with before: the report has it among its answers.
        nonce: u64,
    },
    /// To one server: which flows have you on these identities?
    FlowsQuery(Box<FlowsQuery>),
    /// To who asked: these, and more.
    Flows(Box<FlowsPart>),
}

/// How one server is, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who reports.
    pub server: ServerId,
    /// Which start of its daemon this is: a random number.
    pub boot: u64,
    /// Grows with each report of one start.
    pub sequence: u64,
    /// Milliseconds until its next report, if nothing happens before. Its silence is judged by this.
    pub period_ms: u32,
    /// What people call it.
    pub name: String,
    /// Its balanced interfaces.
    pub links: Vec<Link>,
    /// The services it offers.
    pub services: Vec<ServiceReport>,
    /// The identities that it holds, or, in its last report, had; and those that it let go of, or of whose terms their homes don't know.
    pub identities: Vec<IdentityReport>,
    /// It takes over identities of servers that are gone.
    pub caretaker: bool,
    /// It takes no new flows.
    pub draining: bool,
    /// What it still serves of those that drain.
    pub guests: Vec<Guests>,
    /// This is its last report: it goes.
    pub leaving: bool,
    /// The queries that it answers, by their numbers: it is younger than they are.
    pub answers: Vec<u64>,
}

/// A balanced interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its own addresses, with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// A service as one server offers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// What the configuration calls it. Which services are the same is a matter of their ports.
    pub name: String,
    /// Where it listens.
    pub ports: Vec<PortRange>,
    /// Its checks succeed.
    pub healthy: bool,
    /// Open connections that mean a load of 100 %.
    pub capacity: u32,
    /// Load in basis points of the capacity; may exceed 10,000.
    pub load: u32,
    /// What one connection adds to the load, in 1/65,536 of a basis point.
    pub cost: u32,
    /// Host names that lead to this server alone.
    pub names: Vec<String>,
    /// Paths of requests that it says it is dedicated to.
    pub serves: Vec<String>,
}

/// A protocol and the ports from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// IP protocol number: 6 is TCP, 17 is UDP.
    pub protocol: u8,
    /// First port of the range, not 0.
    pub first: u16,
    /// Last port of the range, part of it.
    pub last: u16,
}

/// An identity, and what the reporting server has to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityReport {
    /// The address, with the prefix length of its network.
    pub address: IpNet,
    /// The server that it belongs to when all are well.
    pub home: ServerId,
    /// How often it has been claimed.
    pub term: u64,
    /// Whether the reporting server has it.
    pub tenure: Tenure,
}

/// Whether a server has an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tenure {
    /// It hasn't: its home has, and is to know that this server had it, or under which term it was claimed.
    Past,
    /// It has.
    Held,
    /// It had until this, its last report: the address is free.
    Freed,
}

impl IdentityReport {
    /// Whether the reporting server has it.
    pub fn is_held(&self) -> bool {
        self.tenure == Tenure::Held
    }
}

/// Connections that are open on the reporting server, and which a draining server steered there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guests {
    /// The draining server.
    pub of: ServerId,
    /// How many are addressed to identities that it holds.
    pub connections: u32,
}

/// Why a message can't be used. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The bytes are no message.
    #[error("not a message of this version")]
    Encoding,
    /// A name is empty, too long, or would garble a terminal.
    #[error("the name of a {0} must have 1 to {MAX_NAME} bytes and no control characters")]
    Name(&'static str),
    /// More of something than peers accept.
    #[error("{count} {what}, at most {max} fit a report")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A host name or a path is too long, or would garble a header.
    #[error("a host name or path of a service must have 1 to {MAX_PATH} bytes of visible ASCII")]
    Text,
    /// A range that holds no port, or port 0.
    #[error("ports {0} to {1} are no range of ports")]
    Ports(u16, u16),
    /// A capacity of 0.
    #[error("service {0:?} has a capacity of 0")]
    Capacity(String),
    /// A time between reports that no server can be set to.
    #[error("a report each {0} ms: 1 to {MAX_PERIOD_MS} can be")]
    Period(u32),
    /// An address that no single host can have on a network.
    #[error("{0} is no address that a server can have on a network")]
    Address(IpAddr),
    /// A link with a group address: frames to it would go to everybody.
    #[error("the Ethernet address of a link is a group address")]
    Mac,
    /// A flow of no protocol, port or client that could be one.
    #[error("a flow that cannot be one, of {0}")]
    Flow(SocketAddr),
    /// All within bounds, but together too much for one datagram.
    #[error(
        "the report has {0} bytes, and one datagram holds {MAX_ENCODED}: fewer ports, addresses or identities are needed"
    )]
    Size(usize),
}

impl Message {
    /// The bytes of this message.
    pub fn encode(&self) -> Result<Vec<u8>, Invalid> {
        let bytes = postcard::to_allocvec(self).map_err(|_| Invalid::Encoding)?;
        if bytes.len() > MAX_ENCODED {
            return Err(Invalid::Size(bytes.len()));
        }
        Ok(bytes)
    }

    /// The message that `bytes` are, to the last of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let (message, rest) =
            postcard::take_from_bytes::<Self>(bytes).map_err(|_| Invalid::Encoding)?;
        if !rest.is_empty() {
            return Err(Invalid::Encoding);
        }
        match &message {
            Self::Report(report) => report.check()?,
            Self::FlowsQuery(query) => query.check()?,
            Self::Flows(part) => part.check()?,
            Self::Query { .. } => {}
        }
        Ok(message)
    }
}

impl Report {
    /// From one of its sender's reports to the next.
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms.into())
    }

    /// The addresses of the identities that it holds.
    pub fn held(&self) -> impl Iterator<Item = IpNet> {
        let held = self.identities.iter().filter(|identity| identity.is_held());
        held.map(|identity| identity.address)
    }

    /// Whether all that this report says is within bounds and makes sense.
    pub fn check(&self) -> Result<(), Invalid> {
        check_name("server", &self.name)?;
        if !(1..=MAX_PERIOD_MS).contains(&self.period_ms) {
            return Err(Invalid::Period(self.period_ms));
        }
        check_count("links", self.links.len(), MAX_LINKS)?;
        check_count("services", self.services.len(), MAX_SERVICES)?;
        check_count("identities", self.identities.len(), MAX_IDENTITIES)?;
        check_count("draining servers", self.guests.len(), MAX_GUESTS)?;
        check_count("answers", self.answers.len(), MAX_ANSWERS)?;
        self.links.iter().try_for_each(Link::check)?;
        self.services.iter().try_for_each(ServiceReport::check)?;
        self.identities
            .iter()
            .try_for_each(|identity| check_address(&identity.address))
    }
}

impl IdentityReport {
    /// None takes more bytes.
    pub(super) const LARGEST: Self = Self {
        address: IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            128,
        )),
        home: ServerId(u64::MAX),
        term: u64::MAX,
        tenure: Tenure::Held,
    };
}

impl Link {
    fn check(&self) -> Result<(), Invalid> {
        if self.mac[0] & 1 != 0 {
            return Err(Invalid::Mac);
        }
        check_count("addresses of a link", self.addresses.len(), MAX_ADDRESSES)?;
        self.addresses.iter().try_for_each(check_address)
    }
}

impl ServiceReport {
    fn check(&self) -> Result<(), Invalid> {
        check_name("service", &self.name)?;
        check_count("port ranges of a service", self.ports.len(), MAX_PORTS)?;
        check_count("host names of a service", self.names.len(), MAX_NAMES)?;
        check_count("paths of a service", self.serves.len(), MAX_SERVES)?;
        let is_visible = |text: &String| {
            (1..=MAX_PATH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !self.names.iter().chain(&self.serves).all(is_visible) {
            return Err(Invalid::Text);
        }
        if self.capacity == 0 {
            return Err(Invalid::Capacity(self.name.clone()));
        }
        match self
            .ports
            .iter()
            .find(|range| range.first == 0 || range.first > range.last)
        {
            Some(range) => Err(Invalid::Ports(range.first, range.last)),
            None => Ok(()),
        }
    }
}

fn check_name(of: &'static str, name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Invalid::Name(of));
    }
    Ok(())
}

fn check_count(what: &'static str, count: usize, max: usize) -> Result<(), Invalid> {
    if count > max {
        return Err(Invalid::TooMany { what, count, max });
    }
    Ok(())
}

/// A peer's addresses end up in this host's rules and on its `lo`: 127.0.0.1 must never get there.
fn check_address(address: &IpNet) -> Result<(), Invalid> {
    let host = address.addr().to_canonical();
    let broadcast = matches!(host, IpAddr::V4(v4) if v4.is_broadcast());
    if broadcast || host.is_loopback() || host.is_multicast() || host.is_unspecified() {
        return Err(Invalid::Address(host));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Report {
        Report {
            server: ServerId(0xdead_beef_0bad_cafe),
            boot: 1_700_000_000_000,
            sequence: 7,
            period_ms: 500,
            name: "web1".into(),
            links: vec![Link {
                mac: [2, 0, 0, 0, 0, 1],
                addresses: vec![
                    "10.0.0.101/24".parse().unwrap(),
                    "fd00::1/64".parse().unwrap(),
                ],
            }],
            services: vec![ServiceReport {
                name: "www".into(),
                ports: vec![
                    PortRange {
                        protocol: 6,
                        first: 80,
                        last: 80,
                    },
                    PortRange {
                        protocol: 6,
                        first: 443,
                        last: 443,
                    },
                ],
                healthy: true,
                capacity: 1000,
                load: 12_345,
                cost: 655_360,
                names: vec!["web1.example.com".into()],
                serves: vec!["/banking/*".into()],
            }],
            identities: vec![IdentityReport {
                address: "10.0.0.101/24".parse().unwrap(),
                home: ServerId(0xdead_beef_0bad_cafe),
                term: 1,
                tenure: Tenure::Held,
            }],
            caretaker: true,
            draining: false,
            guests: Vec::new(),
            leaving: false,
            answers: vec![u64::MAX],
        }
    }

    fn refusal(change: impl FnOnce(&mut Report)) -> String {
        let mut report = example();
        change(&mut report);
        let bytes = postcard::to_allocvec(&Message::Report(Box::new(report))).unwrap();
        Message::decode(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn ordinary_reports_fit_an_ordinary_frame() {
        let mut report = example();
        report.services = vec![report.services[0].clone(); 8];
        report.identities = vec![report.identities[0].clone(); 16];
        let size = Message::Report(Box::new(report)).encode().unwrap().len();
        assert!(size <= 1_400 - 52, "{size} bytes");
    }

    #[test]
    fn what_no_datagram_holds_is_not_encoded() {
        let mut report = example();
        report.services[0].ports = vec![
            PortRange {
                protocol: 6,
                first: 60_000,
                last: 60_001
            };
            MAX_PORTS
        ];
        report.services = vec![report.services[0].clone(); MAX_SERVICES];
        report.links[0].addresses = vec!["fd00::1/64".parse().unwrap(); MAX_ADDRESSES];
        report.identities = vec![
            IdentityReport {
                address: "fd00::1/64".parse().unwrap(),
                home: ServerId(u64::MAX),
                term: u64::MAX,
                tenure: Tenure::Held,
            };
            64
        ];
        report.check().unwrap();
        assert!(matches!(
            Message::Report(Box::new(report)).encode(),
            Err(Invalid::Size(_))
        ));
    }

    #[test]
    fn hostile_names_and_paths_are_refused() {
        assert_eq!(
            refusal(|r| r.services[0].names = vec!["a".into(); 9]),
            "9 host names of a service, at most 8 fit a report"
        );
        assert_eq!(
            refusal(|r| r.services[0].serves = vec!["/".into(); 17]),
            "17 paths of a service, at most 16 fit a report"
        );
        let text = "a host name or path of a service must have 1 to 256 bytes of visible ASCII";
        assert_eq!(refusal(|r| r.services[0].names[0].clear()), text);
        assert_eq!(refusal(|r| r.services[0].names[0] = "a\r\nb".into()), text);
        assert_eq!(refusal(|r| r.services[0].serves[0] = "/".repeat(257)), text);
    }

    #[test]
    fn hostile_reports_are_refused() {
        let names = "must have 1 to 64 bytes and no control characters";
        assert_eq!(
            refusal(|r| r.name.clear()),
            format!("the name of a server {names}")
        );
        assert_eq!(
            refusal(|r| r.name = "x".repeat(65)),
            format!("the name of a server {names}")
        );
        assert_eq!(
            refusal(|r| r.name = "a\x1b[2J".into()),
            format!("the name of a server {names}")
        );
        assert_eq!(
            refusal(|r| r.services[0].name.clear()),
            format!("the name of a service {names}")
        );
        assert_eq!(
            refusal(|r| r.period_ms = 0),
            "a report each 0 ms: 1 to 60000 can be"
        );
        assert_eq!(
            refusal(|r| r.period_ms = 60_001),
            "a report each 60001 ms: 1 to 60000 can be"
        );
        assert_eq!(
            refusal(|r| r.services = vec![r.services[0].clone(); 17]),
            "17 services, at most 16 fit a report"
        );
        assert_eq!(
            refusal(|r| r.links = vec![r.links[0].clone(); 9]),
            "9 links, at most 8 fit a report"
        );
        assert_eq!(
            refusal(|r| r.links[0].addresses = vec!["10.0.0.1/8".parse().unwrap(); 65]),
            "65 addresses of a link, at most 64 fit a report"
        );
        assert_eq!(
            refusal(|r| r.identities = vec![r.identities[0].clone(); 65]),
            "65 identities, at most 64 fit a report"
        );
        let guests = Guests {
            of: ServerId(1),
            connections: 1,
        };
        assert_eq!(
            refusal(|r| r.guests = vec![guests; 65]),
            "65 draining servers, at most 64 fit a report"
        );
        assert_eq!(
            refusal(|r| r.answers = vec![0; 65]),
            "65 answers, at most 64 fit a report"
        );
        assert_eq!(
            refusal(|r| r.services[0].ports = vec![r.services[0].ports[0]; 65]),
            "65 port ranges of a service, at most 64 fit a report"
        );
        assert_eq!(
            refusal(|r| r.services[0].ports[0].first = 81),
            "ports 81 to 80 are no range of ports"
        );
        assert_eq!(
            refusal(|r| r.services[0].ports[0].first = 0),
            "ports 0 to 80 are no range of ports"
        );
        assert_eq!(
            refusal(|r| r.services[0].capacity = 0),
            "service \"www\" has a capacity of 0"
        );
        assert_eq!(
            refusal(|r| r.links[0].mac = [0xff; 6]),
            "the Ethernet address of a link is a group address"
        );
        for bad in [
            "127.0.0.1",
            "224.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "ff02::1",
        ] {
            let text =
                refusal(|r| r.identities[0].address = IpNet::from(bad.parse::<IpAddr>().unwrap()));
            assert_eq!(
                text,
                format!("{bad} is no address that a server can have on a network")
            );
        }
        let mapped = refusal(|r| r.identities[0].address = "::ffff:127.0.0.1/128".parse().unwrap());
        assert_eq!(
            mapped,
            "127.0.0.1 is no address that a server can have on a network"
        );
    }

    #[test]
    fn every_truncation_and_every_addition_is_refused() {
        let bytes = Message::Report(Box::new(example())).encode().unwrap();
        for length in 0..bytes.len() {
            assert_eq!(
                Message::decode(&bytes[..length]),
                Err(Invalid::Encoding),
                "{length} bytes"
            );
        }
        assert_eq!(
            Message::decode(&[&bytes[..], &[0]].concat()),
            Err(Invalid::Encoding)
        );
    }

    prop_compose! {
        fn net()(v4: bool, bytes: [u8; 16], prefix: u8) -> IpNet {
            if v4 {
                let [a, b, c, ..] = bytes;
                IpNet::new(IpAddr::from([10, a, b, c]), prefix % 33).unwrap()
            } else {
                let mut bytes = bytes;
                bytes[0] = 0xfd;
                IpNet::new(IpAddr::from(bytes), prefix % 129).unwrap()
            }
        }
    }

    prop_compose! {
        fn service()(
            name in "[a-zé]{1,32}",
            ports in prop::collection::vec((any::<u8>(), 1..=u16::MAX, any::<u16>()), 0..8),
            healthy: bool, capacity in 1..=u32::MAX, load: u32, cost: u32,
            names in prop::collection::vec("[a-z.]{1,20}", 0..=2), serves in prop::collection::vec("/[a-z*]{0,20}", 0..=2),
        ) -> ServiceReport {
            let ports = ports.into_iter().map(|(protocol, a, b)| PortRange { protocol, first: a.min(b.max(1)), last: a.max(b) });
            ServiceReport { name, ports: ports.collect(), healthy, capacity, load, cost, names, serves }
        }
    }

    fn tenure() -> impl Strategy<Value = Tenure> {
        prop::sample::select(vec![Tenure::Past, Tenure::Held, Tenure::Freed])
    }

    prop_compose! {
        fn report()(
            (server, boot, sequence) in any::<(u64, u64, u64)>(),
            period_ms in 1..=MAX_PERIOD_MS,
            name in "[ -~]{1,64}",
            links in prop::collection::vec((any::<[u8; 5]>(), prop::collection::vec(net(), 0..4)), 0..=MAX_LINKS),
            services in prop::collection::vec(service(), 0..=MAX_SERVICES),
            identities in prop::collection::vec((net(), any::<u64>(), any::<u64>(), tenure()), 0..=MAX_IDENTITIES),
            guests in prop::collection::vec(any::<(u64, u32)>(), 0..=MAX_GUESTS),
            draining: bool, leaving: bool, caretaker: bool,
            answers in prop::collection::vec(any::<u64>(), 0..=MAX_ANSWERS),
        ) -> Report {
            Report {
                server: ServerId(server), boot, sequence, period_ms, name,
                links: links.into_iter().map(|([a, b, c, d, e], addresses)| Link { mac: [2, a, b, c, d, e], addresses }).collect(),
                services,
                identities: identities.into_iter().map(|(address, home, term, tenure)| IdentityReport { address, home: ServerId(home), term, tenure }).collect(),
                caretaker,
                guests: guests.into_iter().map(|(of, connections)| Guests { of: ServerId(of), connections }).collect(),
                draining, leaving, answers,
            }
        }
    }

    proptest! {
        #[test]
        fn a_report_survives_the_wire(report in report()) {
            let message = Message::Report(Box::new(report));
            prop_assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        }

        #[test]
        fn what_decodes_is_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(Message::Report(report)) = Message::decode(&bytes) {
                prop_assert_eq!(report.check(), Ok(()));
            }
        }

        #[test]
        fn a_flipped_bit_gives_another_message_or_none(report in report(), at: prop::sample::Index, bit in 0..8u8) {
            let message = Message::Report(Box::new(report));
            let mut bytes = message.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            if let Ok(other) = Message::decode(&bytes) {
                prop_assert_ne!(other, message);
            }
        }
    }
}
