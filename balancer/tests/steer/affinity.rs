//! Affinity: a client's flows stay together.

use balancer_common::types::{ClientKey, LastFlow, PEER_DEAD};

use crate::frame::{CLIENT, DATAGRAM, FIRST, SECOND};
use crate::server::{Server, WWW, before};

const AFFINITY_NS: u64 = 600_000_000_000;

#[test]
fn a_clients_next_flows_follow_the_first() {
    let Some(mut server) = server() else { return };
    server.steers(&FIRST, 1, "steered_new");
    // A SYN alone binds nobody: anyone could send it in the client's name.
    server.set_load(0, |report| report.load = 500);
    server.steers(&FIRST.numbered(1), 0, "steered_new");
    server.steers(&SECOND, 1, "steered");
    for number in 2..9 {
        server.steers(&FIRST.numbered(number), 1, "steered_by_affinity");
    }
    // A load that is none too many keeps nothing here.
    server.set_own_load(0);
    server.steers(&DATAGRAM.numbered(9), 1, "steered_by_affinity");
    // Another client is free.
    let mut other = FIRST;
    other.from.set_ip([198, 51, 100, 8].into());
    server.admits(&other, "kept_below_level");
}

#[test]
fn a_kept_clients_flows_are_kept() {
    let Some(mut server) = server() else { return };
    server.set_own_load(0);
    server.admits(&FIRST, "kept_below_level");
    server.passes(&FIRST.frame(), Some(WWW), "kept_repeated");
    server.passes(&SECOND.frame(), Some(WWW), "local");
    server.set_own_load(9_000);
    server.admits(&FIRST.numbered(1), "kept_by_affinity");
    // Not by a server that is down or draining.
    server.set_service(|service| service.ready = 0);
    server.steers(&FIRST.numbered(2), 1, "steered_not_ready");
    server.steers(&SECOND.numbered(2), 1, "steered");
    server.set_service(|service| service.ready = 1);
    server.steers(&FIRST.numbered(3), 1, "steered_by_affinity");
}

#[test]
fn a_peer_that_cannot_serve_keeps_no_client() {
    let Some(mut server) = server() else { return };
    server.steers(&FIRST, 1, "steered_new");
    server.steers(&SECOND, 1, "steered");
    server.set_load(1, |report| report.flags = 1);
    server.steers(&FIRST.numbered(1), 0, "steered_new");
    server.set_load(1, |_| {});
    server.set_peer(1, |peer| peer.last_report_ns = before(60_000_000_000));
    server.steers(&FIRST.numbered(2), 0, "steered_new");
    server.set_peer(1, |peer| peer.state = PEER_DEAD);
    server.steers(&FIRST.numbered(3), 0, "steered_new");
    server.steers(&SECOND.numbered(3), 0, "steered");
    server.set_peer(1, |_| {});
    server.steers(&FIRST.numbered(4), 0, "steered_by_affinity");
}

#[test]
fn it_ends_with_its_time() {
    let Some(mut server) = server() else { return };
    server.set_service(|service| service.affinity_ns = 90_000_000_000);
    let client = ClientKey {
        client: CLIENT.ip().into(),
        service: WWW.into(),
    };
    for (age, counter, peer) in [
        (80_000_000_000, "steered_by_affinity", 0),
        (91_000_000_000, "steered_new", 1),
    ] {
        let last = LastFlow {
            last_seen_ns: before(age),
            peer: 0,
            service: WWW,
        };
        server.maps().clients.insert(client, last, 0).unwrap();
        server.steers(&FIRST.numbered(peer as u16), peer, counter);
    }
}

/// An overloaded server with affinity and two peers, of which the second has less load.
fn server() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(2_000);
    server.add_peer(1_000);
    server.set_own_load(9_000);
    server.set_service(|service| service.affinity_ns = AFFINITY_NS);
    Some(server)
}
