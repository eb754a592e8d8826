//! A server that packets are given to: the real programs, loaded for one test, and their maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancer::datapath::maps::Maps;
use balancer::datapath::{Datapath, Tables};
use balancer::exchange::clock;
use balancer_common::hash::flow_hash;
use balancer_common::table::{Flow, HALF_OPEN, Place, millis, sets_of};
use balancer_common::types::{
    Address, FAMILY_V4, FAMILY_V6, FOREIGN, FlowKey, HELD, Identity, MAX_INTERFACES, MAX_SERVICES,
    Mac, OFFERED, PEER_ALIVE, Peer, PeerLoad, Port, READY, SERVER, Service, Settings, cost_of,
};

use crate::frame::{IDENTITY, IDENTITY_V6, OUR_MAC, Segment, Transport};
use crate::pins::Pins;

/// The service on port 80. Not the first, lest an index be taken for a number.
pub const WWW: u32 = 2;
/// The service on port 443: the last that there can be.
pub const TLS: u32 = MAX_SERVICES - 1;

/// An identity that peer 0 holds.
pub const FOREIGN_IDENTITY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 102);
/// As above.
pub const FOREIGN_IDENTITY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x102);
/// Peer 0's own address.
pub const PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// As above.
pub const PEER_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// What flows are hashed with.
const SEED: u64 = 7;

/// After a silence of this long a peer gets no new flows.
pub const TIMEOUT_NS: u64 = 20_000_000_000;

/// A server of a cluster: holds IDENTITY, serves WWW with a capacity of 100 connections, has an overload level of 50 % and
/// a margin of 20 %, and steers by least load.
pub struct Server {
    pub datapath: Datapath,
    /// How many peers there are.
    pub peers: u32,
    /// Dropped last.
    pub pins: Pins,
}

impl Server {
    /// `None`, and says so: there are no privileges to load programs.
    pub fn new() -> Option<Self> {
        // Fewer flows than there can be: each test makes tables of its own.
        Self::with_tables(Tables { flows: 65_536 })
    }

    /// As above, with tables of this size.
    pub fn with_tables(tables: Tables) -> Option<Self> {
        let pins = Pins::new()?;
        let datapath = Datapath::load(pins.path(), tables).unwrap();
        let mut server = Self {
            datapath,
            peers: 0,
            pins,
        };
        server.configure();
        Some(server)
    }

    fn configure(&mut self) {
        self.set_settings(|_| {});
        let maps = self.maps();
        for (port, service) in [(80, WWW), (443, TLS)] {
            let number = Port {
                tcp: service as u8 + 1,
                udp: service as u8 + 1,
            };
            maps.ports.set(port, number, 0).unwrap();
            let service_entry = Service {
                cost: cost_of(100),
                overload: 5_000,
                margin: 2_000,
                ready: 1,
                ..Service::default()
            };
            maps.services.set(service, service_entry, 0).unwrap();
        }
        for (address, kind) in [
            (IpAddr::from(IDENTITY), HELD),
            (IDENTITY_V6.into(), HELD),
            (FOREIGN_IDENTITY.into(), FOREIGN),
            (FOREIGN_IDENTITY_V6.into(), FOREIGN),
            (PEER_ADDRESS.into(), SERVER),
            (PEER_ADDRESS_V6.into(), SERVER),
        ] {
            // The interface that a test run's packets come in by, or the peer in slot 0.
            let owner = u32::from(kind == HELD);
            let identity = Identity {
                kind,
                owner,
                grace_until_ns: 0,
            };
            maps.identities
                .insert(Address::from(address), identity, 0)
                .unwrap();
        }
    }

    pub fn maps(&mut self) -> &mut Maps {
        &mut self.datapath.maps
    }

