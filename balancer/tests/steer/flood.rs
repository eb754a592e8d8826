//! A SYN flood costs half-open flows only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aya::maps::{Array, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use balancer::datapath::STEER;
use balancer_common::bench::{HEAD_WORDS, Variation};

use crate::frame::{FIRST, FIRST_V6, Segment};
use crate::server::Server;

const FLOWS: u16 = 1_000;
/// Spoofed SYNs of each family.
const FLOOD: u32 = 500_000;
const PLACES: usize = 65_536;

#[test]
fn a_million_spoofed_syns_evict_no_established_flow() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(1_000);
    server.set_own_load(9_000);
    // The flood is not to fill the peer up.
    server.set_load(0, |report| report.cost = 0);
    let flows: Vec<_> = [FIRST, FIRST_V6]
        .into_iter()
        .flat_map(|first| (0..FLOWS).map(move |number| first.numbered(number)))
        .collect();
    for flow in &flows {
        server.run(&flow.frame());
        server.run(&flow.second().frame());
    }

    for first in [FIRST, FIRST_V6] {
        flood(&server, &first);
    }

    assert_eq!(
        server.sent(0),
        flows.len() as u32 + 2 * FLOOD,
        "all steered"
    );
    let view = server.maps().flows.view().unwrap();
    assert_eq!(view.flows().count(), flows.len());
    let taken = view.places().count();
    assert!(
        (PLACES * 99 / 100..=PLACES).contains(&taken),
        "the flood fills FLOWS: {taken} places"
    );
    for flow in &flows {
        server.steers(&flow.second(), 0, "steered");
    }
}

/// Gives the server SYNs like this one, each from an address and port of its own. The benchmark's program makes them in the
/// kernel: from here, each would be a system call.
fn flood(server: &Server, syn: &Segment) {
    let mut outer = Ebpf::load(include_bytes_aligned!(concat!(
        env!("OUT_DIR"),
        "/balancer-bench"
    )))
    .unwrap();
    let mut programs = ProgramArray::try_from(outer.take_map("PROGRAMS").unwrap()).unwrap();
    let steer = server.datapath.program(STEER).unwrap().fd().unwrap();
    programs.set(0, steer, 0).unwrap();

    let spoofed = Segment {
        from: SocketAddr::new(spoofed_address(syn.from.ip()), 1),
        ..*syn
    };
    let mut frame = spoofed.frame();
    frame.resize(frame.len().max(8 * HEAD_WORDS), 0);
    let mut variation = Variation {
        size: frame.len() as u32,
        client_at: if syn.from.is_ipv4() { 26 } else { 34 },
        port_at: if syn.from.is_ipv4() { 34 } else { 54 },
        client: Ipv4Addr::new(32, 0, 0, 0).to_bits(),
        step: 1,
        mask: u32::MAX,
        ..Variation::default()
    };
    for (word, bytes) in variation.head.iter_mut().zip(frame.chunks(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap());
    }
    let mut variations = Array::try_from(outer.take_map("VARIATION").unwrap()).unwrap();
    variations.set(0, variation, 0).unwrap();

    let vary: &mut Xdp = outer.program_mut("vary").unwrap().try_into().unwrap();
    vary.load().unwrap();
    let options = TestRunOptions {
        data_in: Some(&frame),
        repeat: FLOOD,
        ..TestRunOptions::new()
    };
    vary.test_run(options).unwrap();
}

/// Of which the last four bytes are to vary.
fn spoofed_address(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::new(32, 0, 0, 0).into(),
        IpAddr::V6(_) => "2001:db8:bad::".parse().unwrap(),
    }
}
