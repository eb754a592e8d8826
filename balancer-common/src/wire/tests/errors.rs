//! ICMP errors: the flow is that of the packet inside, the other way round.

use super::*;

/// From 192.0.2.1 to 10.0.0.101: host unreachable, about a segment from 10.0.0.101:80 to 10.0.0.9:40000.
#[rustfmt::skip]
const UNREACHABLE: [u8; 70] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x65, 0x02, 0x00, 0x00, 0x00, 0x00, 0xfe, 0x08, 0x00,
    0x45, 0x00, 0x00, 0x38, 0x00, 0x01, 0x00, 0x00, 0x3c, 0x01, 0x00, 0x00,
    0xc0, 0x00, 0x02, 0x01, 0x0a, 0x00, 0x00, 0x65,
    0x03, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    // IPv4: 1,500 bytes of which 28 are here
    0x45, 0x00, 0x05, 0xdc, 0x1c, 0x46, 0x40, 0x00, 0x01, 0x06, 0x0a, 0x02,
    0x0a, 0x00, 0x00, 0x65, 0x0a, 0x00, 0x00, 0x09,
    // TCP: ports, sequence number
    0x00, 0x50, 0x9c, 0x40, 0x8f, 0x3a, 0x11, 0x07,
];

/// From `2001:db8:ff::1` to `2001:db8::101`: packet too big, about a datagram from port 53 of that to `2001:db8:7::9`, port 40000.
#[rustfmt::skip]
const TOO_BIG_V6: [u8; 110] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x65, 0x02, 0x00, 0x00, 0x00, 0x00, 0xfe, 0x86, 0xdd,
    0x60, 0x00, 0x00, 0x00, 0x00, 0x38, 0x3a, 0x3c,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01,
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00,
    0x60, 0x00, 0x00, 0x00, 0x05, 0xdc, 0x11, 0x40,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x09,
    0x00, 0x35, 0x9c, 0x40, 0x05, 0xb4, 0x00, 0x00,
];

/// Where the ICMP header begins, and the packet that it is about.
const ICMP_AT: usize = 34;
const QUOTE: usize = 42;
const ICMP_AT_V6: usize = 54;
const QUOTE_V6: usize = 62;

#[test]
fn the_flow_is_that_of_the_packet_inside() {
    let packet = parse(&UNREACHABLE).unwrap().unwrap();
    assert_eq!((packet.flow, packet.kind), (flow(40_000, 80), Kind::Error));
    // Where it begins and how long it is are the error's own, not of what it quotes.
    assert_eq!((packet.at, packet.length, packet.hops), (14, 56, 60));
    assert_eq!((packet.flags, packet.fragmented), (0, false));
    assert!(!packet.opens());

    let packet = parse(&TOO_BIG_V6).unwrap().unwrap();
    let datagram = parse(&udp::DATAGRAM_V6).unwrap().unwrap();
    assert_eq!((packet.flow, packet.kind), (datagram.flow, Kind::Error));
    assert_eq!((packet.at, packet.length, packet.hops), (14, 96, 60));

    let frame = &UNREACHABLE[..];
    let headers = Headers::parse(&frame).unwrap().unwrap();
    assert_eq!((headers.protocol(), headers.port()), (TCP, Some(80)));
    assert!(!headers.is_datagram());
}

#[test]
fn some_types_are_errors() {
    for kind in 0..=u8::MAX {
        let found = parse(&v4_with(ICMP_AT, &[kind])).unwrap().is_some();
        assert_eq!(found, matches!(kind, 3 | 11 | 12), "ICMP type {kind}");
        let found = parse(&v6_with(ICMP_AT_V6, &[kind])).unwrap().is_some();
        assert_eq!(found, matches!(kind, 1..=4), "ICMPv6 type {kind}");
    }
}

#[test]
fn those_cut_anywhere_are_truncated() {
    for frame in [&UNREACHABLE[..], &TOO_BIG_V6] {
        for len in 0..frame.len() {
            assert_eq!(parse(&frame[..len]), Err(Odd::Truncated), "{len} bytes");
        }
    }
}

#[test]
fn too_little_of_the_packet_inside_is_bad() {
    for length in [20, 27, 28, 55] {
        assert_eq!(
            parse(&v4_with(17, &[length])),
            Err(Odd::BadHeader),
            "{length}"
        );
    }
    for length in [0, 7, 8, 55] {
        assert_eq!(
            parse(&v6_with(19, &[length])),
            Err(Odd::BadHeader),
            "{length}"
        );
    }
    // Of what is no error a header is enough.
    let mut echo = v4_with(17, &[28]);
    echo[ICMP_AT] = 8;
    assert_eq!(parse(&echo), Ok(None));
}

#[test]
fn the_packet_inside_is_read_as_strictly_as_others() {
    for first in [0x46, 0x44, 0x65] {
        assert_eq!(parse(&v4_with(QUOTE, &[first])), Err(Odd::Options));
    }
    assert_eq!(parse(&v6_with(QUOTE_V6, &[0x40])), Err(Odd::BadHeader));
    // To ::ffff:10.0.0.9.
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9];
    assert_eq!(parse(&v6_with(QUOTE_V6 + 24, &mapped)), Err(Odd::BadHeader));
}

#[test]
fn those_about_no_flow_are_passed_by() {
    for (what, at, bytes) in [
        ("an ICMP error", QUOTE + 9, &[1][..]),
        ("a later fragment", QUOTE + 6, &[0x20, 1]),
        ("a packet of another host", QUOTE + 15, &[0x64]),
        ("itself in fragments", IP + 6, &[0x20, 0]),
    ] {
        assert_eq!(parse(&v4_with(at, bytes)), Ok(None), "{what}");
    }
    // The first fragment has the ports.
    let first = parse(&v4_with(QUOTE + 6, &[0x20, 0])).unwrap().unwrap();
    assert_eq!((first.flow, first.fragmented), (flow(40_000, 80), false));
    for (what, at, bytes) in [
        ("an ICMPv6 error", QUOTE_V6 + 6, &[58][..]),
        ("a fragment", QUOTE_V6 + 6, &[44]),
        ("hop-by-hop options", QUOTE_V6 + 6, &[0]),
        ("a packet of another host", QUOTE_V6 + 23, &[0x02]),
    ] {
        assert_eq!(parse(&v6_with(at, bytes)), Ok(None), "{what}");
    }
}

/// ICMP is of IPv4 alone, `ICMPv6` of IPv6.
#[test]
fn the_families_do_not_mix() {
    assert_eq!(parse(&v4_with(IP + 9, &[ICMPV6])), Ok(None));
    assert_eq!(parse(&v6_with(IP + 6, &[ICMP])), Ok(None));
}

fn v4_with(at: usize, bytes: &[u8]) -> [u8; 70] {
    let mut frame = UNREACHABLE;
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn v6_with(at: usize, bytes: &[u8]) -> [u8; 110] {
    let mut frame = TOO_BIG_V6;
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}
