//! The table of peers, as the program sees it: what a report, a silence or a farewell does to packets.

use std::net::IpAddr;
use std::time::Duration;

use balancer::cluster::{
    IdentityReport, Link, PortRange, Report, ServerId, ServiceReport, Status, Tenure,
};
use balancer::config::{Config, Service};
use balancer::datapath::host::Route;
use balancer::datapath::interface::{Interface, XdpState};
use balancer::datapath::peers::{Known, PeerTable};
use balancer::exchange::clock;
use balancer_common::types::{Address, PEER_ALIVE, PEER_DEAD, cost_of};

use crate::frame::{FIRST, IDENTITY, OUR_MAC, ROUTER_MAC, SECOND, Segment};
use crate::server::{FOREIGN_IDENTITY, PEER_ADDRESS, Server, TIMEOUT_NS, WWW, mac_of};

const ONE: ServerId = ServerId(7_001);
const OTHER: ServerId = ServerId(7_002);

#[test]
fn a_report_makes_a_candidate() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    cluster.server.admits(&FIRST, "kept_no_candidate");
    cluster.hear(&report(ONE));
    cluster.server.steers(&FIRST, 0, "steered_new");
    assert_eq!(cluster.server.sent(0), 1);

    // Its frames, and those for its identity and from its address, are known as such.
    let theirs = Segment {
        from_mac: mac_of(0),
        ..FIRST.numbered(1)
    };
    cluster.server.admits(&theirs, "not_steered_twice");
    let mut guest = FIRST.numbered(2);
    guest.to.set_ip(FOREIGN_IDENTITY.into());
    cluster.server.admits(&guest, "guest");
    let mut client = FIRST.numbered(3);
    client.from.set_ip(PEER_ADDRESS.into());
    cluster.server.admits(&client, "kept_for_peer");

    // The next report has the flow in its load.
    cluster.hear(&Report {
        sequence: 2,
        ..report(ONE)
    });
    assert_eq!(cluster.server.sent(0), 0);
}

#[test]
fn a_peer_that_cannot_serve_gets_nothing() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    let draining = Report {
        draining: true,
        ..report(ONE)
    };
    let mut down = report(ONE);
    down.services[0].healthy = false;
    let mut elsewhere = report(ONE);
    elsewhere.links[0].addresses = vec!["192.0.2.2/24".parse().unwrap()];
    let mut without = report(ONE);
    without.services[0].ports[0].last = 79;
    for (what, unfit) in [
        ("draining", draining),
        ("its service is down", down),
        ("on another link", elsewhere),
        ("without the service", without),
    ] {
        println!("{what}");
        cluster.hear(&unfit);
        cluster.server.admits(&FIRST, "kept_no_candidate");
    }
    cluster.hear(&report(ONE));
    cluster.server.steers(&FIRST, 0, "steered_new");
}

#[test]
fn a_silent_peer_keeps_its_flows_until_it_is_dead() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    cluster.hear(&report(ONE));
    cluster.server.steers(&FIRST, 0, "steered_new");
    cluster.set_status(ONE, Status::Silent);
    cluster.server.steers(&SECOND, 0, "steered");
    cluster
        .server
        .admits(&FIRST.numbered(1), "kept_no_candidate");
    cluster.set_status(ONE, Status::Dead);
    cluster
        .server
        .passes(&SECOND.frame(), Some(WWW), "fallen_back");

    cluster.hear(&report(ONE));
    cluster.server.steers(&FIRST.numbered(2), 0, "steered_new");
}

/// It need not report again first, nor does a way bring a dead one back.
#[test]
fn a_peer_behind_a_router_is_there_as_soon_as_there_is_a_way() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    let mut remote = report(ONE);
    remote.links[0].addresses = vec!["10.1.0.2/24".parse().unwrap()];
    let route = Route {
        interface: 1,
        mac: ROUTER_MAC,
        mtu: None,
    };
    let other = Route {
        mac: mac_of(9),
        ..route
    };
    cluster.hear(&remote);
    assert_eq!(cluster.state(), PEER_DEAD);
    cluster.set_route(route);
    assert_eq!(cluster.state(), PEER_ALIVE);
    cluster.set_route(other);
    assert_eq!(cluster.state(), PEER_ALIVE);
    cluster.set_status(ONE, Status::Dead);
    cluster.set_route(route);
    assert_eq!(cluster.state(), PEER_DEAD);
}

#[test]
fn a_farewell_ends_steering() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    cluster.hear(&report(ONE));
    cluster.server.steers(&FIRST, 0, "steered_new");
    cluster.hear(&Report {
        leaving: true,
        ..report(ONE)
    });
    cluster
        .server
        .passes(&SECOND.frame(), Some(WWW), "fallen_back");
    cluster
        .server
        .admits(&FIRST.numbered(1), "kept_no_candidate");
}

/// Flows are steered by slot: who gets the slot of a forgotten peer must not get its flows.
#[test]
fn a_forgotten_peers_slot_is_clean() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    cluster.hear(&report(ONE));
    for number in 0..2 {
        cluster
            .server
            .steers(&FIRST.numbered(number), 0, "steered_new");
    }
    let established = SECOND.numbered(1);
    cluster.server.steers(&established, 0, "steered");

    cluster.table.forget(cluster.server.maps(), ONE).unwrap();
    assert_eq!(cluster.server.maps().peer_macs.keys().count(), 0);
    cluster.hear(&report(OTHER));
    assert_eq!(cluster.table.slot(OTHER), Some(0));
    cluster.server.passes(&SECOND.frame(), Some(WWW), "local");
    cluster
        .server
        .passes(&established.frame(), Some(WWW), "local");
    let done = cluster.server.receive(&FIRST.numbered(2).frame());
    assert_eq!(done.frame[..6], mac_of(1));
}

