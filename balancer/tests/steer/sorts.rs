//! Every sort of packet that is balanced goes the same way: over IPv4 and IPv6, with and without VLAN tags.

use balancer_common::types::{FAMILY_V4, FAMILY_V6};

use crate::frame::{FIRST, FIRST_V6, SORTS};
use crate::server::{
    FOREIGN_IDENTITY, FOREIGN_IDENTITY_V6, PEER_ADDRESS, PEER_ADDRESS_V6, Server, WWW, mac_of,
};

#[test]
fn below_the_level_all_are_kept() {
    for first in SORTS {
        let Some(mut server) = Server::new() else {
            return;
        };
        server.add_peer(0);
        server.admits(&first, "kept_below_level");
        server.passes(&first.second().frame(), Some(WWW), "local");
    }
}

#[test]
fn above_it_all_are_steered_to_their_end() {
    for first in SORTS {
        let Some(mut server) = Server::new() else {
            return;
        };
        server.add_peer(0);
        server.set_own_load(9_000);
        server.steers(&first, 0, "steered_new");
        server.steers(&first, 0, "steered_repeated");
        server.steers(&first.second(), 0, "steered");
        server.steers(&first.second(), 0, "steered");
        assert_eq!(server.flow(&first).unwrap().peer, 0);
        let mut twice = first.numbered(1);
        twice.from_mac = mac_of(0);
        server.admits(&twice, "not_steered_twice");
    }
}

#[test]
fn all_are_guests_where_a_peer_holds_the_identity() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    for mut first in SORTS {
        let (foreign, peers) = if first.to.is_ipv4() {
            (FOREIGN_IDENTITY.into(), PEER_ADDRESS.into())
        } else {
            (FOREIGN_IDENTITY_V6.into(), PEER_ADDRESS_V6.into())
        };
        let mut by_peer = first;
        by_peer.from.set_ip(peers);
        server.admits(&by_peer, "kept_for_peer");
        first.to.set_ip(foreign);
        server.admits(&first, "guest");
    }
}

/// It could take the packets, but not answer the client.
#[test]
fn a_peer_gets_no_flow_of_a_family_that_it_lacks() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    for (families, with, without) in [(FAMILY_V4, FIRST, FIRST_V6), (FAMILY_V6, FIRST_V6, FIRST)] {
        server.set_peer(0, |peer| peer.families = families);
        server.steers(&with.numbered(families.into()), 0, "steered_new");
        server.admits(&without.numbered(families.into()), "kept_no_candidate");
    }
}
