//! Fragments follow the first one of their packet.

use balancer_common::types::PEER_DEAD;

use crate::frame::{DATAGRAM, DATAGRAM_V6, FIRST, Segment, TAG, Transport, ipv4, ipv6, mend_ipv4};
use crate::outcome::Action;
use crate::server::{Server, WWW, mac_of};

const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

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
    let frame = v6_fragment(&DATAGRAM_V6, 7, 0, 0, usize::MAX);
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

fn long(datagram: Segment) -> Segment {
    Segment {
        transport: Transport::Udp(4_000),
        ..datagram
    }
}

/// The datagram in three fragments.
fn fragments(datagram: &Segment, id: u16) -> [Vec<u8>; 3] {
    let parts = [(0, 1_400), (1_400, 2_800), (2_800, usize::MAX)];
    parts.map(|(start, end)| match datagram.from.ip() {
        std::net::IpAddr::V4(_) => v4_fragment(datagram, id, start, end),
        std::net::IpAddr::V6(_) => {
            let more = u16::from(end != usize::MAX);
            v6_fragment(datagram, id.into(), start, more, end)
        }
    })
}

fn v4_fragment(datagram: &Segment, id: u16, start: usize, end: usize) -> Vec<u8> {
    let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) =
        (datagram.from.ip(), datagram.to.ip())
    else {
        panic!("{datagram:?}");
    };
    let ethernet = 14 + datagram.tags.len();
    let whole = datagram.frame();
    let payload = &whole[ethernet + 20..];
    let part = &payload[start..end.min(payload.len())];
    let mut packet = ipv4(from, to, UDP, datagram.hops, part);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    let more = u16::from(end < payload.len()) << 13;
    packet[6..8].copy_from_slice(&(more | (start / 8) as u16).to_be_bytes());
    mend_ipv4(&mut packet);
    [&whole[..ethernet], &packet].concat()
}

fn v6_fragment(datagram: &Segment, id: u32, start: usize, more: u16, end: usize) -> Vec<u8> {
    let (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) =
        (datagram.from.ip(), datagram.to.ip())
    else {
        panic!("{datagram:?}");
    };
    let ethernet = 14 + datagram.tags.len();
    let whole = datagram.frame();
    let payload = &whole[ethernet + 40..];
    let mut part = vec![UDP, 0];
    part.extend((start as u16 | more).to_be_bytes());
    part.extend(id.to_be_bytes());
    part.extend(&payload[start..end.min(payload.len())]);
    let packet = ipv6(from, to, FRAGMENT, datagram.hops, &part);
    [&whole[..ethernet], &packet].concat()
}