#[test]
fn a_successor_adopts_the_table() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    cluster.hear(&report(ONE));
    cluster.server.steers(&FIRST, 0, "steered_new");
    cluster.server.reload();
    cluster.table = table(&mut cluster.server);
    assert_eq!(cluster.table.unheard(), [(ONE, FOREIGN_IDENTITY.into())]);
    cluster.server.steers(&SECOND, 0, "steered");
    let mut guest = FIRST.numbered(1);
    guest.to.set_ip(FOREIGN_IDENTITY.into());
    cluster.server.admits(&guest, "guest");
    cluster.hear(&report(OTHER));
    assert_eq!(cluster.table.slot(OTHER), Some(1));
    cluster.hear(&report(ONE));
    assert_eq!(cluster.table.slot(ONE), Some(0));
    assert_eq!(cluster.table.unheard(), []);
}

#[test]
fn what_is_not_believed_is_not_taken() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    cluster.hear(&report(ONE));
    let mut claim = report(OTHER);
    let refused: IpAddr = "10.0.0.177".parse().unwrap();
    claim.identities.push(IdentityReport {
        address: "10.0.0.177/24".parse().unwrap(),
        home: ONE,
        term: 9,
        tenure: Tenure::Held,
    });
    cluster.hear(&claim);
    let entered = |cluster: &mut Cluster, address: IpAddr| {
        let maps = cluster.server.maps();
        maps.identities.get(&Address::from(address), 0).is_ok()
    };
    assert!(!cluster.table.foreign().contains(&refused));
    assert!(!entered(&mut cluster, refused));
    let theirs: IpAddr = FOREIGN_IDENTITY.into();
    assert!(cluster.table.foreign().contains(&theirs));

    // Nobody has it for a moment: it stays, as its home's is for want of another's.
    let mut known = cluster.known.clone();
    known[0].holder = None;
    let moved = cluster
        .table
        .set_known(cluster.server.maps(), known.into_iter());
    assert!(!moved.unwrap());
    assert!(entered(&mut cluster, theirs));
}

/// An overloaded server, and its table of peers.
struct Cluster {
    server: Server,
    table: PeerTable,
    /// What is believed of the identities: what homes say of their own.
    known: Vec<Known>,
}

impl Cluster {
    fn new() -> Option<Self> {
        let mut server = Server::new()?;
        server.set_own_load(9_000);
        let table = table(&mut server);
        let known = Vec::new();
        Some(Self {
            server,
            table,
            known,
        })
    }

    /// A report comes in.
    fn hear(&mut self, report: &Report) {
        let now = clock::monotonic();
        let timeout = Duration::from_nanos(TIMEOUT_NS);
        self.known.retain(|known| known.home != report.server);
        let id = report.server;
        let own = report.identities.iter().filter(|one| one.home == id);
        self.known.extend(own.map(|one| Known {
            address: one.address.addr(),
            home: one.home,
            holder: Some(id),
        }));
        let known = self.known.iter().copied();
        self.table
            .update(self.server.maps(), report, now, timeout, known)
            .unwrap();
        self.server.set_peer_count(self.table.count());
    }

    /// ONE's state in the map.
    fn state(&mut self) -> u32 {
        self.server.maps().peers.get(&0, 0).unwrap().state
    }

    /// A route to ONE is found.
    fn set_route(&mut self, route: Route) {
        let changed = self.table.set_route(self.server.maps(), ONE, route);
        assert!(changed.unwrap());
    }

    fn set_status(&mut self, id: ServerId, status: Status) {
        self.table
            .set_status(self.server.maps(), id, status)
            .unwrap();
    }
}

fn table(server: &mut Server) -> PeerTable {
    let interface = Interface {
        name: "eth0".into(),
        index: 1,
        mac: OUR_MAC,
        addresses: vec!["10.0.0.1/24".parse().unwrap()],
        mtu: 1_500,
        carrier: true,
        veth: false,
        xdp: XdpState::None,
    };
    let own = [(IDENTITY.into(), 1)].into();
    PeerTable::adopt(server.maps(), own, vec![interface], services()).unwrap()
}

/// WWW is at its index.
fn services() -> Vec<Service> {
    let text = r#"
        [[service]]
        name = "ftp"
        ports = ["21/tcp"]
        [[service]]
        name = "mail"
        ports = ["25/tcp"]
        [[service]]
        name = "www"
        ports = ["80/tcp"]
    "#;
    Config::parse(text, "the test").unwrap().services
}

/// What a peer without load says: ONE, at [`mac_of`] slot 0, or OTHER, at that of slot 1.
fn report(server: ServerId) -> Report {
    let slot = u32::from(server == OTHER);
    let (own, identity) = match server {
        ONE => (PEER_ADDRESS, FOREIGN_IDENTITY),
        _ => ([10, 0, 0, 3].into(), [10, 0, 0, 103].into()),
    };
    let address = |ip| format!("{ip}/24").parse().unwrap();
    Report {
        server,
        boot: 1,
        sequence: 1,
        period_ms: 500,
        name: server.to_string(),
        links: vec![Link {
            mac: mac_of(slot),
            addresses: vec![address(own)],
        }],
        services: vec![ServiceReport {
            name: "www".into(),
            ports: vec![PortRange {
                protocol: 6,
                first: 70,
                last: 80,
            }],
            healthy: true,
            capacity: 100,
            load: 0,
            cost: cost_of(100),
            names: Vec::new(),
            serves: Vec::new(),
        }],
        identities: vec![IdentityReport {
            address: address(identity),
            home: server,
            term: 1,
            tenure: Tenure::Held,
        }],
        caretaker: false,
        draining: false,
        guests: Vec::new(),
        leaving: false,
        answers: Vec::new(),
    }
}
