//! ICMP errors follow the flow that they are about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancer_common::types::PEER_DEAD;

use crate::frame::{
    DATAGRAM, DATAGRAM_V6, FIRST, FIRST_V6, OUR_MAC, ROUTER_MAC, Segment, checksum, ipv4, ipv6,
    pseudo,
};
use crate::outcome::Action;
use crate::server::{Server, WWW, mac_of};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Routers on the way to the client.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);

#[test]
fn an_error_about_a_steered_flow_goes_to_its_peer() {
    for first in [FIRST, FIRST_V6, DATAGRAM, DATAGRAM_V6] {
        let Some(mut server) = Server::new() else {
            return;
        };
        server.add_peer(0);
        server.set_own_load(9_000);
        for &kind in kinds(&first) {
            server.passes(&error(&first, kind), Some(WWW), "local");
        }
        server.steers(&first, 0, "steered_new");
        // While it is half open, and after that.
        for _ in 0..2 {
            for &kind in kinds(&first) {
                let frame = error(&first, kind);
                let outcome = server.receive(&frame);
                assert_eq!(outcome.counted, [(Some(WWW), "steered_error", 1)]);
                assert_eq!(outcome.action, Action::Tx);
                assert_eq!(outcome.frame[..6], mac_of(0));
                assert_eq!(outcome.frame[40..], frame[40..]);
            }
            let second = match first.transport {
                crate::frame::Transport::Tcp(_) => first.second(),
                crate::frame::Transport::Udp(_) => first,
            };
            server.steers(&second, 0, "steered");
        }
        server.set_peer(0, |peer| peer.state = PEER_DEAD);
        server.passes(&error(&first, kinds(&first)[0]), Some(WWW), "local");
    }
}

#[test]
fn what_is_no_error_about_a_flow_stays() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    for first in [FIRST, FIRST_V6] {
        server.steers(&first, 0, "steered_new");
        let echo = if first.from.is_ipv4() { 8 } else { 128 };
        let redirect = if first.from.is_ipv4() { 5 } else { 137 };
        for kind in [echo, redirect, 0, 255] {
            server.passes(&error(&first, kind), None, "not_ours");
        }
        // About a packet that another host sent.
        let mut of_another = first;
        of_another.to.set_ip(match first.to {
            SocketAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 99).into(),
            SocketAddr::V6(_) => "2001:db8::99".parse().unwrap(),
        });
        let mut frame = error(&of_another, kinds(&first)[0]);
        let to = match first.to.ip() {
            IpAddr::V4(to) => (30, to.octets().to_vec()),
            IpAddr::V6(to) => (38, to.octets().to_vec()),
        };
        frame[to.0..to.0 + to.1.len()].copy_from_slice(&to.1);
        server.passes(&frame, None, "not_ours");
        // Cut short.
        let whole = error(&first, kinds(&first)[0]);
        server.passes(&whole[..whole.len() - 1], None, "odd");
    }
    assert_eq!(server.half_open(&FIRST).unwrap().peer, 0);
}

/// Types of the errors.
fn kinds(about: &Segment) -> &'static [u8] {
    if about.from.is_ipv4() {
        &[3, 11, 12]
    } else {
        &[1, 2, 3, 4]
    }
}

/// An ICMP error of this type about a packet that the identity sent to the flow's client.
fn error(flow: &Segment, kind: u8) -> Vec<u8> {
    let sent = Segment {
        from: flow.to,
        to: flow.from,
        tags: &[],
        ..*flow
    };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    let ip_len = if flow.from.is_ipv4() { 20 } else { 40 };
    message.extend(&sent.frame()[14..14 + ip_len + 8]);
    let (ether_type, packet) = match flow.to.ip() {
        IpAddr::V4(to) => {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum);
            ([8, 0], ipv4(ROUTER, to, ICMP, 60, &message))
        }
        IpAddr::V6(to) => {
            let addresses = [ROUTER_V6.octets(), to.octets()].concat();
            let sum =
                checksum(&[&addresses[..], &pseudo(ICMPV6, message.len()), &message].concat());
            message[2..4].copy_from_slice(&sum);
            ([0x86, 0xdd], ipv6(ROUTER_V6, to, ICMPV6, 60, &message))
        }
    };
    [&OUR_MAC[..], &ROUTER_MAC, &ether_type, &packet].concat()
}
