//! What is no packet of a service.

use std::net::{IpAddr, SocketAddr};

use crate::frame::{ACK, FIRST, FIRST_V6, IDENTITY, RST, SYN, Segment};
use crate::server::{FOREIGN_IDENTITY, FOREIGN_IDENTITY_V6, PEER_ADDRESS, Server, WWW, mac_of};

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
    let mut arp = FIRST.frame();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    arp[..6].fill(0xff);
    server.passes(&arp, None, "not_ours");
}

/// Every flow that may be steered is.
fn overloaded(server: &mut Server) {
    server.set_own_load(9_000);
    server.add_peer(0);
}
