//! A server that packets are given to: the real programs, in test runs of the kernel's.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use balancer::datapath::maps::Maps;
use balancer::datapath::{Datapath, STEER};
use balancer::exchange::clock;
use balancer_common::types::{
    Address, Connections, FOREIGN, Flow, FlowKey, HELD, Identity, MAX_SERVICES, Mac, OFFERED,
    PEER_ALIVE, Peer, PeerCounters, PeerLoad, Port, READY, SERVER, Service, Settings, cost_of,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::frame::{IDENTITY, Segment};

/// The service on port 80. Not the first, lest an index be taken for a number.
pub const WWW: u32 = 2;
/// The service on port 443: the last that there can be.
pub const TLS: u32 = MAX_SERVICES - 1;

/// An identity that peer 0 holds.
pub const FOREIGN_IDENTITY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 102);
/// Peer 0's own address.
pub const PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// After a silence of this long a peer gets no new flows.
pub const TIMEOUT_NS: u64 = 20_000_000_000;
/// What the program takes for the same flow.
pub const SAME_FLOW_NS: u64 = 60_000_000_000;

/// What a program tells the kernel to do (`enum xdp_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    Tx,
    Redirect,
}

/// What came of one packet, and all that was counted for it.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub action: Action,
    pub frame: Vec<u8>,
    /// Counters that moved: service (none: of no service), name, by how much.
    pub counted: Vec<(Option<u32>, &'static str, u64)>,
    /// Peers that something was sent to, with flows and packets.
    pub sent: Vec<(u32, PeerCounters)>,
    /// First packets of WWW that are part of this server's load now.
    pub arrived: u64,
    /// Flows of WWW that were steered away.
    pub steered: u64,
}

/// A server of a cluster: holds IDENTITY, serves WWW with a capacity of 100 connections, has an overload level of 50 % and
/// a margin of 20 %, and steers by least load.
pub struct Server {
    datapath: Datapath,
    peers: u32,
    /// Dropped last.
    pub pins: Pins,
}

impl Server {
    /// `None`, and says so: there are no privileges to load programs.
    pub fn new() -> Option<Self> {
        let pins = Pins::new()?;
        let datapath = Datapath::load(pins.path()).unwrap();
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
                udp: 0,
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
            (IDENTITY, HELD),
            (FOREIGN_IDENTITY, FOREIGN),
            (PEER_ADDRESS, SERVER),
        ] {
            let identity = Identity { kind, peer: 0 };
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
            timeout_ns: TIMEOUT_NS,
            seed: 7,
            peers: self.peers,
            ..Settings::default()
        };
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
        self.peers += 1;
        self.set_settings(|_| {});
        let mac = Mac {
            octets: mac_of(slot),
            padding: [0; 2],
        };
        self.maps().peer_macs.insert(mac, slot, 0).unwrap();
        self.set_peer(slot, |_| {});
        self.set_load(slot, |report| report.load = load);
        slot
    }

    /// Sets a peer: alive and just heard of, but for `change`.
    pub fn set_peer(&mut self, slot: u32, change: impl FnOnce(&mut Peer)) {
        let mut peer = Peer {
            id: u64::from(slot) + 1_000,
            last_report_ns: clock::monotonic().0,
            state: PEER_ALIVE,
            interface: 1,
            mac: mac_of(slot),
            padding: [0; 2],
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

    pub fn half_open(&mut self, segment: &Segment) -> Option<Flow> {
        self.maps().half_open.get(&key(segment), 0).ok()
    }

    pub fn flow(&mut self, segment: &Segment) -> Option<Flow> {
        self.maps().flows.get(&key(segment), 0).ok()
    }

    pub fn forget_half_open(&mut self, segment: &Segment) {
        self.maps().half_open.remove(&key(segment)).unwrap();
    }

    /// Loads the programs again, on the pins that are there.
    pub fn reload(&mut self) {
        self.datapath = Datapath::load(self.pins.path()).unwrap();
    }

    /// Makes the flow's entries in HALF_OPEN and FLOWS this old.
    pub fn age(&mut self, segment: &Segment, nanoseconds: u64) {
        let key = key(segment);
        let maps = self.maps();
        for flows in [&mut maps.half_open, &mut maps.flows] {
            if let Ok(mut flow) = flows.get(&key, 0) {
                flow.last_seen_ns = before(nanoseconds);
                flows.insert(key, flow, 0).unwrap();
            }
        }
    }

    /// Gives the frame to the program.
    pub fn receive(&mut self, frame: &[u8]) -> Outcome {
        let before = self.counts();
        let (action, frame) = self.run(frame);
        let after = self.counts();
        let counted = after
            .counters
            .iter()
            .zip(before.counters)
            .map(|(&(service, name, count), (.., before))| (service, name, count - before))
            .filter(|(.., count)| *count > 0)
            .collect();
        let sent = (0..)
            .zip(after.peers.iter().zip(before.peers))
            .map(|(slot, (count, before))| {
                let sent = PeerCounters {
                    flows: count.flows - before.flows,
                    packets: count.packets - before.packets,
                };
                (slot, sent)
            })
            .filter(|(_, sent)| *sent != PeerCounters::default())
            .collect();
        Outcome {
            action,
            frame,
            counted,
            sent,
            arrived: after.connections.arrived - before.connections.arrived,
            steered: after.connections.steered - before.connections.steered,
        }
    }

    /// Gives the frame to the program, and doesn't look at what was counted.
    pub fn run(&self, frame: &[u8]) -> (Action, Vec<u8>) {
        let program: &Xdp = self.datapath.program(STEER).unwrap().try_into().unwrap();
        let mut out = vec![0; 2048];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => panic!("the program returned {other}"),
        };
        (action, out)
    }

    fn counts(&self) -> Counts {
        let maps = &self.datapath.maps;
        let services = [None].into_iter().chain((0..MAX_SERVICES).map(Some));
        let counters = services.flat_map(|service| {
            let counters = maps.counters(service).unwrap();
            let named: Vec<_> = counters.named().collect();
            named
                .into_iter()
                .map(move |(name, count)| (service, name, count))
        });
        Counts {
            counters: counters.collect(),
            peers: (0..self.peers)
                .map(|slot| maps.peer_counters(slot).unwrap())
                .collect(),
            connections: maps.connections.get(&WWW, 0).unwrap(),
        }
    }
}

