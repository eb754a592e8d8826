//! Fragments follow the first one of their packet.

use balancer_common::types::PEER_DEAD;

use crate::frame::{DATAGRAM, DATAGRAM_V6, FIRST, Segment, TAG, mend_ipv4};
use crate::kinds::{atomic, fragments, long};
use crate::outcome::Action;
use crate::server::{Server, WWW, mac_of};

#[test]
fn later_fragments_follow_the_first() {
    for datagram in [
        long(DATAGRAM),
        long(DATAGRAM_V6),
        Segment {
            tags: TAG,
            ..long(DATAGRAM)
        },
    ] {
        let Some(mut server) = overloaded() else {
            return;
        };
        let [first, middle, last] = fragments(&datagram, 7);
        // Out of order: nobody knows yet whose it is.
        server.passes(&middle, None, "local");
        goes(&mut server, &first, Some(WWW), "steered_new");
        goes(&mut server, &middle, None, "steered_fragment");
        goes(&mut server, &last, None, "steered_fragment");
        // Those of another packet don't.
        let [other_first, other, _] = fragments(&datagram.numbered(1), 8);
        server.passes(&other, None, "local");
        goes(&mut server, &other_first, Some(WWW), "steered_new");
        goes(&mut server, &other, None, "steered_fragment");
        // The same flow's next packet.
        let [first, middle, _] = fragments(&datagram, 9);
        goes(&mut server, &first, Some(WWW), "steered");
        goes(&mut server, &middle, None, "steered_fragment");
    }
}

/// Consecutive ids, and one that was used before.
#[test]
fn fragments_of_a_kept_packet_follow_no_other() {
    for datagram in [long(DATAGRAM), long(DATAGRAM_V6)] {
        let Some(mut server) = overloaded() else {
            return;
        };
        let [first, later, _] = fragments(&datagram, 8);
        goes(&mut server, &first, Some(WWW), "steered_new");
        goes(&mut server, &later, None, "steered_fragment");
        server.set_own_load(0);
        for id in [9, 8] {
            let [first, later, _] = fragments(&datagram.numbered(id), id);
            let outcome = server.receive(&first);
            assert_eq!(outcome.counted, [(Some(WWW), "kept_below_level", 1)]);
            server.passes(&later, None, "local");
        }
    }
}

#[test]
fn fragments_of_what_is_kept_stay() {
    let Some(mut server) = overloaded() else {
        return;
    };
    server.set_own_load(0);
    for datagram in [long(DATAGRAM), long(DATAGRAM_V6)] {
        let [first, middle, last] = fragments(&datagram, 7);
        let outcome = server.receive(&first);
        assert_eq!(outcome.counted, [(Some(WWW), "kept_below_level", 1)]);
        assert_eq!(outcome.action, Action::Pass);
        server.passes(&middle, None, "local");
        server.passes(&last, None, "local");
    }
}

#[test]
fn fragments_to_a_dead_peer_stay() {
    let Some(mut server) = overloaded() else {
        return;
    };
    let [first, middle, _] = fragments(&long(DATAGRAM), 7);
    goes(&mut server, &first, Some(WWW), "steered_new");
    server.set_peer(0, |peer| peer.state = PEER_DEAD);
    server.passes(&middle, None, "local");
}

/// A segment in fragments is rare, but a client behind a small link may send it.
#[test]
fn tcp_may_come_in_fragments() {
    let Some(mut server) = overloaded() else {
        return;
    };
    let mut first = FIRST.frame();
    first[20] = 0x20; // more fragments
    mend_ipv4(&mut first[14..]);
    goes(&mut server, &first, Some(WWW), "steered_new");
    let mut later = first.clone();
    (later[20], later[21]) = (0, 3);
    mend_ipv4(&mut later[14..]);
    goes(&mut server, &later, None, "steered_fragment");
}

/// A fragment that is the whole packet (RFC 6946).
#[test]
fn an_atomic_fragment_is_a_packet() {
    let Some(mut server) = overloaded() else {
        return;
    };
    let frame = atomic(&DATAGRAM_V6);
    goes(&mut server, &frame, Some(WWW), "steered_new");
    goes(&mut server, &DATAGRAM_V6.frame(), Some(WWW), "steered");
}

/// The frame is sent on, changed in nothing but its Ethernet addresses and hop limit.
#[track_caller]
fn goes(server: &mut Server, frame: &[u8], service: Option<u32>, counter: &'static str) {
    let outcome = server.receive(frame);
    assert_eq!(outcome.counted, [(service, counter, 1)]);
    assert_eq!(outcome.action, Action::Tx);
    assert_eq!(outcome.frame[..6], mac_of(0));
    assert_eq!(outcome.frame.len(), frame.len());
    assert_eq!(outcome.frame[40..], frame[40..]);
}

fn overloaded() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(0);
    server.set_own_load(9_000);
    Some(server)
}
