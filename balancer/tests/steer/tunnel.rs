//! Peers on other links: into the tunnel, out of it, and what doesn't fit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancer_common::types::{FAMILY_V4, FAMILY_V6, FOREIGN};

use crate::frame::{
    DATAGRAM, DATAGRAM_V6, FIRST, FIRST_V6, IDENTITY, OUR_MAC, ROUTER_MAC, Segment, Transport,
    checksum, ipv4, ipv6, pseudo,
};
use crate::outcome::Action;
use crate::server::{FOREIGN_IDENTITY, FOREIGN_IDENTITY_V6, Server, WWW};

/// This server's ends of its tunnels.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The peer's, where `Server` has it as its address.
const THERE: Ipv4Addr = crate::server::PEER_ADDRESS;
const THERE_V6: Ipv6Addr = crate::server::PEER_ADDRESS_V6;
/// The router between.
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 9, 9];

const UDP: u8 = 17;
const PORT: u16 = 6080;

#[test]
fn packets_go_into_the_tunnel_whole() {
    for family in [FAMILY_V4, FAMILY_V6] {
        for first in [FIRST, FIRST_V6, DATAGRAM, DATAGRAM_V6] {
            let Some(mut server) = server(family) else {
                return;
            };
            let mut ports = Vec::new();
            for (segment, counter) in [(first, "steered_new"), (second(first), "steered")] {
                let outcome = server.receive(&segment.frame());
                assert_eq!(outcome.action, Action::Tx);
                assert_eq!(outcome.counted, [(Some(WWW), counter, 1)]);
                assert_eq!(outcome.frame[..12], [NEXT_HOP, OUR_MAC].concat());
                let inner = Segment {
                    hops: segment.hops - 1,
                    ..segment
                };
                let inner = &inner.frame()[14..];
                let (port, inside) = opened(&outcome.frame, family);
                assert_eq!(
                    inside[..inner.len().min(inside.len())],
                    inner[..inside.len()]
                );
                ports.push(port);
            }
            assert_eq!(ports[0], ports[1], "a flow keeps to one path");
            assert!(ports[0] >= 0xc000);
            let other = server.receive(&first.numbered(1).frame()).frame;
            assert_ne!(opened(&other, family).0, ports[0], "flows spread");
        }
    }
}

#[test]
fn what_comes_out_of_a_tunnel_is_a_guest() {
    for family in [FAMILY_V4, FAMILY_V6] {
        for mut first in [FIRST, FIRST_V6, DATAGRAM, DATAGRAM_V6] {
            let Some(mut server) = server(family) else {
                return;
            };
            first.to.set_ip(match first.to {
                SocketAddr::V4(_) => FOREIGN_IDENTITY.into(),
                SocketAddr::V6(_) => FOREIGN_IDENTITY_V6.into(),
            });
            let expected = [&OUR_MAC[..], &ROUTER_MAC, &first.frame()[12..]].concat();
            let outcome = server.receive(&enclosed(&first.frame(), family));
            assert_eq!(outcome.counted, [(Some(WWW), "guest", 1)]);
            assert_eq!((outcome.action, outcome.arrived), (Action::Pass, 1));
            assert_eq!(outcome.frame, expected);
            for _ in 0..2 {
                // Of a UDP flow.
                if server.half_open(&first).is_some() {
                    server.age(&first, 50_000_000_000);
                }
                let outcome = server.receive(&enclosed(&second(first).frame(), family));
                assert_eq!(outcome.counted, [(Some(WWW), "decapsulated", 1)]);
                assert_eq!((outcome.action, outcome.arrived), (Action::Pass, 0));
            }
        }
    }
}

/// Not even to an identity that this server holds and would steer.
#[test]
fn what_comes_out_of_a_tunnel_is_never_steered() {
    let Some(mut server) = server(FAMILY_V4) else {
        return;
    };
    let outcome = server.receive(&enclosed(&FIRST.frame(), FAMILY_V4));
    assert_eq!(outcome.counted, [(Some(WWW), "guest", 1)]);
    assert_eq!(outcome.action, Action::Pass);
}

