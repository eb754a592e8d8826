//! The parser on mutated frames: it never panics, nor reads past an end, and says what a plain reader of the same rule says.
//!
//! `cargo xtask fuzz` runs it on ten million frames, the tests on fewer; the frames are the same each time.

mod frames;
mod reader;

// The XDP program's tests have the frames, and use more of them.
#[expect(dead_code, reason = "the program's tests use more of it")]
#[path = "../../../balancer/tests/steer/frame.rs"]
mod frame;
#[path = "../../../balancer/tests/steer/kinds.rs"]
mod kinds;

use std::collections::BTreeMap;
use std::time::Instant;

use balancer_common::wire::{
    Headers, Kind, Odd, Packet, destination_mac, hidden_destination, source_mac,
};

use crate::frames::{Fuzzer, samples};
use crate::reader::No;

/// Frames, unless `BALANCER_FUZZ_FRAMES` says how many.
const FRAMES: u64 = 200_000;
const SEED: u64 = 1;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the time it takes is told, no more"
)]
fn the_parser_reads_any_frame_by_the_rule() {
    let count = std::env::var("BALANCER_FUZZ_FRAMES").map_or(FRAMES, |count| {
        count.parse().expect("BALANCER_FUZZ_FRAMES is a number")
    });
    let start = Instant::now();
    let mut fuzzer = Fuzzer::new(SEED);
    let mut verdicts = BTreeMap::<_, u64>::new();
    let mut frame = Vec::new();
    for _ in 0..count {
        fuzzer.make(&mut frame);
        *verdicts.entry(check(&frame)).or_default() += 1;
    }
    println!("{count} frames in {:.1} s", start.elapsed().as_secs_f64());
    for (verdict, count) in &verdicts {
        println!("{count:>10}  {verdict}");
    }
    for verdict in ["error", "fragment", "no flow", "odd", "tcp", "udp"] {
        assert!(verdicts.contains_key(verdict), "no frame is {verdict}");
    }
}

#[test]
fn the_reader_knows_every_sample() {
    let kinds: Vec<_> = samples().iter().map(|frame| check(frame)).collect();
    for (kind, count) in [
        ("error", 14),
        ("fragment", 12),
        ("no flow", 2),
        ("odd", 2),
        ("tcp", 8),
        ("udp", 13),
    ] {
        let found = kinds.iter().filter(|found| **found == kind).count();
        assert_eq!(found, count, "{kind}");
    }
}

/// The verdict on the frame, on which the parser and the reader agree.
#[track_caller]
fn check(frame: &[u8]) -> &'static str {
    let read = reader::read(frame);
    match (Headers::parse(&frame), read) {
        (Ok(Some(headers)), Ok(expected)) => {
            let packet = headers.packet();
            assert_eq!(packet, expected, "{}", hex(frame));
            check_headers(&headers, &packet, frame);
        }
        (Ok(None), Err(No::Flow)) | (Err(_), Err(No::Odd)) => {}
        (parsed, read) => {
            let parsed = parsed.map(|found| found.map(|headers| headers.packet()));
            panic!("parsed {parsed:?}, read {read:?}: {}", hex(frame));
        }
    }
    check_addresses(frame);
    match read {
        Ok(packet) => match packet.kind {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Fragment => "fragment",
            Kind::Error => "error",
        },
        Err(No::Flow) => "no flow",
        Err(No::Odd) => "odd",
    }
}

/// What is asked before a packet is made of the headers.
#[track_caller]
fn check_headers(headers: &Headers<&[u8]>, packet: &Packet, frame: &[u8]) {
    let port = (packet.kind != Kind::Fragment).then_some(packet.flow.port);
    assert_eq!(headers.port(), port, "{}", hex(frame));
    assert_eq!(headers.protocol(), packet.flow.protocol as u8);
    let datagram = packet.kind == Kind::Udp && !packet.fragmented;
    assert_eq!(headers.is_datagram(), datagram, "{}", hex(frame));
    assert_eq!(packet.is_tagged(), packet.at > 14, "{}", hex(frame));
    // What is behind the packet doesn't count; without its last byte it is cut.
    let end = packet.at + packet.length;
    let again =
        |frame: &[u8]| Headers::parse(&frame).map(|found| found.map(|again| again.packet()));
    assert_eq!(again(&frame[..end]), Ok(Some(*packet)), "{}", hex(frame));
    assert_eq!(
        again(&frame[..end - 1]),
        Err(Odd::Truncated),
        "{}",
        hex(frame)
    );
    // Only an untagged frame is read without tags, and as it is with them.
    let untagged = Headers::parse_untagged(&frame);
    let expected = (packet.at == 14).then_some(*packet);
    let found = untagged.map(|found| found.map(|headers| headers.packet()));
    assert_eq!(found, Ok(expected), "{}", hex(frame));
    // It goes to where it is said to go, which for none of these is hidden but ICMP's.
    let destination = (packet.kind != Kind::Error).then_some(packet.flow.identity);
    assert_eq!(hidden_destination(&frame), destination, "{}", hex(frame));
}

#[track_caller]
fn check_addresses(frame: &[u8]) {
    let whole = frame.len() >= 14;
    let source = source_mac(&frame).map(|mac| mac.octets);
    assert_eq!(
        source.as_ref().map(|mac| &mac[..]),
        frame.get(6..12).filter(|_| whole)
    );
    let destination = destination_mac(&frame).map(u64::to_be_bytes);
    let found = destination.as_ref().map(|mac| &mac[2..]);
    assert_eq!(found, frame.get(..6).filter(|_| whole));
}

fn hex(frame: &[u8]) -> String {
    format!("{frame:02x?}")
}
