//! Later packets of flows, and flows whose peer is lost.

use balancer_common::types::{PEER_DEAD, SAME_FLOW_NS};

use crate::frame::{FIRST, SECOND};
use crate::server::{Server, TIMEOUT_NS, WWW, before, key};

#[test]
fn a_flow_stays_with_its_peer() {
    let Some(mut server) = two_peers() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    // Whoever has the smallest load now.
    server.set_load(0, |report| report.load = 9_000);
    server.steers(&FIRST, 0, "steered_repeated");
    server.steers(&FIRST, 0, "steered_repeated");
    assert_eq!(server.flow(&FIRST), None);

    server.steers(&SECOND, 0, "steered");
    let entry = server.flow(&SECOND).unwrap();
    assert_eq!((entry.peer, entry.service), (0, WWW));

    // The half-open entry stays: another CPU may have the third packet before FLOWS has the flow.
    assert_eq!(server.half_open(&SECOND).unwrap().peer, 0);
    let _ = server.maps().flows.remove(&key(&SECOND));
    server.steers(&SECOND, 0, "steered");
    assert_eq!(server.flow(&SECOND).unwrap().peer, 0);
    server.age(&SECOND, SAME_FLOW_NS / 2);
    server.steers(&SECOND, 0, "steered");
    assert!(server.flow(&SECOND).unwrap().last_seen_ns > before(SAME_FLOW_NS / 4));
    // And own load has no say.
    server.set_own_load(0);
    server.steers(&SECOND, 0, "steered");
}

#[test]
fn a_first_packet_within_a_minute_follows_its_flow() {
    let Some(mut server) = two_peers() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    server.steers(&SECOND, 0, "steered");
    server.set_load(0, |report| report.load = 9_000);
    server.age(&FIRST, SAME_FLOW_NS - 2_000_000_000);
    server.steers(&FIRST, 0, "steered");
    server.age(&FIRST, SAME_FLOW_NS + 1_000_000_000);
    server.steers(&FIRST, 1, "steered_new");
    assert_eq!(server.flow(&FIRST), None);
    assert_eq!(server.half_open(&FIRST).unwrap().peer, 1);
}

/// A client uses its port again for a flow that is kept this time: the entry of the flow before must not take the rest of
/// it away.
#[test]
fn a_kept_flow_does_not_follow_an_older_one() {
    let Some(mut server) = two_peers() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    server.age(&FIRST, SAME_FLOW_NS + 1_000_000_000);
    server.set_own_load(0);
    server.admits(&FIRST, "kept_below_level");
    server.passes(&SECOND.frame(), Some(WWW), "local");
}

/// As above, where the older flow's peer was dead when the new one came, and returns.
#[test]
fn a_kept_flow_does_not_follow_a_peer_that_returns() {
    let Some(mut server) = two_peers() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    server.set_peer(0, |peer| peer.state = PEER_DEAD);
    server.set_own_load(0);
    server.admits(&FIRST, "kept_below_level");
    server.set_peer(0, |_| {});
    server.passes(&SECOND.frame(), Some(WWW), "local");
}

#[test]
fn a_dead_peers_flows_fall_back() {
    let Some(mut server) = two_peers() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    server.set_peer(0, |peer| peer.state = PEER_DEAD);
    // Of a half-open one.
    server.passes(&SECOND.frame(), Some(WWW), "fallen_back");
    server.set_peer(0, |_| {});
    server.steers(&SECOND, 0, "steered");
    server.set_peer(0, |peer| peer.state = PEER_DEAD);
    // Of an established one.
    server.passes(&SECOND.frame(), Some(WWW), "fallen_back");
    assert_eq!(server.flow(&SECOND), None);
    // The client connects again.
    server.steers(&FIRST, 1, "steered_new");
    server.steers(&SECOND, 1, "steered");
}

#[test]
fn a_first_packet_leaves_a_dead_peer_at_once() {
    let Some(mut server) = two_peers() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    server.steers(&SECOND, 0, "steered");
    server.set_peer(0, |peer| peer.state = PEER_DEAD);
    server.steers(&FIRST, 1, "steered_new");
    assert_eq!(server.flow(&FIRST), None);
}

#[test]
fn a_silent_peer_keeps_its_flows() {
    let Some(mut server) = two_peers() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    server.set_peer(0, |peer| {
        peer.last_report_ns = before(TIMEOUT_NS + 1_000_000_000);
    });
    server.steers(&FIRST, 0, "steered_repeated");
    server.steers(&SECOND, 0, "steered");
    server.steers(&SECOND, 0, "steered");
    server.steers(&FIRST.numbered(1), 1, "steered_new");
}

/// An overloaded server with two peers, of which the first has less load.
fn two_peers() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(1_000);
    server.add_peer(2_000);
    server.set_own_load(9_000);
    Some(server)
}
