//! A SYN flood costs half-open flows only.

use std::net::{Ipv4Addr, SocketAddr};

use balancer::exchange::clock;

use crate::frame::{CLIENT, FIRST, SECOND, Segment};
use crate::outcome::Action;
use crate::server::Server;

const FLOWS: u16 = 1_000;
const FLOOD: u32 = 200_000;
const HALF_OPEN_SLOTS: usize = 65_536;

#[test]
fn a_syn_flood_evicts_no_established_flow() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(1_000);
    server.set_own_load(9_000);
    // The flood is not to fill the peer up.
    server.set_load(0, |report| report.cost = 0);
    let flows = (0..FLOWS).map(|number| SocketAddr::new(CLIENT.ip(), 20_000 + number));
    for from in flows.clone() {
        server.run(&Segment { from, ..FIRST }.frame());
        server.run(&Segment { from, ..SECOND }.frame());
    }

    for number in 0..FLOOD {
        let spoofed = Ipv4Addr::from_bits(0x2000_0000 | number.wrapping_mul(2_654_435_761) >> 8);
        let from = SocketAddr::new(spoofed.into(), number as u16);
        let (action, _) = server.run(&Segment { from, ..FIRST }.frame());
        assert_eq!(action, Action::Tx);
    }

    assert_eq!(server.sent(0), u32::from(FLOWS) + FLOOD);
    assert_eq!(server.maps().flows.keys().count(), usize::from(FLOWS));
    let half_open = server.maps().half_open.count(clock::monotonic().0).unwrap();
    assert!(
        (HALF_OPEN_SLOTS * 9 / 10..=HALF_OPEN_SLOTS).contains(&half_open),
        "the flood fills HALF_OPEN: {half_open} entries"
    );
    for from in flows {
        server.steers(&Segment { from, ..SECOND }, 0, "steered");
    }
}
