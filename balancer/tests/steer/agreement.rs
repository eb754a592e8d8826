//! `balancer explain` tells what the program does: both on the same packets and maps.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancer::config::Protocol;
use balancer::datapath::Tables;
use balancer::datapath::explain::{Explanation, Outcome as Verdict, explain};
use balancer::exchange::clock;
use balancer_common::table::{
    HALF_OPEN, NO_PEER, OPEN_TCP, OPEN_UDP, Place, SAME_FLOW_NS, UDP_FLOW_NS, millis,
};
use balancer_common::types::{ClientKey, Connections, KEPT, LastFlow, Peer, PeerLoad, Service};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::frame::{CLIENT, CLIENT_V6, DATAGRAM, FIRST, IDENTITY, IDENTITY_V6, Segment};
use crate::outcome::{Action, Outcome};
use crate::server::{
    FOREIGN_IDENTITY, FOREIGN_IDENTITY_V6, PEER_ADDRESS, PEER_ADDRESS_V6, Server, TIMEOUT_NS, WWW,
    before, mac_of, tag,
};

const CASES: u32 = 3_000;
/// Slots of peers that cases use.
const SLOTS: u32 = 12;
const AFFINITY_NS: u64 = 90_000_000_000;
/// Ages on either side of a limit are at least this far from it: the two look at the clock at different times.
const CLEAR_NS: u64 = 5_000_000_000;

#[test]
fn explain_agrees_with_the_program() {
    // A small table, through which each case goes for what another one has left.
    let Some(mut server) = Server::with_tables(Tables { flows: 1_024 }) else {
        return;
    };
    for _ in 0..SLOTS {
        server.add_peer(0);
    }
    let server = RefCell::new(server);
    let reasons = RefCell::new(std::collections::BTreeMap::<_, u32>::new());
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&case(), |case| {
            let mut server = server.borrow_mut();
            case.set_up(&mut server);
            // First, since the program changes the maps.
            let told = case.explain(&mut server);
            let done = server.receive(&case.segment().frame());
            *reasons.borrow_mut().entry(told.reason).or_default() += 1;
            compare(&told, &done)
        })
        .unwrap();
    println!("{:?}", reasons.borrow());
    for reason in [
        "not_ours",
        "guest",
        "kept_below_level",
        "kept_no_candidate",
        "kept_for_peer",
        "kept_by_affinity",
        "kept_repeated",
        "local",
        "steered_by_affinity",
        "steered_new",
        "steered_not_ready",
        "steered_repeated",
        "steered",
    ] {
        assert!(reasons.borrow().contains_key(reason), "no case of {reason}");
    }
}

fn compare(told: &Explanation, done: &Outcome) -> Result<(), TestCaseError> {
    let counted: Vec<_> = done
        .counted
        .iter()
        .map(|(_, name, count)| (*name, *count))
        .collect();
    prop_assert_eq!(&counted, &[(told.reason, 1)], "{:#?}", told);
    let steered = told.verdict == Verdict::Steer;
    prop_assert_eq!(steered, done.action == Action::Tx, "{:#?}", told);
    prop_assert_eq!(steered, told.peer.is_some(), "{:#?}", told);
    if let Some(id) = &told.peer {
        let slot = (0..SLOTS).find(|slot| id_of(*slot).to_string() == *id);
        prop_assert_eq!(&done.frame[..6], slot.map(mac_of).unwrap(), "{:#?}", told);
    }
    Ok(())
}

/// One packet, and the maps that it meets.
#[derive(Clone, Debug)]
struct Case {
    protocol: Protocol,
    client: SocketAddr,
    destination: SocketAddr,
    service: Service,
    connections: Connections,
    peers: Vec<Neighbour>,
    /// Its flow's state and entry.
    flow: Option<(u8, Entry)>,
    /// Where the client's last flow went.
    client_last: Option<Entry>,
}

/// A peer and its report.
#[derive(Clone, Debug)]
struct Neighbour {
    state: u32,
    families: u8,
    silence_ns: u64,
    report: PeerLoad,
}

