//! UDP: every packet may be a flow's first, and no socket tells of those that are kept.

use balancer_common::table::{NO_PEER, UDP_FLOW_NS};
use balancer_common::types::PEER_DEAD;

use crate::frame::{DATAGRAM, DATAGRAM_V6, Segment, TAG, TWO_TAGS, Transport};
use crate::server::{FOREIGN_IDENTITY, FOREIGN_IDENTITY_V6, Server, WWW};

const SORTS: [Segment; 4] = [
    DATAGRAM,
    DATAGRAM_V6,
    Segment {
        tags: TAG,
        ..DATAGRAM
    },
    Segment {
        tags: TWO_TAGS,
        ..DATAGRAM_V6
    },
];

#[test]
fn a_kept_flow_stays_whatever_comes() {
    for datagram in SORTS {
        let Some(mut server) = Server::new() else {
            return;
        };
        server.add_peer(0);
        server.admits(&datagram, "kept_below_level");
        assert_eq!(server.half_open(&datagram).unwrap().peer, NO_PEER);
        server.set_own_load(9_000);
        for _ in 0..3 {
            server.passes(&datagram.frame(), Some(WWW), "local");
        }
        assert_eq!(server.flow(&datagram).unwrap().peer, NO_PEER);
        server.steers(&datagram.numbered(1), 0, "steered_new");
    }
}

#[test]
fn a_steered_flow_goes_on_to_its_end() {
    for datagram in SORTS {
        let Some(mut server) = Server::new() else {
            return;
        };
        server.add_peer(0);
        server.set_own_load(9_000);
        server.steers(&datagram, 0, "steered_new");
        server.set_own_load(0);
        for _ in 0..3 {
            server.steers(&datagram, 0, "steered");
        }
        assert_eq!(server.flow(&datagram).unwrap().peer, 0);
    }
}

#[test]
fn after_its_time_a_flow_is_a_new_one() {
    let Some(mut server) = overloaded() else {
        return;
    };
    server.steers(&DATAGRAM, 0, "steered_new");
    server.steers(&DATAGRAM, 0, "steered");
    server.age(&DATAGRAM, UDP_FLOW_NS - 2_000_000_000);
    server.set_own_load(0);
    server.steers(&DATAGRAM, 0, "steered");
    server.age(&DATAGRAM, UDP_FLOW_NS + 1_000_000_000);
    server.admits(&DATAGRAM, "kept_below_level");
    assert_eq!(server.flow(&DATAGRAM), None);
    server.passes(&DATAGRAM.frame(), Some(WWW), "local");
}

/// Its next datagram is served by somebody else, at once.
#[test]
fn a_dead_peers_flow_is_a_new_one() {
    let Some(mut server) = overloaded() else {
        return;
    };
    for packets in 1..3 {
        let datagram = DATAGRAM.numbered(packets);
        server.set_peer(0, |_| {});
        for counter in ["steered_new", "steered"].into_iter().take(packets.into()) {
            server.steers(&datagram, 0, counter);
        }
        server.set_peer(0, |peer| peer.state = PEER_DEAD);
        server.admits(&datagram, "kept_no_candidate");
        server.passes(&datagram.frame(), Some(WWW), "local");
    }
}

#[test]
fn a_guest_flow_is_load_once() {
    let Some(mut server) = overloaded() else {
        return;
    };
    for mut datagram in [DATAGRAM, DATAGRAM_V6] {
        datagram.to.set_ip(if datagram.to.is_ipv4() {
            FOREIGN_IDENTITY.into()
        } else {
            FOREIGN_IDENTITY_V6.into()
        });
        server.admits(&datagram, "guest");
        for _ in 0..3 {
            server.passes(&datagram.frame(), Some(WWW), "local");
        }
    }
}

#[test]
fn tcp_and_udp_flows_of_the_same_ports_are_two() {
    let Some(mut server) = overloaded() else {
        return;
    };
    server.steers(&DATAGRAM, 0, "steered_new");
    server.passes(&crate::frame::SECOND.frame(), Some(WWW), "local");
    server.set_service(|service| service.sample = 0);
    server.admits(&crate::frame::FIRST, "kept_below_level");
    server.steers(&DATAGRAM, 0, "steered");
}

#[test]
fn an_empty_datagram_is_one() {
    let Some(mut server) = overloaded() else {
        return;
    };
    let empty = Segment {
        transport: Transport::Udp(0),
        ..DATAGRAM
    };
    server.steers(&empty, 0, "steered_new");
}

fn overloaded() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(0);
    server.set_own_load(9_000);
    Some(server)
}