    pub fn set_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings {
            flows_mask: self.maps().flows.mask(),
            seed: SEED,
            peers: self.peers,
            ..Settings::default()
        };
        // The last one, lest only the first be looked at.
        settings.macs[MAX_INTERFACES - 1] = Mac::new(OUR_MAC).number();
        change(&mut settings);
        self.maps().settings.set(0, settings, 0).unwrap();
    }

    pub fn set_service(&mut self, change: impl FnOnce(&mut Service)) {
        let services = &mut self.maps().services;
        let mut service = services.get(&WWW, 0).unwrap();
        change(&mut service);
        services.set(WWW, service, 0).unwrap();
    }

    /// Sets this server's own load, in basis points.
    pub fn set_own_load(&mut self, load: u32) {
        self.set_service(|service| service.sample = load);
    }

    /// Adds a peer that has just reported `load` (basis points). Returns its slot.
    pub fn add_peer(&mut self, load: u32) -> u32 {
        let slot = self.peers;
        self.set_peer_count(slot + 1);
        let mac = Mac::new(mac_of(slot));
        self.maps().peer_macs.insert(mac, slot, 0).unwrap();
        self.set_peer(slot, |_| {});
        self.set_load(slot, |report| report.load = load);
        slot
    }

    pub fn set_peer_count(&mut self, peers: u32) {
        self.peers = peers;
        self.set_settings(|_| {});
    }

    /// Sets a peer: alive and just heard of, but for `change`.
    pub fn set_peer(&mut self, slot: u32, change: impl FnOnce(&mut Peer)) {
        let mut peer = Peer {
            id: u64::from(slot) + 1_000,
            last_report_ns: clock::monotonic().0,
            timeout_ns: TIMEOUT_NS,
            state: PEER_ALIVE,
            interface: 1,
            mac: mac_of(slot),
            own_mac: OUR_MAC,
            families: FAMILY_V4 | FAMILY_V6,
            mtu: 1_500,
            ..Peer::default()
        };
        change(&mut peer);
        self.maps().peers.set(slot, peer, 0).unwrap();
    }

    /// Sets a peer's report for WWW: ready, without load, as strong as any, but for `change`.
    pub fn set_load(&mut self, slot: u32, change: impl FnOnce(&mut PeerLoad)) {
        let mut report = PeerLoad {
            cost: cost_of(100),
            weight: 65_535,
            flags: OFFERED | READY,
            ..PeerLoad::default()
        };
        change(&mut report);
        self.maps().set_load(slot, WWW, report).unwrap();
    }

    /// Flows that were sent to a peer since its report.
    pub fn sent(&mut self, slot: u32) -> u32 {
        self.maps().load(slot, WWW).unwrap().sent
    }

    /// What is known of the segment's flow while only first packets of it were seen.
    pub fn half_open(&mut self, segment: &Segment) -> Option<Place> {
        self.place(segment).filter(|flow| flow.state == HALF_OPEN)
    }

    /// What is known of it after that.
    pub fn flow(&mut self, segment: &Segment) -> Option<Place> {
        self.place(segment).filter(|flow| flow.state != HALF_OPEN)
    }

    /// In how many sets of `FLOWS` the segment's flow can be: two, or one that is both.
    pub fn sets(&mut self, segment: &Segment) -> usize {
        let [first, second] = sets_of(tag(segment), self.maps().flows.mask());
        1 + usize::from(first != second)
    }

    fn place(&mut self, segment: &Segment) -> Option<Place> {
        self.maps().flows.view().unwrap().get(tag(segment))
    }

    /// Loads the programs again, on the pins that are there.
    pub fn reload(&mut self) {
        self.datapath = Datapath::load(self.pins.path(), Tables::default()).unwrap();
    }

    /// Makes the last packet of the segment's flow this old.
    pub fn age(&mut self, segment: &Segment, nanoseconds: u64) {
        let place = Place {
            seen_ms: millis(before(nanoseconds)),
            ..self.place(segment).expect("the flow is known")
        };
        self.enter(segment, place);
    }

    /// Enters a flow as the programs would.
    pub fn enter(&mut self, segment: &Segment, place: Place) {
        let flow = Flow {
            key: key(segment),
            opened_ns: before(0),
        };
        let view = self.maps().flows.view().unwrap();
        assert!(view.enter(place, flow, before(0)), "no room");
    }
}

/// The hash that a segment's flow is known by.
pub fn tag(segment: &Segment) -> u64 {
    flow_hash(&key(segment), SEED)
}

/// The Ethernet address of the peer in `slot`.
pub fn mac_of(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 1, slot as u8]
}

/// The key of a segment's flow.
pub fn key(segment: &Segment) -> FlowKey {
    FlowKey {
        protocol: match segment.transport {
            Transport::Tcp(_) => 6,
            Transport::Udp(_) => 17,
        },
        ..key_of(segment.from, segment.to)
    }
}

/// The key of the TCP flow from `client` to `destination`.
pub fn key_of(client: SocketAddr, destination: SocketAddr) -> FlowKey {
    FlowKey {
        client: client.ip().into(),
        identity: destination.ip().into(),
        client_port: client.port(),
        port: destination.port(),
        protocol: 6,
    }
}

/// The time that was `nanoseconds` ago.
pub fn before(nanoseconds: u64) -> u64 {
    let now = clock::monotonic().0;
    now.checked_sub(nanoseconds)
        .expect("the machine has been up for more than a minute or two")
}