/// An entry of `FLOWS` or `CLIENTS`.
#[derive(Clone, Debug)]
struct Entry {
    /// None: kept.
    peer: Option<u32>,
    age_ns: u64,
}

impl Case {
    fn segment(&self) -> Segment {
        Segment {
            from: self.client,
            to: self.destination,
            transport: match self.protocol {
                Protocol::Tcp => FIRST.transport,
                Protocol::Udp => DATAGRAM.transport,
            },
            ..FIRST
        }
    }

    fn set_up(&self, server: &mut Server) {
        let peers = self.peers.len() as u32;
        server.set_settings(|settings| settings.peers = peers);
        server.set_service(|service| *service = self.service);
        server
            .maps()
            .connections
            .set(WWW, self.connections, 0)
            .unwrap();
        for slot in 0..SLOTS {
            let neighbour = self.peers.get(slot as usize);
            server.set_peer(slot, |peer| match neighbour {
                None => *peer = Peer::default(),
                Some(neighbour) => {
                    peer.id = id_of(slot);
                    peer.state = neighbour.state;
                    peer.families = neighbour.families;
                    peer.last_report_ns = before(neighbour.silence_ns);
                }
            });
            server.set_load(slot, |load| {
                *load = neighbour.map_or_else(PeerLoad::default, |neighbour| neighbour.report);
            });
        }
        let tag = tag(&self.segment());
        let view = server.maps().flows.view().unwrap();
        view.forget(|flow| flow.tag == tag);
        if let Some((state, entry)) = &self.flow {
            let place = Place {
                tag,
                seen_ms: millis(before(entry.age_ns)),
                peer: entry.peer.map_or(NO_PEER, |peer| peer as u16),
                service: WWW as u8,
                state: *state,
            };
            server.enter(&self.segment(), place);
        }
        let maps = server.maps();
        let client = ClientKey {
            client: self.client.ip().into(),
            service: WWW.into(),
        };
        let _ = maps.clients.remove(&client);
        if let Some(entry) = &self.client_last {
            maps.clients.insert(client, entry.last_flow(), 0).unwrap();
        }
    }

    fn explain(&self, server: &mut Server) -> Explanation {
        let now = clock::monotonic();
        let (from, to) = (self.client, self.destination);
        explain(server.maps(), now, self.protocol, from, to, |id| {
            id.to_string()
        })
        .unwrap()
    }
}

impl Entry {
    fn last_flow(&self) -> LastFlow {
        LastFlow {
            last_seen_ns: before(self.age_ns),
            peer: self.peer.unwrap_or(KEPT),
            service: WWW,
        }
    }
}

fn id_of(slot: u32) -> u64 {
    u64::from(slot) + 1_000
}

fn case() -> impl Strategy<Value = Case> {
    let port = prop_oneof![12 => Just(80u16), 1 => Just(81)];
    let peers = prop::collection::vec(neighbour(), 0..=SLOTS as usize);
    (
        (ends(), any::<u16>(), port),
        (service(), connections(), peers),
        prop_oneof![2 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp)],
    )
        .prop_flat_map(|(ends, loads, protocol)| {
            let open = match protocol {
                Protocol::Tcp => OPEN_TCP,
                Protocol::Udp => OPEN_UDP,
            };
            let flow = prop_oneof![Just(HALF_OPEN), Just(open)].prop_flat_map(move |state| {
                let limit = if state == OPEN_UDP {
                    UDP_FLOW_NS
                } else {
                    SAME_FLOW_NS
                };
                // No flow of TCP that is kept is open.
                entry(limit).prop_map(move |flow| {
                    flow.filter(|flow| flow.peer.is_some() || state != OPEN_TCP)
                        .map(|flow| (state, flow))
                })
            });
            let entries = (flow, entry(AFFINITY_NS));
            (Just((ends, loads, protocol)), entries)
        })
        .prop_map(
            |(
                (
                    ((client, destination), client_port, port),
                    (service, connections, peers),
                    protocol,
                ),
                (flow, client_last),
            )| Case {
                protocol,
                client: SocketAddr::new(client, client_port),
                destination: SocketAddr::new(destination, port),
                service,
                connections,
                peers,
                flow,
                client_last,
            },
        )
}

