//! The parser in the kernel reads what the parser on the host reads: both on the same mutated frames.

use std::collections::BTreeMap;

use balancer_common::types::Counters;
use balancer_common::wire::{Headers, Kind, Packet};

use crate::frame::OUR_MAC;
use crate::frames::Fuzzer;
use crate::outcome::Action;
use crate::server::{Server, TLS, WWW, mac_of};

const FRAMES: u32 = 30_000;
const SEED: u64 = 2;
/// What a test run takes at least, and at most of these.
const SIZES: std::ops::RangeInclusive<usize> = 14..=9_000;

#[test]
fn the_program_reads_what_the_host_reads() {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    server.set_own_load(9_000);
    let mut fuzzer = Fuzzer::new(SEED);
    let mut frame = Vec::new();
    let mut seen = BTreeMap::<_, u32>::new();
    let mut before = Counts::read(&mut server);
    for _ in 0..FRAMES {
        fuzzer.make(&mut frame);
        if !SIZES.contains(&frame.len()) {
            continue;
        }
        let (action, out) = server.run(&frame);
        let after = Counts::read(&mut server);
        let (service, counter) = after.since(&before);
        before = after;
        let context = || format!("{action:?} by {counter} of {service:?}: {frame:02x?}");
        let read = expected(&frame);
        assert_eq!(service, read.service, "{}", context());
        assert!(read.counters.contains(&counter), "{}", context());
        match action {
            Action::Pass => assert_eq!(out, frame, "{}", context()),
            Action::Tx => {
                let packet = read.packet.unwrap_or_else(|| panic!("{}", context()));
                assert_eq!(out, sent_on(&frame, &packet), "{}", context());
            }
            Action::Drop => {
                let hops = read.packet.map(|packet| packet.hops);
                assert!(counter == "hop_limit" && hops <= Some(1), "{}", context());
            }
            Action::Redirect => panic!("{}", context()),
        }
        *seen.entry(counter).or_default() += 1;
    }
    println!("{seen:?}");
    for counter in [
        "hop_limit",
        "local",
        "not_ours",
        "odd",
        "steered",
        "steered_error",
        "steered_fragment",
        "steered_new",
        "steered_repeated",
    ] {
        assert!(seen.contains_key(counter), "no frame is {counter}");
    }
}

/// What the host's parser says that the program may do.
struct Read {
    service: Option<u32>,
    counters: &'static [&'static str],
    packet: Option<Packet>,
}

fn expected(frame: &[u8]) -> Read {
    let no = |counters| Read {
        service: None,
        counters,
        packet: None,
    };
    let headers = match Headers::parse(&frame) {
        Ok(Some(headers)) => headers,
        Ok(None) => return no(&["not_ours"]),
        Err(_) => return no(&["odd"]),
    };
    let packet = headers.packet();
    let service = match headers.port() {
        Some(80) => Some(WWW),
        Some(443) => Some(TLS),
        Some(_) => return no(&["not_ours"]),
        None => None,
    };
    let counters: &[_] = match packet.kind {
        _ if frame[..6] != OUR_MAC => &["not_ours"],
        Kind::Fragment => &["local", "steered_fragment", "hop_limit"],
        Kind::Error => &["local", "steered_error", "hop_limit"],
        Kind::Tcp | Kind::Udp if packet.opens() || packet.kind == Kind::Udp => &[
            "not_ours",
            "guest",
            "kept_for_peer",
            "kept_below_level",
            "kept_no_candidate",
            "not_steered_twice",
            "local",
            "steered",
            "steered_new",
            "steered_repeated",
            "hop_limit",
        ],
        Kind::Tcp | Kind::Udp => &["local", "steered", "not_steered_twice", "hop_limit"],
    };
    Read {
        service,
        counters,
        packet: Some(packet),
    }
}

/// The frame with the peer's addresses and one hop less.
fn sent_on(frame: &[u8], packet: &Packet) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&mac_of(0));
    frame[6..12].copy_from_slice(&OUR_MAC);
    let ip = &mut frame[packet.at..];
    if ip[0] >> 4 == 6 {
        ip[7] -= 1;
    } else {
        ip[8] -= 1;
        // RFC 1624, whether the checksum was right before or not.
        let sum = u32::from(u16::from_be_bytes([ip[10], ip[11]])) + 0x0100;
        let sum = (sum + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// The counters of what packets here can be of: no service, WWW, TLS.
struct Counts([(Option<u32>, Counters); 3]);

impl Counts {
    fn read(server: &mut Server) -> Self {
        let maps = server.maps();
        Self([None, Some(WWW), Some(TLS)].map(|of| (of, maps.counters(of).unwrap())))
    }

    /// The one counter that moved, and of which service it is.
    #[track_caller]
    fn since(&self, before: &Self) -> (Option<u32>, &'static str) {
        let mut moved = Vec::new();
        for ((service, now), (_, before)) in self.0.iter().zip(&before.0) {
            for ((name, now), (_, before)) in now.named().zip(before.named()) {
                moved.extend((before..now).map(|_| (*service, name)));
            }
        }
        let [moved] = moved[..] else {
            panic!("counted: {moved:?}");
        };
        moved
    }
}
