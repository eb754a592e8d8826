//! ICMP errors follow the flow that they are about.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use balancer_common::types::PEER_DEAD;

use crate::frame::{DATAGRAM, DATAGRAM_V6, FIRST, FIRST_V6};
use crate::kinds::{error, error_types};
use crate::outcome::Action;
use crate::server::{Server, WWW, mac_of};

#[test]
fn an_error_about_a_steered_flow_goes_to_its_peer() {
    for first in [FIRST, FIRST_V6, DATAGRAM, DATAGRAM_V6] {
        let Some(mut server) = Server::new() else {
            return;
        };
        server.add_peer(0);
        server.set_own_load(9_000);
        for &kind in error_types(&first) {
            server.passes(&error(&first, kind), Some(WWW), "local");
        }
        server.steers(&first, 0, "steered_new");
        // While it is half open, and after that.
        for _ in 0..2 {
            for &kind in error_types(&first) {
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
        server.passes(&error(&first, error_types(&first)[0]), Some(WWW), "local");
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
        let mut frame = error(&of_another, error_types(&first)[0]);
        let to = match first.to.ip() {
            IpAddr::V4(to) => (30, to.octets().to_vec()),
            IpAddr::V6(to) => (38, to.octets().to_vec()),
        };
        frame[to.0..to.0 + to.1.len()].copy_from_slice(&to.1);
        server.passes(&frame, None, "not_ours");
        // Cut short.
        let whole = error(&first, error_types(&first)[0]);
        server.passes(&whole[..whole.len() - 1], None, "odd");
    }
    assert_eq!(server.half_open(&FIRST).unwrap().peer, 0);
}