struct Counts {
    counters: Vec<(Option<u32>, &'static str, u64)>,
    peers: Vec<PeerCounters>,
    connections: Connections,
}

/// What is to be seen of single packets.
impl Server {
    /// The frame goes to the local stack as it is, counted by `counter` alone.
    #[track_caller]
    pub fn passes(&mut self, frame: &[u8], service: Option<u32>, counter: &'static str) {
        self.stays(frame, service, counter, 0);
    }

    /// As `passes` for WWW, and it is a first packet that is part of the load from now on.
    #[track_caller]
    pub fn admits(&mut self, segment: &Segment, counter: &'static str) {
        self.stays(&segment.frame(), Some(WWW), counter, 1);
    }

    /// The packet of WWW is sent on to a peer: nothing but its Ethernet addresses changes.
    #[track_caller]
    pub fn steers(&mut self, segment: &Segment, slot: u32, counter: &'static str) {
        let new = u64::from(["steered_new", "steered_not_ready"].contains(&counter));
        let sent_before = self.sent(slot);
        let readdressed = Segment {
            to_mac: mac_of(slot),
            from_mac: segment.to_mac,
            ..*segment
        };
        let expected = Outcome {
            action: Action::Tx,
            frame: readdressed.frame(),
            counted: vec![(Some(WWW), counter, 1)],
            sent: vec![(
                slot,
                PeerCounters {
                    flows: new,
                    packets: 1,
                },
            )],
            arrived: 0,
            steered: new,
        };
        assert_eq!(self.receive(&segment.frame()), expected);
        assert_eq!(u64::from(self.sent(slot) - sent_before), new);
    }

    #[track_caller]
    fn stays(&mut self, frame: &[u8], service: Option<u32>, counter: &'static str, arrived: u64) {
        let expected = Outcome {
            action: Action::Pass,
            frame: frame.to_vec(),
            counted: vec![(service, counter, 1)],
            sent: vec![],
            arrived,
            steered: 0,
        };
        assert_eq!(self.receive(frame), expected);
    }
}

/// The Ethernet address of the peer in `slot`.
pub fn mac_of(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 1, slot as u8]
}

/// The key of a segment's flow.
pub fn key(segment: &Segment) -> FlowKey {
    key_of(segment.from, segment.to)
}

/// The key of the flow from `client` to `destination`.
pub fn key_of(client: SocketAddrV4, destination: SocketAddrV4) -> FlowKey {
    FlowKey {
        client: (*client.ip()).into(),
        identity: (*destination.ip()).into(),
        client_port: client.port(),
        port: destination.port(),
        protocol: 6,
        padding: [0; 3],
    }
}

/// The time that was `nanoseconds` ago.
pub fn before(nanoseconds: u64) -> u64 {
    let now = clock::monotonic().0;
    now.checked_sub(nanoseconds)
        .expect("the machine has been up for more than a minute or two")
}

/// A bpffs of the test's own. Test runs look for sockets in the network namespace of their thread: from here on that is a
/// new one, where nothing listens. The mount is in a mount namespace of the thread's, and ends with it at the latest.
pub struct Pins {
    dir: TempDir,
}

impl Pins {
    /// `None`, and says so: there are no privileges to load programs.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("BALANCER_REQUIRE_ROOT").is_none(),
                "BALANCER_REQUIRE_ROOT is set: run as root"
            );
            println!("skipped: needs root");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        let pins = Self {
            dir: tempfile::Builder::new()
                .prefix("bf-")
                .tempdir_in("/tmp")
                .unwrap(),
        };
        mount(
            Some("bpffs"),
            pins.dir.path(),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        Some(pins)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // No assertion: it would abort where the test already failed.
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
