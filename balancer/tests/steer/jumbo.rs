//! Frames that are longer than a page, of which the program has only the beginning in reach (`xdp.frags`).

use balancer_common::types::FAMILY_V4;

use crate::frame::{DATAGRAM, DATAGRAM_V6, FIRST, FIRST_V6, Segment, TAG, Transport, mend_ipv4};
use crate::outcome::Action;
use crate::server::{PEER_ADDRESS, Server, WWW, mac_of};

const PAYLOAD: usize = 8_900;

#[test]
fn a_jumbo_frame_is_steered_whole() {
    let Some(mut server) = overloaded() else {
        return;
    };
    for first in [FIRST, FIRST_V6, Segment { tags: TAG, ..FIRST }.numbered(1)] {
        server.steers(&first, 0, "steered_new");
        let frame = filled(&first.second());
        let outcome = server.receive(&frame);
        assert_eq!(outcome.counted, [(Some(WWW), "steered", 1)]);
        assert_eq!(outcome.action, Action::Tx);
        assert_eq!(outcome.frame[..6], mac_of(0));
        assert_eq!(outcome.frame[40..], frame[40..], "unchanged");
    }
    for datagram in [DATAGRAM, DATAGRAM_V6] {
        let datagram = Segment {
            transport: Transport::Udp(PAYLOAD),
            ..datagram
        };
        server.steers(&datagram, 0, "steered_new");
        server.steers(&datagram, 0, "steered");
    }
}

#[test]
fn a_jumbo_frame_of_which_the_end_is_missing_is_odd() {
    let Some(mut server) = overloaded() else {
        return;
    };
    for first in [FIRST, FIRST_V6] {
        let frame = filled(&first);
        server.passes(&frame[..frame.len() - 1], None, "odd");
        server.passes(&frame[..5_000], None, "odd");
        server.passes(&frame[..1_000], None, "odd");
    }
}

#[test]
fn a_jumbo_frame_goes_into_a_tunnel_whole() {
    let Some(mut server) = overloaded() else {
        return;
    };
    server.set_peer(0, |peer| {
        peer.tunnel = FAMILY_V4;
        peer.mtu = 9_000;
        peer.tunnel_to = PEER_ADDRESS.into();
    });
    for first in [FIRST, FIRST_V6] {
        let frame = filled(&first);
        let outcome = server.receive(&frame);
        assert_eq!(outcome.counted, [(Some(WWW), "steered_new", 1)]);
        assert_eq!(outcome.action, Action::Tx);
        // Behind IPv4 and UDP headers.
        let overhead = 28;
        assert_eq!(outcome.frame.len(), frame.len() + overhead);
        assert_eq!(outcome.frame[40 + overhead..], frame[40..], "unchanged");
    }
}

/// The segment with so much payload, whose checksum is wrong.
fn filled(segment: &Segment) -> Vec<u8> {
    let ip = 14 + segment.tags.len();
    let mut frame = segment.frame();
    if segment.from.is_ipv4() {
        frame.truncate(ip + 40);
        frame[ip + 2..ip + 4].copy_from_slice(&(40 + PAYLOAD as u16).to_be_bytes());
        mend_ipv4(&mut frame[ip..]);
    } else {
        frame[ip + 4..ip + 6].copy_from_slice(&(20 + PAYLOAD as u16).to_be_bytes());
    }
    frame.extend((0..PAYLOAD).map(|nth| (nth % 251) as u8));
    frame
}

fn overloaded() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(0);
    server.set_own_load(9_000);
    Some(server)
}
