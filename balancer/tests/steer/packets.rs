//! What is no packet of a service, and what is none at all.

use std::net::SocketAddrV4;

use crate::frame::{ACK, FIRST, IDENTITY, RST, SECOND, SYN, Segment};
use crate::server::{FOREIGN_IDENTITY, PEER_ADDRESS, Server, WWW};

/// Offsets in a frame of [`Segment::frame`]'s.
const ETHER_TYPE: usize = 12;
const IP: usize = 14;
const TCP: usize = 34;

#[test]
fn what_is_not_tcp_over_ipv4_passes() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    for (what, at, bytes) in [
        ("ARP", ETHER_TYPE, &[0x08, 0x06][..]),
        ("IPv6", ETHER_TYPE, &[0x86, 0xdd]),
        ("a VLAN tag", ETHER_TYPE, &[0x81, 0x00]),
        ("UDP", IP + 9, &[17]),
        (
            "UDP with IP options",
            IP,
            &[0x46, 0, 0, 40, 0, 0, 0, 0, 64, 17],
        ),
        ("a first fragment", IP + 6, &[0x20, 0]),
        ("a later fragment", IP + 6, &[0, 5]),
    ] {
        println!("{what}");
        server.passes(&patched(at, bytes), None, "not_ours");
    }
    server.passes(&FIRST.frame()[..ETHER_TYPE + 2], None, "odd");
}

#[test]
fn other_ports_and_addresses_pass() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    let to = |address, port| Segment {
        to: SocketAddrV4::new(address, port),
        ..FIRST
    };
    server.passes(&to(IDENTITY, 81).frame(), None, "not_ours");
    server.passes(&to(IDENTITY, 0).frame(), None, "not_ours");
    server.passes(&to(IDENTITY, u16::MAX).frame(), None, "not_ours");
    let nobodys = "10.0.0.250".parse().unwrap();
    for address in [nobodys, PEER_ADDRESS] {
        server.passes(&to(address, 80).frame(), Some(WWW), "not_ours");
    }
    server.admits(&to(FOREIGN_IDENTITY, 80), "guest");
}

#[test]
fn a_packet_in_the_midst_of_an_unknown_flow_is_local() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    for flags in [ACK, RST, SYN | ACK, SYN | RST, 0, 0xff] {
        let segment = Segment { flags, ..FIRST };
        server.passes(&segment.frame(), Some(WWW), "local");
        assert_eq!(server.half_open(&segment), None);
    }
}

#[test]
fn malformed_packets_pass_and_are_counted() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    for (what, frame) in [
        ("IP version 6", patched(IP, &[0x65])),
        ("an IP header of 16 bytes", patched(IP, &[0x44])),
        ("IP options", patched(IP, &[0x46])),
        (
            "an IP packet without room for TCP",
            patched(IP + 2, &[0, 39]),
        ),
        (
            "an IP packet longer than its frame",
            patched(IP + 2, &[0, 47]),
        ),
        ("a TCP header of 16 bytes", patched(TCP + 12, &[4 << 4])),
        ("no IP header", FIRST.frame()[..IP].to_vec()),
        ("half an IP header", FIRST.frame()[..IP + 10].to_vec()),
        ("no TCP header", FIRST.frame()[..TCP].to_vec()),
        ("all but a byte of TCP", FIRST.frame()[..TCP + 19].to_vec()),
    ] {
        println!("{what}");
        server.passes(&frame, None, "odd");
    }
}

/// A frame for a group reaches all servers: steered, it would be served by several, and group addresses are no senders.
/// TCP ignores it (RFC 1122 section 4.2.3.10).
#[test]
fn tcp_in_a_group_frame_is_never_steered() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    server.steers(&FIRST, 0, "steered_new");
    server.steers(&SECOND, 0, "steered");
    for to_mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        for segment in [FIRST, SECOND] {
            let grouped = Segment { to_mac, ..segment };
            server.passes(&grouped.frame(), None, "odd");
        }
    }
    let mut arp = patched(ETHER_TYPE, &[0x08, 0x06]);
    arp[..6].fill(0xff);
    server.passes(&arp, None, "not_ours");
}

/// Every flow that may be steered is.
fn overloaded(server: &mut Server) {
    server.set_own_load(9_000);
    server.add_peer(0);
}

/// A first packet with `bytes` at offset `at` of its frame.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = FIRST.frame();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}
