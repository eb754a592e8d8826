//! Fragments: the first has the ports, those after it the id alone.

use super::udp::{DATAGRAM, DATAGRAM_V6};
use super::*;

#[test]
fn of_ipv4_they_are_known_by_their_id() {
    let id = 0x1c46;
    for (what, offset, later) in [
        ("first", [0x20, 0x00], false),
        ("first, with don't fragment", [0x60, 0x00], false),
        ("later", [0x20, 0xb9], true),
        ("last", [0x00, 0xb9], true),
        ("farthest", [0x1f, 0xff], true),
    ] {
        let frame = syn_with(&[(IP + 6, offset[0]), (IP + 7, offset[1])]);
        let packet = parse(&frame).unwrap().unwrap();
        let of_all = FlowKey {
            protocol: u32::from(TCP) | FRAGMENTS,
            ..flow(0, id)
        };
        if later {
            assert_eq!(packet.kind, Kind::Fragment, "{what}");
            assert_eq!(packet.flow, of_all, "{what}");
        } else {
            assert_eq!(packet.flow, flow(40_000, 80), "{what}");
            assert_eq!(fragments(&packet.flow, packet.id), of_all, "{what}");
        }
        assert_eq!(packet.fragmented, !later, "{what}");
    }
    // The reserved bit and don't fragment are no offset.
    for flags in [0x00, 0x40, 0x80, 0xc0] {
        let frame = syn_with(&[(IP + 6, flags)]);
        assert!(parse(&frame).unwrap().is_some(), "flags {flags:#x}");
    }
}

/// RFC 8200 section 4.5.
#[test]
fn of_ipv6_they_are_known_by_their_id() {
    let whole = parse(&DATAGRAM_V6).unwrap().unwrap();
    for (what, offset, more, later) in [
        ("first", 0, 1, false),
        ("later", 1, 1, true),
        ("last", 1, 0, true),
        ("farthest", 0x1fff, 0, true),
    ] {
        let packet = parse(&v6_fragment(UDP, offset, more)).unwrap().unwrap();
        let of_all = FlowKey {
            client_port: 0x1234,
            port: 0x5678,
            protocol: u32::from(UDP) | FRAGMENTS,
            ..whole.flow
        };
        if later {
            assert_eq!(
                (packet.flow, packet.kind),
                (of_all, Kind::Fragment),
                "{what}"
            );
        } else {
            assert_eq!(
                (packet.flow, packet.kind),
                (whole.flow, Kind::Udp),
                "{what}"
            );
            assert_eq!(fragments(&packet.flow, packet.id), of_all, "{what}");
        }
        assert_eq!(packet.fragmented, !later, "{what}");
        assert_eq!((packet.at, packet.length), (14, 62), "{what}");
    }
}

/// RFC 6946.
#[test]
fn one_that_is_the_whole_packet_is_none() {
    let frame = v6_fragment(UDP, 0, 0);
    let packet = parse(&frame).unwrap().unwrap();
    assert_eq!(packet.flow, parse(&DATAGRAM_V6).unwrap().unwrap().flow);
    assert_eq!((packet.kind, packet.fragmented), (Kind::Udp, false));
    let frame = &frame[..];
    assert!(Headers::parse(&frame).unwrap().unwrap().is_datagram());
}

#[test]
fn a_first_one_is_no_datagram_and_a_later_one_has_no_port() {
    for (first, later) in [
        (v4_fragment(0x2000).to_vec(), v4_fragment(0x2001).to_vec()),
        (v6_fragment(UDP, 0, 1), v6_fragment(UDP, 1, 1)),
    ] {
        let (first, later) = (&first[..], &later[..]);
        let headers = Headers::parse(&first).unwrap().unwrap();
        assert_eq!((headers.port(), headers.is_datagram()), (Some(53), false));
        let headers = Headers::parse(&later).unwrap().unwrap();
        assert_eq!((headers.port(), headers.is_datagram()), (None, false));
        assert_eq!(headers.protocol(), UDP);
    }
}

/// What the first one says of lengths is of the whole packet; but its header is all there (RFC 1858).
#[test]
fn a_first_one_has_the_whole_header() {
    let mut long = v4_fragment(0x2000);
    long[38..40].copy_from_slice(&4_008_u16.to_be_bytes());
    assert!(parse(&long).unwrap().is_some());
    let options = syn_with(&[(IP + 3, 40), (IP + 6, 0x20)]);
    assert!(
        parse(&options).unwrap().is_some(),
        "TCP options are to come"
    );
    let tiny = syn_with(&[(IP + 3, 39), (IP + 6, 0x20)]);
    assert_eq!(parse(&tiny), Err(Odd::BadHeader));
    let mut tiny = v4_fragment(0x2000);
    tiny[17] = 27;
    assert_eq!(parse(&tiny), Err(Odd::BadHeader));
}

#[test]
fn a_later_one_may_be_of_any_length() {
    let mut empty = v4_fragment(0x0001);
    empty[17] = 20;
    assert_eq!(parse(&empty).unwrap().unwrap().kind, Kind::Fragment);
    let mut empty = v6_fragment(UDP, 1, 0);
    empty[19] = 8;
    assert_eq!(parse(&empty).unwrap().unwrap().kind, Kind::Fragment);
    empty[19] = 7;
    assert_eq!(parse(&empty), Err(Odd::BadHeader), "its own header is cut");
}

#[test]
fn those_of_other_protocols_are_passed_by() {
    for (next, expected) in [
        (ICMPV6, Ok(None)),
        (132, Ok(None)),
        (FRAGMENT, Err(Odd::Options)),
        (0, Err(Odd::Options)),
        (60, Err(Odd::Options)),
    ] {
        assert_eq!(parse(&v6_fragment(next, 0, 1)), expected, "{next}");
        assert_eq!(parse(&v6_fragment(next, 1, 0)), expected, "{next}");
    }
    let mut icmp = v4_fragment(0x2000);
    icmp[23] = ICMP;
    assert_eq!(parse(&icmp), Ok(None));
}

/// The datagram with this field of flags and offset.
fn v4_fragment(field: u16) -> [u8; 48] {
    let mut frame = DATAGRAM;
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    frame
}

/// The datagram over IPv6 behind a fragment header: next header, offset in units of 8 bytes, M flag.
fn v6_fragment(next: u8, offset: u16, more: u16) -> Vec<u8> {
    let [high, low] = (offset << 3 | more).to_be_bytes();
    let header = [next, 0, high, low, 0x12, 0x34, 0x56, 0x78];
    let mut frame = [&DATAGRAM_V6[..54], &header, &DATAGRAM_V6[54..]].concat();
    (frame[19], frame[20]) = (14 + 8, FRAGMENT);
    frame
}
