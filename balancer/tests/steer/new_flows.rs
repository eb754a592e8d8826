//! First packets: S202 to S209.

use balancer::exchange::clock;
use balancer_common::types::{FAMILY_V4, OFFERED, PEER_DEAD, PEER_NONE};

use crate::frame::{FIRST, FIRST_V6, Segment, TAG};
use crate::outcome::Action;
use crate::server::{FOREIGN_IDENTITY, PEER_ADDRESS, Server, TIMEOUT_NS, WWW, before, mac_of};

#[test]
fn below_the_level_flows_are_kept() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(5_000);
    server.admits(&FIRST, "kept_below_level");
    assert_eq!(server.half_open(&FIRST), None);
    server.set_own_load(5_001);
    server.steers(&FIRST, 0, "steered_new");
}

#[test]
fn kept_first_packets_are_load_at_once() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    // At a capacity of 100, the level of 50 % is passed by the 51st.
    for number in 0..51 {
        server.admits(&FIRST.numbered(number), "kept_below_level");
    }
    server.steers(&FIRST.numbered(51), 0, "steered_new");
    // And once the daemon has given one up, there is room for another.
    server.set_service(|service| service.given_up = 1);
    server.admits(&FIRST.numbered(52), "kept_below_level");
}

#[test]
fn above_the_level_flows_go_to_a_peer() {
    let Some(mut server) = Server::new() else {
        return;
    };
    for load in [3_000, 2_000, 4_000] {
        server.add_peer(load);
    }
    server.set_own_load(9_000);
    server.steers(&FIRST, 1, "steered_new");
    let entry = server.half_open(&FIRST).unwrap();
    assert_eq!((entry.peer, u32::from(entry.service)), (1, WWW));
    assert!(entry.is_fresh(clock::monotonic().0, 1_000_000_000));
    assert_eq!(server.flow(&FIRST), None);
}

#[test]
fn what_was_steered_counts_as_the_peers_load() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(2_000);
    server.add_peer(2_150);
    server.set_own_load(9_000);
    // Each flow adds 100 basis points.
    for (number, slot) in (0..).zip([0, 0, 1, 0, 1]) {
        server.steers(&FIRST.numbered(number), slot, "steered_new");
    }
    server.set_load(0, |report| report.load = 0);
    server.steers(&FIRST.numbered(9), 0, "steered_new");
    assert_eq!((server.sent(0), server.sent(1)), (1, 2));
}

#[test]
fn a_peer_must_be_lower_by_more_than_the_margin() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(5_000);
    server.set_own_load(7_000);
    server.admits(&FIRST, "kept_no_candidate");
    assert_eq!(server.half_open(&FIRST), None);
    server.set_load(0, |report| report.load = 4_999);
    server.steers(&FIRST, 0, "steered_new");
}

#[test]
fn without_a_fit_peer_flows_are_kept() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.set_own_load(9_000);
    server.admits(&FIRST.numbered(0), "kept_no_candidate");
    server.add_peer(0);
    for state in [PEER_NONE, PEER_DEAD] {
        server.set_peer(0, |peer| peer.state = state);
        server.admits(&FIRST.numbered(0), "kept_no_candidate");
    }
    server.set_peer(0, |peer| {
        peer.last_report_ns = before(TIMEOUT_NS + 1_000_000_000);
    });
    server.admits(&FIRST.numbered(0), "kept_no_candidate");
    server.set_peer(0, |peer| peer.last_report_ns = before(TIMEOUT_NS / 2));
    for flags in [0, OFFERED] {
        server.set_load(0, |report| report.flags = flags);
        server.admits(&FIRST.numbered(0), "kept_no_candidate");
    }
    server.set_load(0, |_| {});
    server.steers(&FIRST.numbered(0), 0, "steered_new");
}

#[test]
fn a_server_that_is_not_ready_gives_to_any_peer() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(8_000);
    server.set_service(|service| service.ready = 0);
    server.steers(&FIRST, 0, "steered_not_ready");
    server.set_load(0, |report| {
        report.load = 8_000;
        report.flags = OFFERED;
    });
    server.admits(&FIRST.numbered(1), "kept_no_candidate");
}

#[test]
fn a_server_of_the_cluster_is_served_here() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    for address in [PEER_ADDRESS, FOREIGN_IDENTITY] {
        let mut segment = FIRST;
        segment.from.set_ip(address.into());
        server.admits(&segment, "kept_for_peer");
        assert_eq!(server.half_open(&segment), None);
    }
}

#[test]
fn frames_can_be_redirected() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    server.set_settings(|settings| settings.redirect = 1);
    let outcome = server.receive(&FIRST.frame());
    assert_eq!(outcome.action, Action::Redirect);
    assert_eq!(outcome.counted, [(Some(WWW), "steered_new", 1)]);
    server.set_settings(|_| {});
    server.steers(&FIRST, 0, "steered_repeated");
    // Which it is, as both are sent to the same peer in the same way.
    let again = server.receive(&FIRST.frame());
    assert_eq!(again.frame, outcome.frame);
}

#[test]
fn a_tagged_frame_stays_in_its_vlan() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(1_000);
    server.add_peer(3_000);
    server.set_own_load(9_000);
    // A tagged frame has to stay in its VLAN, which the first peer is not on.
    server.set_peer(0, |peer| peer.interface = 9);
    let tagged = Segment { tags: TAG, ..FIRST };
    for number in 0..20 {
        server.steers(&tagged.numbered(number), 1, "steered_new");
    }
    server.set_peer(1, |peer| peer.tunnel = FAMILY_V4);
    server.admits(&tagged.numbered(20), "kept_no_candidate");
    // Without a tag, it may leave by another interface: then it is redirected there.
    let outcome = server.receive(&FIRST.numbered(30).frame());
    assert_eq!(outcome.action, Action::Redirect);
    assert_eq!(outcome.counted, [(Some(WWW), "steered_new", 1)]);
    assert_eq!(outcome.frame[..6], mac_of(0));
}

/// It would come to its end on the way.
#[test]
fn a_packet_that_came_too_far_goes_no_further() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    for first in [FIRST, FIRST_V6] {
        let last = Segment { hops: 1, ..first };
        server.admits(&last, "hop_limit");
        assert_eq!(server.half_open(&last), None);
        let two = Segment {
            hops: 2,
            ..first.numbered(1)
        };
        server.steers(&two, 0, "steered_new");
        server.drops(&Segment { hops: 1, ..two }.frame(), Some(WWW), "hop_limit");
        server.steers(&two.second(), 0, "steered");
        server.drops(
            &Segment { hops: 1, ..two }.second().frame(),
            Some(WWW),
            "hop_limit",
        );
    }
}