#[test]
fn strangers_datagrams_are_dropped() {
    let Some(mut server) = server(FAMILY_V4) else {
        return;
    };
    let mut guest = FIRST;
    guest.to.set_ip(FOREIGN_IDENTITY.into());
    let mut spoofed = enclosed(&guest.frame(), FAMILY_V4);
    spoofed[26..30].copy_from_slice(&[203, 0, 113, 5]);
    server.drops(&spoofed, None, "tunnel_spoofed");
    let mut spoofed = enclosed(&guest.frame(), FAMILY_V6);
    spoofed[37] ^= 1;
    server.drops(&spoofed, None, "tunnel_spoofed");
    // A server of the cluster that no tunnel leads to.
    let spoofed = enclosed(&guest.frame(), FAMILY_V6);
    server.drops(&spoofed, None, "tunnel_spoofed");
    let mut spoofed = spoofed;
    // The identity that is our own is no peer's.
    spoofed[22..38].copy_from_slice(&crate::frame::IDENTITY_V6.octets());
    server.drops(&spoofed, None, "tunnel_spoofed");
}

#[test]
fn a_tunnel_carries_nothing_but_services_on_identities() {
    let Some(mut server) = server(FAMILY_V4) else {
        return;
    };
    let mut guest = FIRST;
    guest.to.set_ip(FOREIGN_IDENTITY.into());
    let mut ssh = guest;
    ssh.to.set_port(22);
    server.drops(&enclosed(&ssh.frame(), FAMILY_V4), None, "tunnel_refused");
    let mut elsewhere = guest;
    elsewhere.to.set_ip([10, 0, 0, 77].into());
    server.drops(
        &enclosed(&elsewhere.frame(), FAMILY_V4),
        Some(WWW),
        "tunnel_refused",
    );
    let mut to_us = guest;
    to_us.to.set_ip(HERE.into());
    server.drops(
        &enclosed(&to_us.frame(), FAMILY_V4),
        Some(WWW),
        "tunnel_refused",
    );
    let mut garbage = guest.frame();
    garbage[14] = 0x95;
    server.drops(&enclosed(&garbage, FAMILY_V4), None, "tunnel_refused");
    let mut options = guest.frame();
    options[14] = 0x46;
    server.drops(&enclosed(&options, FAMILY_V4), None, "tunnel_refused");
    let empty = enclosed(&guest.frame()[..14], FAMILY_V4);
    server.drops(&empty, None, "tunnel_refused");
    // A tunnel in the tunnel.
    let twice = enclosed(&enclosed(&guest.frame(), FAMILY_V4), FAMILY_V4);
    server.drops(&twice, None, "tunnel_refused");
}

/// Then the port is somebody else's.
#[test]
fn without_tunnels_their_port_is_not_ours() {
    let Some(mut server) = server(FAMILY_V4) else {
        return;
    };
    server.set_settings(|_| {});
    let mut guest = FIRST;
    guest.to.set_ip(FOREIGN_IDENTITY.into());
    for family in [FAMILY_V4, FAMILY_V6] {
        server.passes(&enclosed(&guest.frame(), family), None, "not_ours");
    }
}

#[test]
fn the_sender_of_what_is_too_big_is_told() {
    for (family, overhead) in [(FAMILY_V4, 28), (FAMILY_V6, 48)] {
        for datagram in [DATAGRAM, DATAGRAM_V6] {
            let headers = if datagram.from.is_ipv4() { 28 } else { 48 };
            let of_length = |length| Segment {
                transport: Transport::Udp(length - headers),
                ..datagram
            };
            let Some(mut server) = server(family) else {
                return;
            };
            let fits = server.receive(&of_length(1_500 - overhead).frame());
            assert_eq!(fits.counted, [(Some(WWW), "steered_new", 1)]);
            assert_eq!(fits.frame.len(), 14 + 1_500);

            let big = of_length(1_501 - overhead).frame();
            let before = server.maps().counters(Some(WWW)).unwrap();
            let (action, answer) = server.run(&big);
            let after = server.maps().counters(Some(WWW)).unwrap();
            assert_eq!(after.too_big, before.too_big + 1);
            assert_eq!(action, Action::Tx);
            assert_eq!(answer, too_big(&datagram, &big, 1_500 - overhead));
        }
    }
}

