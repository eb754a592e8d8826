//! What is no packet of a service, and what is none at all.

use std::net::{IpAddr, SocketAddr};

use crate::frame::{ACK, FIRST, FIRST_V6, IDENTITY, RST, SYN, Segment, TAG, TWO_TAGS};
use crate::server::{FOREIGN_IDENTITY, FOREIGN_IDENTITY_V6, PEER_ADDRESS, Server, WWW, mac_of};

/// Offsets in a frame of [`Segment::frame`]'s.
const ETHER_TYPE: usize = 12;
const IP: usize = 14;
const TCP: usize = 34;

#[test]
fn what_has_no_flow_passes() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    for (what, at, bytes) in [
        ("ARP", ETHER_TYPE, &[0x08, 0x06][..]),
        ("MPLS", ETHER_TYPE, &[0x88, 0x47]),
        ("SCTP", IP + 9, &[132]),
        (
            "SCTP with IP options",
            IP,
            &[0x46, 0, 0, 40, 0, 0, 0, 0, 64, 132],
        ),
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
        to: SocketAddr::new(IpAddr::V4(address), port),
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
        let segment = FIRST.with_flags(flags);
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

#[test]
fn of_ipv6_extension_headers_are_odd() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    for tags in [&[], TAG, TWO_TAGS] {
        let frame = Segment { tags, ..FIRST_V6 }.frame();
        let ip = IP + tags.len();
        for (counter, at, bytes) in [
            ("not_ours", 6, &[132][..]), // SCTP
            ("not_ours", 6, &[50]),      // ESP
            ("odd", 6, &[0]),            // hop-by-hop options
            ("odd", 6, &[43]),           // routing
            ("odd", 6, &[60]),           // destination options
            ("odd", 0, &[0x40]),         // IP version 4
            ("odd", 4, &[0, 19]),        // no room for TCP
            ("odd", 4, &[0, 21]),        // longer than the frame
            // From ::ffff:198.51.100.7.
            (
                "odd",
                8,
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7],
            ),
        ] {
            println!("{tags:?} {at}: {bytes:?}");
            let mut frame = frame.clone();
            frame[ip + at..ip + at + bytes.len()].copy_from_slice(bytes);
            server.passes(&frame, None, counter);
        }
        for len in [ip, ip + 20, ip + 40, ip + 59] {
            server.passes(&frame[..len], None, "odd");
        }
    }
}

/// What a switch floods for others or for a group is not steered, and no load. TCP ignores what is sent to a group
/// (RFC 1122 section 4.2.3.10).
#[test]
fn frames_for_others_are_never_steered() {
    let Some(mut server) = Server::new() else {
        return;
    };
    overloaded(&mut server);
    for first in [FIRST, FIRST_V6] {
        server.steers(&first, 0, "steered_new");
        server.steers(&first.second(), 0, "steered");
        let mut guest = first.numbered(1);
        guest.to.set_ip(match first.to {
            SocketAddr::V4(_) => FOREIGN_IDENTITY.into(),
            SocketAddr::V6(_) => FOREIGN_IDENTITY_V6.into(),
        });
        server.admits(&guest, "guest");
        for to_mac in [
            [2, 0, 0, 0, 0, 2],
            mac_of(0),
            [0xff; 6],
            [1, 0, 0x5e, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
        ] {
            for segment in [first, first.second(), first.numbered(2), guest] {
                let flooded = Segment { to_mac, ..segment };
                server.passes(&flooded.frame(), Some(WWW), "not_ours");
            }
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
