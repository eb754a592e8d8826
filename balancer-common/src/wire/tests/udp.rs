//! UDP over IPv4 and IPv6.

use super::*;

/// A datagram of 6 bytes from 10.0.0.9:40000 to 10.0.0.101:53.
#[rustfmt::skip]
pub const DATAGRAM: [u8; 48] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x65, 0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x08, 0x00,
    // IPv4: 34 bytes, id 0x1c48, TTL 63, UDP
    0x45, 0x00, 0x00, 0x22, 0x1c, 0x48, 0x00, 0x00, 0x3f, 0x11, 0x0a, 0x02,
    0x0a, 0x00, 0x00, 0x09, 0x0a, 0x00, 0x00, 0x65,
    // UDP: ports, 14 bytes, checksum
    0x9c, 0x40, 0x00, 0x35, 0x00, 0x0e, 0x3b, 0xd4,
    0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
];

/// The same over IPv6, from `2001:db8:7::9` to `2001:db8::101`.
#[rustfmt::skip]
pub const DATAGRAM_V6: [u8; 68] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x65, 0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x86, 0xdd,
    0x60, 0x00, 0x00, 0x00, 0x00, 0x0e, 0x11, 0x3f,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x09,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01,
    0x9c, 0x40, 0x00, 0x35, 0x00, 0x0e, 0x3b, 0xd4,
    0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
];

#[test]
fn a_datagram() {
    let packet = parse(&DATAGRAM).unwrap().unwrap();
    let expected = FlowKey {
        protocol: u32::from(UDP),
        ..flow(40_000, 53)
    };
    assert_eq!((packet.flow, packet.flags), (expected, 0));
    assert_eq!((packet.kind, packet.fragmented), (Kind::Udp, false));
    assert_eq!((packet.at, packet.length, packet.hops), (14, 34, 63));
    assert!(!packet.opens(), "TCP alone has SYNs");

    let packet = parse(&DATAGRAM_V6).unwrap().unwrap();
    assert_eq!(packet.flow.protocol, u32::from(UDP));
    assert_eq!((packet.flow.client_port, packet.flow.port), (40_000, 53));
    assert_eq!((packet.at, packet.length, packet.hops), (14, 54, 63));
}

#[test]
fn the_port_is_known_before_the_packet() {
    let frame = &DATAGRAM[..];
    let headers = Headers::parse(&frame).unwrap().unwrap();
    assert_eq!((headers.protocol(), headers.port()), (UDP, Some(53)));
    assert!(headers.is_datagram());
    let frame = &SYN_FRAME[..];
    let headers = Headers::parse(&frame).unwrap().unwrap();
    assert_eq!((headers.protocol(), headers.port()), (TCP, Some(80)));
    assert!(!headers.is_datagram());
}

#[test]
fn a_datagram_cut_anywhere_is_truncated() {
    for frame in [&DATAGRAM[..], &DATAGRAM_V6] {
        for len in 0..frame.len() {
            assert_eq!(parse(&frame[..len]), Err(Odd::Truncated), "{len} bytes");
        }
    }
}

#[test]
fn its_length_has_room_for_the_header_and_fits_the_packet() {
    for (whole, at) in [(&DATAGRAM[..], 38), (&DATAGRAM_V6, 58)] {
        for (length, fits) in [
            (0, false),
            (7, false),
            // Less than the IP packet has: what is left over is nobody's.
            (8, true),
            (13, true),
            (14, true),
            (15, false),
            (u16::MAX, false),
        ] {
            let mut frame = whole.to_vec();
            frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
            let expected = if fits {
                parse(whole)
            } else {
                Err(Odd::BadHeader)
            };
            assert_eq!(parse(&frame), expected, "{length} bytes");
        }
    }
}

#[test]
fn an_ip_packet_without_room_for_its_header_is_bad() {
    let mut frame = DATAGRAM;
    frame[17] = 27;
    assert_eq!(parse(&frame), Err(Odd::BadHeader));
    let mut frame = DATAGRAM_V6;
    frame[19] = 7;
    assert_eq!(parse(&frame), Err(Odd::BadHeader));
}
