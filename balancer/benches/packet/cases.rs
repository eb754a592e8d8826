//! What is measured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::frame::{FIRST, IDENTITY, SECOND, Segment};

/// Packets of one kind.
pub struct Case {
    /// As it is printed.
    pub name: &'static str,
    /// The packet; its client differs from flow to flow.
    pub frame: Vec<u8>,
    /// How many flows they are of.
    pub flows: Flows,
    /// What came of these flows before.
    pub history: &'static [Segment],
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

/// A packet to a port of no service.
const OTHER_PORT: Segment = Segment {
    to: SocketAddr::new(IpAddr::V4(IDENTITY), 22),
    ..SECOND
};

/// All cases, in the order of the table.
pub fn all() -> Vec<Case> {
    vec![
        Case {
            counter: "not_ours",
            katran: Some("74"),
            ..local("not ours: TCP, other port", OTHER_PORT.frame())
        },
        Case {
            counter: "not_ours",
            ..local("not ours: UDP", udp())
        },
        Case {
            counter: "not_ours",
            ..local("not ours: ARP", arp())
        },
        Case {
            counter: "local",
            ..local("ours, flow of no entry", SECOND.frame())
        },
        Case {
            katran: Some("173-199"),
            ..steered("steered flow: one", Flows::One)
        },
        Case {
            katran: Some("330-356"),
            ..steered("steered flow: one of 65,536", Flows::Many)
        },
        Case {
            others: Others::Full,
            history: &[FIRST, SECOND, FIRST, SECOND],
            ..steered("steered flow: one of 65,536, in a full table", Flows::Many)
        },
        Case {
            load: LOW,
            counter: "kept_below_level",
            ..new("new flow, kept: below the level", 64)
        },
        Case {
            load: BUSY,
            counter: "kept_no_candidate",
            ..new("new flow, kept: none of 64 peers is lower", 64)
        },
        new("new flow, steered: 2 peers", 2),
        new("new flow, steered: 16 peers", 16),
        Case {
            katran: Some("1,345-1,370"),
            ..new("new flow, steered: 64 peers", 64)
        },
        new("new flow, steered: 256 peers", 256),
        Case {
            flows: Flows::One,
            history: &[FIRST],
            counter: "steered_repeated",
            ..new("new flow, steered: its SYN again", 64)
        },
        Case {
            frame: SECOND.frame(),
            history: &[FIRST],
            counter: "steered",
            ..new("second packet: moves to the flow table", 64)
        },
        Case {
            frame: SECOND.frame(),
            history: &[FIRST],
            others: Others::Full,
            counter: "steered",
            ..new("second packet: same, in a full table", 64)
        },
    ]
}

fn local(name: &'static str, frame: Vec<u8>) -> Case {
    Case {
        frame,
        flows: Flows::One,
        ..new(name, 64)
    }
}

fn steered(name: &'static str, flows: Flows) -> Case {
    Case {
        frame: SECOND.frame(),
        flows,
        history: &[FIRST, SECOND],
        counter: "steered",
        ..new(name, 64)
    }
}

fn new(name: &'static str, peers: u32) -> Case {
    Case {
        name,
        frame: FIRST.frame(),
        flows: Flows::New,
        history: &[],
        others: Others::None,
        load: HIGH,
        peers,
        counter: "steered_new",
        katran: None,
    }
}

/// A UDP datagram to the service's port.
fn udp() -> Vec<u8> {
    const PROTOCOL: usize = 23;
    const UDP: u8 = 17;
    let mut frame = FIRST.frame();
    frame[PROTOCOL] = UDP;
    frame
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
    frame.resize(60, 0);
    frame
}