/// The ICMP error about the packet in `frame`.
fn too_big(of: &Segment, frame: &[u8], room: usize) -> Vec<u8> {
    let mtu = (room as u32).to_be_bytes();
    let (ether_type, packet) = match (of.to.ip(), of.from.ip()) {
        (IpAddr::V4(identity), IpAddr::V4(client)) => {
            let mut message = [&[3, 4, 0, 0][..], &mtu, &frame[14..14 + 28]].concat();
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum);
            ([8, 0], ipv4(identity, client, 1, 64, &message))
        }
        (IpAddr::V6(identity), IpAddr::V6(client)) => {
            let mut message = [&[2, 0, 0, 0][..], &mtu, &frame[14..14 + 48]].concat();
            let addresses = [identity.octets(), client.octets()].concat();
            let sum = checksum(&[&addresses[..], &pseudo(58, message.len()), &message].concat());
            message[2..4].copy_from_slice(&sum);
            ([0x86, 0xdd], ipv6(identity, client, 58, 64, &message))
        }
        _ => panic!("{of:?}"),
    };
    [&of.from_mac[..], &of.to_mac, &ether_type, &packet].concat()
}

fn second(first: Segment) -> Segment {
    match first.transport {
        Transport::Tcp(_) => first.second(),
        Transport::Udp(_) => first,
    }
}

/// The source port of a tunnel's datagram, and the packet in it, after a look at the outer headers.
fn opened(frame: &[u8], family: u8) -> (u16, Vec<u8>) {
    let ip_len = if family == FAMILY_V4 { 20 } else { 40 };
    let inside = &frame[14 + ip_len + 8..];
    let port = u16::from_be_bytes([frame[14 + ip_len], frame[15 + ip_len]]);
    let inside_len = match inside[0] >> 4 {
        4 => usize::from(u16::from_be_bytes([inside[2], inside[3]])),
        _ => 40 + usize::from(u16::from_be_bytes([inside[4], inside[5]])),
    };
    let udp_len = (8 + inside_len) as u16;
    let mut udp = [
        port.to_be_bytes(),
        PORT.to_be_bytes(),
        udp_len.to_be_bytes(),
        [0, 0],
    ]
    .concat();
    udp.extend(&inside[..inside_len]);
    let expected = if family == FAMILY_V4 {
        [&[8, 0][..], &ipv4(HERE, THERE, UDP, 64, &udp)].concat()
    } else {
        [&[0x86, 0xdd][..], &ipv6(HERE_V6, THERE_V6, UDP, 64, &udp)].concat()
    };
    assert_eq!(frame[12..12 + expected.len()], expected);
    (port, inside[..inside_len].to_vec())
}

/// The frame's packet in a datagram from the peer.
fn enclosed(frame: &[u8], family: u8) -> Vec<u8> {
    let udp_len = (8 + frame.len() - 14) as u16;
    let mut udp = [[0xc0, 1], PORT.to_be_bytes(), udp_len.to_be_bytes(), [0, 0]].concat();
    udp.extend(&frame[14..]);
    let packet = if family == FAMILY_V4 {
        [&[8, 0][..], &ipv4(THERE, HERE, UDP, 60, &udp)].concat()
    } else {
        [&[0x86, 0xdd][..], &ipv6(THERE_V6, HERE_V6, UDP, 60, &udp)].concat()
    };
    [&OUR_MAC[..], &ROUTER_MAC, &packet].concat()
}

/// An overloaded server with one peer, behind a tunnel of this family.
fn server(family: u8) -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(0);
    server.set_own_load(9_000);
    server.set_peer(0, |peer| {
        peer.mac = NEXT_HOP;
        peer.tunnel = family;
        (peer.tunnel_from, peer.tunnel_to) = if family == FAMILY_V4 {
            (HERE.into(), THERE.into())
        } else {
            (IpAddr::from(HERE_V6).into(), IpAddr::from(THERE_V6).into())
        };
    });
    server.set_settings(|settings| {
        settings.tunnel_v4 = HERE.into();
        settings.tunnel_v6 = IpAddr::from(HERE_V6).into();
    });
    let held = server.maps().identities.get(&IDENTITY.into(), 0).unwrap();
    assert_ne!(held.kind, FOREIGN);
    Some(server)
}