/// A client's address and a destination of the same family.
fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = [
        IpAddr::from([10, 0, 0, 250]),
        CLIENT.ip(),
        PEER_ADDRESS.into(),
        FOREIGN_IDENTITY.into(),
        IDENTITY.into(),
    ];
    let v6 = [
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x250]),
        CLIENT_V6.ip(),
        PEER_ADDRESS_V6.into(),
        FOREIGN_IDENTITY_V6.into(),
        IDENTITY_V6.into(),
    ];
    let any_v4 = any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into());
    let any_v6 = any::<u64>().prop_map(|bits| {
        let documentation = 0x2001_0db8 << 96;
        Ipv6Addr::from_bits(documentation | u128::from(bits)).into()
    });
    prop_oneof![ends_of(any_v4, v4), ends_of(any_v6, v6)]
}

fn ends_of(
    stranger: impl Strategy<Value = IpAddr>,
    [nobody, client, server, foreign, identity]: [IpAddr; 5],
) -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let client =
        prop_oneof![8 => stranger, 1 => Just(client), 1 => Just(server), 1 => Just(foreign)];
    let destination =
        prop_oneof![12 => Just(identity), 1 => Just(foreign), 1 => Just(server), 1 => Just(nobody)];
    (client, destination)
}

fn service() -> impl Strategy<Value = Service> {
    // Numbers of policies, and one that is none.
    let (policy, ready) = (0..5u32, prop_oneof![1 => Just(0u32), 5 => Just(1)]);
    (
        any::<i8>(),
        0..20u64,
        cost(),
        load(),
        0..=10_000u32,
        0..=5_000u32,
        policy,
        (ready, any::<bool>()),
    )
        .prop_map(
            |(uncounted, given_up, cost, sample, overload, margin, policy, (ready, affinity))| {
                Service {
                    uncounted: i64::from(uncounted).cast_unsigned(),
                    given_up,
                    cost,
                    sample,
                    overload,
                    margin,
                    policy,
                    ready,
                    affinity_ns: if affinity { AFFINITY_NS } else { 0 },
                }
            },
        )
}

fn connections() -> impl Strategy<Value = Connections> {
    (0..100u64, 0..200u64, 0..200u64, any::<u64>()).prop_map(
        |(open, arrived, established, steered)| Connections {
            open,
            arrived,
            established,
            steered,
        },
    )
}

fn neighbour() -> impl Strategy<Value = Neighbour> {
    let state = prop_oneof![1 => Just(0u32), 8 => Just(1), 1 => Just(2)];
    let flags = prop_oneof![1 => 0..3u32, 4 => Just(3)];
    let report = (load(), cost(), 0..50u32, 0..=65_535u32, flags).prop_map(
        |(load, cost, sent, weight, flags)| PeerLoad {
            load,
            cost,
            sent,
            weight,
            flags,
            padding: 0,
        },
    );
    let families = prop_oneof![1 => 0..3u8, 4 => Just(3)];
    (state, families, age(TIMEOUT_NS), report).prop_map(|(state, families, silence_ns, report)| {
        Neighbour {
            state,
            families,
            silence_ns,
            report,
        }
    })
}

fn entry(limit: u64) -> impl Strategy<Value = Option<Entry>> {
    let peer = prop_oneof![4 => (0..SLOTS).prop_map(Some), 1 => Just(None)];
    let entry = (peer, age(limit)).prop_map(|(peer, age_ns)| Entry { peer, age_ns });
    prop::option::weighted(0.3, entry)
}

fn age(limit: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..limit - CLEAR_NS,
        1 => limit + CLEAR_NS..limit + 2 * CLEAR_NS,
    ]
}

fn load() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..12_000u32, 1 => any::<u32>()]
}

/// For capacities of 10 to 1,000 connections, mostly.
fn cost() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 655_360..65_536_000u32, 1 => any::<u32>()]
}
