//! What is measured.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use balancer_common::types::{FAMILY_V4, FAMILY_V6};

use crate::frame::{DATAGRAM, FIRST, FIRST_V6, IDENTITY, Segment, ipv4, ipv6};
use crate::server::{FOREIGN_IDENTITY, FOREIGN_IDENTITY_V6, PEER_ADDRESS, PEER_ADDRESS_V6};

/// Packets of one kind.
pub struct Case {
    /// As it is printed.
    pub name: String,
    /// The packet; its client differs from flow to flow.
    pub frame: Vec<u8>,
    /// Whether the client's packet is in a tunnel's.
    pub enclosed: bool,
    /// Family of the peers' tunnels; 0: they are on the link.
    pub tunnel: u8,
    /// How many flows they are of.
    pub flows: Flows,
    /// What came of these flows before.
    pub history: Vec<Segment>,
    /// What is in FLOWS beside them.
    pub others: Others,
    /// Own load, in basis points. The overload level is 5,000, the margin 2,000, peers' loads are at 3,100 to 3,899.
    pub load: u32,
    /// Peers of the server.
    pub peers: u32,
    /// The counter that has to count each of the packets.
    pub counter: &'static str,
    /// Katran's time for the like, in nanoseconds.
    pub katran: Option<&'static str>,
}

/// How many flows packets are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flows {
    /// One.
    One,
    /// 65,536, one packet of each in turn.
    Many,
    /// Each packet is of another one that wasn't seen in earlier rounds.
    New,
}

/// What is in FLOWS, which holds 1,048,576 flows, beside those of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// A few, those of other cases.
    None,
    /// As many as fit, as on a server that has run for a while: each new entry evicts another, and those of the case lie
    /// far apart.
    Full,
}

/// Own load below the overload level.
const LOW: u32 = 1_000;
/// Above the level, but not by so much that a peer is lower by the margin.
const BUSY: u32 = 5_100;
/// Overloaded.
const HIGH: u32 = 9_000;

/// This server's ends of its tunnels.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// As above.
pub const HERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// All cases, in the order of the table.
pub fn all() -> Vec<Case> {
    let mut cases = vec![
        Case {
            counter: "not_ours",
            ..new("not ours: ARP", arp())
        },
        Case {
            frame: DATAGRAM.frame(),
            flows: Flows::One,
            history: vec![DATAGRAM, DATAGRAM],
            counter: "steered",
            ..new("UDP, steered flow: one", vec![])
        },
    ];
    for (family, first) in [("IPv4", FIRST), ("IPv6", FIRST_V6)] {
        let all = of_family(first).into_iter().chain(in_tunnels(first));
        cases.extend(all.map(|case| Case {
            name: format!("{family}, {}", case.name),
            ..case
        }));
    }
    cases
}

/// Peers on the link.
fn of_family(first: Segment) -> Vec<Case> {
    let mut other_port = first.second();
    other_port.to.set_port(22);
    let (syn, second) = (first.frame(), first.second().frame());
    let peers = [2, 16, 64, 256].map(|peers| Case {
        peers,
        katran: (peers == 64 && first.from.is_ipv4()).then_some("1,345-1,370"),
        ..new(&format!("new flow, steered: {peers} peers"), syn.clone())
    });
    let mut cases = vec![
        Case {
            flows: Flows::One,
            counter: "not_ours",
            katran: first.from.is_ipv4().then_some("74"),
            ..new("not ours: another port", other_port.frame())
        },
        Case {
            flows: Flows::One,
            counter: "local",
            ..new("ours, flow of no entry", second.clone())
        },
        Case {
            katran: first.from.is_ipv4().then_some("173-199"),
            ..steered("steered flow: one", first, Flows::One)
        },
        Case {
            katran: first.from.is_ipv4().then_some("330-356"),
            ..steered("steered flow: one of 65,536", first, Flows::Many)
        },
        Case {
            load: LOW,
            counter: "kept_below_level",
            ..new("new flow, kept: below the level", syn.clone())
        },
        Case {
            load: BUSY,
            counter: "kept_no_candidate",
            ..new("new flow, kept: none of 64 peers is lower", syn.clone())
        },
    ];
    cases.extend(peers);
    cases.extend([
        Case {
            flows: Flows::One,
            history: vec![first],
            counter: "steered_repeated",
            ..new("new flow, steered: its SYN again", syn)
        },
        Case {
            history: vec![first],
            counter: "steered",
            ..new("second packet: moves to the flow table", second.clone())
        },
    ]);
    if first.from.is_ipv4() {
        cases.push(Case {
            others: Others::Full,
            history: [first, first.second()].repeat(2),
            ..steered(
                "steered flow: one of 65,536, in a full table",
                first,
                Flows::Many,
            )
        });
        cases.push(Case {
            others: Others::Full,
            history: vec![first],
            counter: "steered",
            ..new("second packet: same, in a full table", second)
        });
    }
    cases
}

/// Peers on other links: in tunnels of the family of what they carry.
fn in_tunnels(first: Segment) -> Vec<Case> {
    let tunnel = if first.from.is_ipv4() {
        FAMILY_V4
    } else {
        FAMILY_V6
    };
    let mut guest = first.second();
    guest.to.set_ip(match first.to {
        SocketAddr::V4(_) => FOREIGN_IDENTITY.into(),
        SocketAddr::V6(_) => FOREIGN_IDENTITY_V6.into(),
    });
    vec![
        Case {
            tunnel,
            ..steered("tunnel, steered flow: one", first, Flows::One)
        },
        Case {
            tunnel,
            ..steered("tunnel, steered flow: one of 65,536", first, Flows::Many)
        },
        Case {
            tunnel,
            ..new("tunnel, new flow, steered: 64 peers", first.frame())
        },
        Case {
            enclosed: true,
            tunnel,
            flows: Flows::One,
            counter: "decapsulated",
            ..new("tunnel, out of it: a guest", enclosed(&guest.frame()))
        },
    ]
}

fn steered(name: &str, first: Segment, flows: Flows) -> Case {
    Case {
        flows,
        history: vec![first, first.second()],
        counter: "steered",
        ..new(name, first.second().frame())
    }
}

fn new(name: &str, frame: Vec<u8>) -> Case {
    Case {
        name: name.to_owned(),
        frame,
        enclosed: false,
        tunnel: 0,
        flows: Flows::New,
        history: vec![],
        others: Others::None,
        load: HIGH,
        peers: 64,
        counter: "steered_new",
        katran: None,
    }
}

/// The frame's packet in a datagram from peer 0, over its own family.
fn enclosed(frame: &[u8]) -> Vec<u8> {
    const UDP: u8 = 17;
    let udp_len = (8 + frame.len() - 14) as u16;
    let mut udp = [[0xc0, 1], [0x17, 0xc0], udp_len.to_be_bytes(), [0, 0]].concat();
    udp.extend(&frame[14..]);
    let packet = if frame[12] == 8 {
        ipv4(PEER_ADDRESS, HERE, UDP, 60, &udp)
    } else {
        ipv6(PEER_ADDRESS_V6, HERE_V6, UDP, 60, &udp)
    };
    [&frame[..14], &packet].concat()
}

/// An ARP request for the identity (RFC 826), from a client on this link.
fn arp() -> Vec<u8> {
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
    let ethernet = &FIRST.frame()[..12];
    let mut frame = [ethernet, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend(FIRST.from_mac);
    frame.extend(CLIENT.octets());
    frame.extend([0; 6]);
    frame.extend(IDENTITY.octets());
    frame
}
