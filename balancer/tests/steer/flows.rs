//! Later packets of flows, and flows whose peer is lost.

use balancer::datapath::Tables;
use balancer_common::table::{BUSY_FLOW_NS, CLOSING, OPEN_TCP, SAME_FLOW_NS};
use balancer_common::types::PEER_DEAD;

use crate::frame::{DATAGRAM, FIRST, SECOND, Segment};
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
    assert_eq!((entry.peer, entry.service), (0, WWW as u8));
    let view = server.maps().flows.view().unwrap();
    let keys: Vec<_> = view.flows().map(|(_, flow)| flow.key).collect();
    assert_eq!(keys, [key(&SECOND)]);

    server.age(&SECOND, SAME_FLOW_NS / 2);
    server.steers(&SECOND, 0, "steered");
    assert!(server.flow(&SECOND).unwrap().age_ms(before(0)) < 1_000);
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
    server.steers(&FIRST, 0, "steered_new");
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

#[test]
fn a_flow_that_ends_is_marked_and_one_that_begins_anew_is_not() {
    let Some(mut server) = two_peers() else {
        return;
    };
    let (fin, rst) = (0x11, 0x04);
    for flags in [fin, rst] {
        server.steers(&FIRST, 0, "steered_new");
        server.steers(&SECOND, 0, "steered");
        assert_eq!(server.flow(&SECOND).unwrap().state, OPEN_TCP);
        let last = SECOND.with_flags(flags);
        server.steers(&last, 0, "steered");
        assert_eq!(server.flow(&SECOND).unwrap().state, CLOSING);
        // Its client's last acknowledgement.
        server.steers(&SECOND, 0, "steered");
        assert_eq!(server.flow(&SECOND).unwrap().state, CLOSING);
        // In the other end's TIME-WAIT.
        server.steers(&FIRST, 0, "steered");
        assert_eq!(server.flow(&SECOND).unwrap().state, OPEN_TCP);
        server.age(&FIRST, SAME_FLOW_NS + 1_000_000_000);
    }
}

/// A table of eight places, so that all flows have the same two sets.
#[test]
fn a_new_flow_is_kept_where_all_places_are_busy() {
    let Some(mut server) = Server::with_tables(Tables { flows: 8 }) else {
        return;
    };
    server.add_peer(1_000);
    server.set_load(0, |report| report.cost = 0);
    server.set_own_load(9_000);
    let mut flows: Vec<Segment> = Vec::new();
    for flow in (0..1_000).map(|number| FIRST.numbered(number)) {
        if flows.len() == 8 {
            break;
        }
        // Of those whose two sets are one, each has four places only.
        if server.sets(&flow) == 2 {
            server.steers(&flow, 0, "steered_new");
            server.steers(&flow.second(), 0, "steered");
            flows.push(flow);
        }
    }
    let next = (1_000..2_000).map(|number| FIRST.numbered(number));
    let next = next
        .into_iter()
        .find(|flow| server.sets(flow) == 2)
        .unwrap();
    server.admits(&next, "kept_no_room");
    for flow in &flows {
        server.steers(&flow.second(), 0, "steered");
    }
    // One that is idle gives its place up.
    server.age(&flows[3], BUSY_FLOW_NS + 1_000_000_000);
    server.steers(&next, 0, "steered_new");
    assert_eq!(server.flow(&flows[3]), None);
    // And a flood takes no second one.
    for flow in (2_000..2_100).map(|number| FIRST.numbered(number)) {
        if server.sets(&flow) == 2 {
            server.steers(&flow, 0, "steered_new");
        }
    }
    let left = flows.iter().filter(|flow| server.flow(flow).is_some());
    assert_eq!(left.count(), 7);
}

/// Two datagrams make a UDP flow, from whatever address: they are not to push TCP out.
#[test]
fn udp_takes_no_place_of_a_busy_tcp_flow() {
    let Some(mut server) = Server::with_tables(Tables { flows: 1_024 }) else {
        return;
    };
    server.add_peer(1_000);
    server.set_load(0, |report| report.cost = 0);
    server.set_own_load(9_000);
    let flows: Vec<_> = (0..200).map(|number| FIRST.numbered(number)).collect();
    for flow in &flows {
        server.steers(flow, 0, "steered_new");
        server.steers(&flow.second(), 0, "steered");
    }
    for datagram in (0..5_000).map(|number| DATAGRAM.numbered(number)) {
        server.run(&datagram.frame());
        server.run(&datagram.frame());
    }
    for flow in &flows {
        server.steers(&flow.second(), 0, "steered");
    }
}

/// An overloaded server with two peers, of which the first has less load.
fn two_peers() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(1_000);
    server.add_peer(2_000);
    server.set_own_load(9_000);
    Some(server)
}
