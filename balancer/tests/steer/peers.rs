//! What comes from peers is never steered: it would go round.

use crate::frame::{FIRST, SECOND, Segment};
use crate::server::{Server, WWW, mac_of};

#[test]
fn a_peers_frame_opens_no_steered_flow() {
    let Some(mut server) = overloaded() else {
        return;
    };
    for slot in 0..2 {
        let segment = by_peer(FIRST, slot);
        server.admits(&segment, "not_steered_twice");
        assert_eq!(server.half_open(&segment), None);
        server.passes(&by_peer(SECOND, slot).frame(), Some(WWW), "local");
    }
}

#[test]
fn a_peers_frame_of_a_steered_flow_stays() {
    let Some(mut server) = overloaded() else {
        return;
    };
    server.steers(&FIRST, 0, "steered_new");
    server.admits(&by_peer(FIRST, 1), "not_steered_twice");
    server.passes(&by_peer(SECOND, 1).frame(), Some(WWW), "not_steered_twice");
    assert_eq!(server.flow(&SECOND), None);
    server.steers(&SECOND, 0, "steered");
    server.passes(&by_peer(SECOND, 1).frame(), Some(WWW), "not_steered_twice");
    server.passes(&by_peer(FIRST, 1).frame(), Some(WWW), "not_steered_twice");
    // The client's own frames go on as before.
    server.steers(&SECOND, 0, "steered");
}

#[test]
fn a_server_that_is_not_ready_does_not_steer_twice_either() {
    let Some(mut server) = overloaded() else {
        return;
    };
    server.set_service(|service| service.ready = 0);
    server.admits(&by_peer(FIRST, 0), "not_steered_twice");
}

fn overloaded() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(1_000);
    server.add_peer(2_000);
    server.set_own_load(9_000);
    Some(server)
}

fn by_peer(segment: Segment, slot: u32) -> Segment {
    Segment {
        from_mac: mac_of(slot),
        ..segment
    }
}
