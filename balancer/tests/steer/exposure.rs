//! Identities that were taken over: only the services answer there, and unknown flows wait while peers are asked.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use balancer::exchange::clock;
use balancer_common::types::{ASSUMED, Address, Identity};

use crate::frame::{
    DATAGRAM, FIRST, FIRST_V6, IDENTITY, IDENTITY_V6, SECOND, Segment, TAG, ipv4, ipv6,
};
use crate::server::{Server, WWW};

#[test]
fn an_assumed_identity_shows_nothing_but_services() {
    let Some(mut server) = server(0) else { return };
    for first in [FIRST, FIRST_V6] {
        server.steers(&first, 0, "steered_new");
        for tags in [&[], TAG] {
            let to_ssh = Segment {
                to: SocketAddr::new(first.to.ip(), 22),
                tags,
                ..first
            };
            server.drops(&to_ssh.frame(), None, "not_exposed");
            server.drops(&to_ssh.second().frame(), None, "not_exposed");
        }
    }
    let dns = Segment {
        to: SocketAddr::new(IDENTITY.into(), 53),
        ..DATAGRAM
    };
    server.drops(&dns.frame(), None, "not_exposed");
    // Nor by a way round: behind more tags than are read, IP options, another protocol.
    let overtagged = Segment {
        to: SocketAddr::new(IDENTITY.into(), 22),
        tags: &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0],
        ..FIRST
    };
    server.drops(&overtagged.frame(), None, "not_exposed");
    let mut options = FIRST.frame();
    options[14] = 0x46;
    server.drops(&options, None, "not_exposed");
    let mut sctp = FIRST.frame();
    sctp[14 + 9] = 132;
    server.drops(&sctp, None, "not_exposed");

    // Echo is answered, and the host's own addresses are as open as ever.
    let IpAddr::V4(client) = FIRST.from.ip() else {
        panic!("{FIRST:?}")
    };
    let echo = ipv4(client, IDENTITY, 1, 64, &[8, 0, 0, 0, 0, 1, 0, 1]);
    server.passes(&framed([8, 0], &echo), None, "not_ours");
    let IpAddr::V6(client) = FIRST_V6.from.ip() else {
        panic!("{FIRST_V6:?}")
    };
    let solicitation = ipv6(client, IDENTITY_V6, 58, 255, &[135; 24]);
    server.passes(&framed([0x86, 0xdd], &solicitation), None, "not_ours");
    let own = Segment {
        to: "10.0.0.1:22".parse().unwrap(),
        ..FIRST
    };
    server.passes(&own.frame(), None, "not_ours");
}

#[test]
fn in_the_grace_unknown_flows_wait() {
    let now = clock::monotonic().0;
    let Some(mut server) = server(now + 3_600_000_000_000) else {
        return;
    };
    // New ones are served, those that are known go on.
    server.steers(&FIRST, 0, "steered_new");
    server.steers(&SECOND, 0, "steered");
    server.drops(&SECOND.numbered(1).frame(), Some(WWW), "grace");
    server.drops(&FIRST_V6.second().frame(), Some(WWW), "grace");

    let Some(mut server) = self::server(now.saturating_sub(1)) else {
        return;
    };
    server.passes(&SECOND.frame(), Some(WWW), "local");
}

/// Who had the identity meanwhile may have given a client's port to another connection.
#[test]
fn after_an_absence_only_what_was_seen_since_is_believed() {
    let until = clock::monotonic() + Duration::from_hours(1);
    let Some(mut server) = server(until.0) else {
        return;
    };
    let (first, second) = (FIRST.numbered(1), SECOND.numbered(1));
    for (first, second) in [(&FIRST, &SECOND), (&first, &second)] {
        server.steers(first, 0, "steered_new");
        server.steers(second, 0, "steered");
    }
    thread::sleep(Duration::from_millis(50));
    let back = clock::monotonic().0;
    let grace = |server: &mut Server, grace_until_ns| {
        server.set_settings(|settings| {
            settings.assumed = 2;
            settings.grace_until_ns = grace_until_ns;
            settings.got_ns = back - 20_000_000;
        });
    };
    grace(&mut server, until.0);
    server.drops(&SECOND.frame(), Some(WWW), "grace");
    server.steers(&FIRST, 0, "steered_new");
    server.steers(&SECOND, 0, "steered");
    server.drops(&second.frame(), Some(WWW), "grace");
    // It isn't forgotten: when nobody knows better, it goes on.
    grace(&mut server, 0);
    server.steers(&second, 0, "steered");
}

fn framed(ether_type: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&FIRST.to_mac[..], &FIRST.from_mac, &ether_type, packet].concat()
}

/// An overloaded server with one peer that has assumed both identities, in their grace until then.
pub fn server(grace_until_ns: u64) -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(0);
    server.set_own_load(9_000);
    server.set_settings(|settings| {
        settings.assumed = 2;
        settings.grace_until_ns = grace_until_ns;
    });
    let identity = Identity {
        kind: ASSUMED,
        owner: 1,
        grace_until_ns,
    };
    for address in [IpAddr::from(IDENTITY), IDENTITY_V6.into()] {
        let address = Address::from(address);
        server
            .maps()
            .identities
            .insert(address, identity, 0)
            .unwrap();
    }
    Some(server)
}
