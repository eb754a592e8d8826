//! Frames as bytes, well-formed and not: of TCP here, of all else in modules of their own. Frames of all sorts are in
//! tests/fuzz.

mod errors;
mod fragments;
mod hidden;
mod udp;

use core::net::IpAddr;

use super::*;

/// A SYN of Linux from 10.0.0.9:40000 to 10.0.0.101:80.
#[rustfmt::skip]
const SYN_FRAME: [u8; 74] = [
    // Ethernet: destination, source, EtherType
    0x02, 0x00, 0x00, 0x00, 0x00, 0x65, 0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x08, 0x00,
    // IPv4: 60 bytes, don't fragment, TTL 64, TCP
    0x45, 0x00, 0x00, 0x3c, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0x0a, 0x02,
    0x0a, 0x00, 0x00, 0x09, 0x0a, 0x00, 0x00, 0x65,
    // TCP: ports, sequence number, 40 bytes of header, SYN
    0x9c, 0x40, 0x00, 0x50, 0x8f, 0x3a, 0x11, 0x07, 0x00, 0x00, 0x00, 0x00,
    0xa0, 0x02, 0xfa, 0xf0, 0x3b, 0xd4, 0x00, 0x00,
    // MSS 1460, SACK permitted, timestamps, window scale 7
    0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0x12, 0x34, 0x56, 0x78, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x03, 0x03, 0x07,
];

/// The FIN of a connection from 10.0.0.9:40001 to 10.0.0.101:443, padded to Ethernet's 60 bytes.
#[rustfmt::skip]
const FIN_FRAME: [u8; 60] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x65, 0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x08, 0x00,
    0x45, 0x00, 0x00, 0x28, 0x1c, 0x47, 0x40, 0x00, 0x40, 0x06, 0x0a, 0x15,
    0x0a, 0x00, 0x00, 0x09, 0x0a, 0x00, 0x00, 0x65,
    // 20 bytes of header, FIN and ACK
    0x9c, 0x41, 0x01, 0xbb, 0x8f, 0x3a, 0x11, 0x08, 0x5b, 0x0c, 0x22, 0x91,
    0x50, 0x11, 0x01, 0xf6, 0xd1, 0x2a, 0x00, 0x00,
    // padding
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

/// A SYN from port 40000 of `2001:db8:7::9` to port 80 of `2001:db8::101`.
#[rustfmt::skip]
const V6_FRAME: [u8; 74] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x65, 0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x86, 0xdd,
    // IPv6: traffic class 0x12, flow label 0x34567, 20 bytes of TCP, hop limit 64
    0x61, 0x23, 0x45, 0x67, 0x00, 0x14, 0x06, 0x40,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x09,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01,
    0x9c, 0x40, 0x00, 0x50, 0x8f, 0x3a, 0x11, 0x07, 0x00, 0x00, 0x00, 0x00,
    0x50, 0x02, 0xfa, 0xf0, 0x5e, 0x21, 0x00, 0x00,
];

/// Where the IPv4 header begins.
const IP: usize = 14;
/// Where the TCP header begins.
const TCP_AT: usize = 34;

fn parse(frame: &[u8]) -> Result<Option<Packet>, Odd> {
    Headers::parse(&frame).map(|found| found.map(|headers| headers.packet()))
}

fn source(frame: &[u8]) -> Option<[u8; 6]> {
    source_mac(&frame).map(|mac| mac.octets)
}

/// The SYN with these bytes in place of its own.
fn syn_with(changes: &[(usize, u8)]) -> [u8; 74] {
    let mut frame = SYN_FRAME;
    for (at, byte) in changes {
        frame[*at] = *byte;
    }
    frame
}

/// The SYN with this as the IPv4 header's total length.
fn syn_of_length(length: u16) -> [u8; 74] {
    let [high, low] = length.to_be_bytes();
    syn_with(&[(IP + 2, high), (IP + 3, low)])
}

fn flow(client_port: u16, port: u16) -> FlowKey {
    FlowKey {
        client: Address::v4(0x0a00_0009),
        identity: Address::v4(0x0a00_0065),
        client_port,
        port,
        protocol: u32::from(TCP),
    }
}

#[test]
fn a_syn() {
    let packet = parse(&SYN_FRAME).unwrap().unwrap();
    assert_eq!((packet.flow, packet.flags), (flow(40_000, 80), SYN));
    assert_eq!((packet.at, packet.length, packet.hops), (IP, 60, 64));
    assert_eq!((packet.kind, packet.fragmented), (Kind::Tcp, false));
    assert_eq!(
        IpAddr::from(packet.flow.client).to_string(),
        "10.0.0.9",
        "in network byte order"
    );
    assert!(packet.opens());
}

#[test]
fn a_fin_in_a_padded_frame() {
    const FIN: u8 = 0x01;
    let packet = parse(&FIN_FRAME).unwrap().unwrap();
    assert_eq!((packet.flow, packet.flags), (flow(40_001, 443), FIN | ACK));
    assert!(!packet.opens());
    assert_eq!(parse(&FIN_FRAME[..54]), Ok(Some(packet)), "without padding");
    assert_eq!(parse(&FIN_FRAME[..53]), Err(Odd::Truncated));
}

#[test]
fn only_a_syn_without_ack_or_rst_opens() {
    // ECN-setup SYNs (RFC 3168 section 6.1.1) and SYNs with data and PSH (RFC 7413) open; SYN+ACK doesn't.
    for (flags, opens) in [
        (0x02, true),
        (0xc2, true),
        (0x0a, true),
        (0x12, false),
        (0x52, false),
        (0x06, false),
        (0x10, false),
        (0x18, false),
        (0x04, false),
        (0x14, false),
        (0x01, false),
        (0x00, false),
    ] {
        let packet = parse(&syn_with(&[(TCP_AT + 13, flags)])).unwrap().unwrap();
        assert_eq!((packet.flags, packet.opens()), (flags, opens));
    }
}

#[test]
fn what_has_no_flow_is_passed_by() {
    for (what, ether_type) in [
        ("ARP", [0x08, 0x06]),
        ("MPLS", [0x88, 0x47]),
        ("802.3 length", [0x00, 0x26]),
    ] {
        let frame = syn_with(&[(12, ether_type[0]), (13, ether_type[1])]);
        assert_eq!(parse(&frame), Ok(None), "{what}");
        // Whatever comes after the Ethernet header, or doesn't.
        assert_eq!(parse(&frame[..14]), Ok(None), "{what}");
    }
    for (what, protocol) in [("IPIP", 4), ("GRE", 47), ("SCTP", 132)] {
        let frame = syn_with(&[(IP + 9, protocol)]);
        assert_eq!(parse(&frame), Ok(None), "{what}");
        assert_eq!(parse(&frame[..TCP_AT]), Ok(None), "{what}");
    }
}

#[test]
fn one_or_two_vlan_tags_change_nothing() {
    const VLAN_TAG: [u8; 4] = [0x81, 0x00, 0xe0, 0x0a];
    const PROVIDER_TAG: [u8; 4] = [0x88, 0xa8, 0x00, 0x14];
    for frame in [&SYN_FRAME[..], &FIN_FRAME, &V6_FRAME] {
        let expected = parse(frame);
        for tags in [
            &[VLAN_TAG][..],
            &[PROVIDER_TAG],
            &[PROVIDER_TAG, VLAN_TAG],
            &[VLAN_TAG, VLAN_TAG],
        ] {
            let found = parse(&tagged(frame, tags)).unwrap().unwrap();
            assert_eq!(found.at, IP + 4 * tags.len());
            assert!(found.is_tagged());
            let found = Packet { at: IP, ..found };
            assert_eq!(Ok(Some(found)), expected, "{tags:x?}");
        }
        let three = tagged(frame, &[PROVIDER_TAG, VLAN_TAG, VLAN_TAG]);
        assert_eq!(parse(&three), Ok(None));
        let arp = tagged(&syn_with(&[(13, 0x06)]), &[VLAN_TAG]);
        assert_eq!(parse(&arp), Ok(None));
    }
    for frame in [&SYN_FRAME[..], &V6_FRAME] {
        let whole = tagged(frame, &[PROVIDER_TAG, VLAN_TAG]);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), Err(Odd::Truncated), "{len} bytes");
        }
    }
}

fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    [macs, &tags.concat(), rest].concat()
}

#[test]
fn a_syn_over_ipv6() {
    let packet = parse(&V6_FRAME).unwrap().unwrap();
    let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(
        packet.flow,
        FlowKey {
            client: address("2001:db8:7::9"),
            identity: address("2001:db8::101"),
            ..flow(40_000, 80)
        }
    );
    assert!(packet.opens());
    let padded = [&V6_FRAME[..], &[0; 6]].concat();
    assert_eq!(parse(&padded), Ok(Some(packet)));
}

#[test]
fn a_syn_over_ipv6_cut_anywhere_is_truncated() {
    for len in 0..V6_FRAME.len() {
        assert_eq!(parse(&V6_FRAME[..len]), Err(Odd::Truncated), "{len} bytes");
    }
}

#[test]
fn extension_headers_are_odd_and_other_protocols_are_passed_by() {
    for next in 0..=u8::MAX {
        let expected = match next {
            // Read for what they are not.
            6 | 17 | 44 | 58 => continue,
            0 | 43 | 51 | 60 | 135 | 139 | 140 => Err(Odd::Options),
            _ => Ok(None),
        };
        assert_eq!(parse(&v6_with(6, &[next])), expected, "next header {next}");
    }
}

#[test]
fn an_ipv6_header_is_of_version_6_and_has_room_for_tcp() {
    for version in (0..16).filter(|version| *version != 6) {
        assert_eq!(parse(&v6_with(0, &[version << 4])), Err(Odd::BadHeader));
    }
    for (length, expected) in [
        (0, Err(Odd::BadHeader)),
        (19, Err(Odd::BadHeader)),
        (20, parse(&V6_FRAME)),
        (21, Err(Odd::Truncated)),
        (u16::MAX, Err(Odd::Truncated)),
    ] {
        assert_eq!(
            parse(&v6_with(4, &length.to_be_bytes())),
            expected,
            "{length}"
        );
    }
    // Of its 20 bytes, the TCP header can't have 24.
    assert_eq!(parse(&v6_with(52, &[0x60])), Err(Odd::BadHeader));
}

/// An IPv4 address in an IPv6 header would pass for a flow over IPv4.
#[test]
fn mapped_addresses_are_bad() {
    let mapped = "::ffff:10.0.0.9".parse::<core::net::Ipv6Addr>().unwrap();
    for at in [8, 24] {
        assert_eq!(parse(&v6_with(at, &mapped.octets())), Err(Odd::BadHeader));
        // But the compatible form (RFC 4291 section 2.5.5.1) is no other than that of any IPv6 address.
        assert!(parse(&v6_with(at, &[0; 12])).unwrap().is_some());
    }
}

/// The SYN over IPv6 with these bytes at `at` of its IP header.
fn v6_with(at: usize, bytes: &[u8]) -> [u8; 74] {
    let mut frame = V6_FRAME;
    frame[IP + at..IP + at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn ip_options_are_odd() {
    for ihl in 6..=15 {
        assert_eq!(
            parse(&syn_with(&[(IP, 0x40 | ihl)])),
            Err(Odd::Options),
            "IHL {ihl}"
        );
    }
}

#[test]
fn an_ip_header_too_short_or_of_another_version_is_bad() {
    for ihl in 0..5 {
        assert_eq!(
            parse(&syn_with(&[(IP, 0x40 | ihl)])),
            Err(Odd::BadHeader),
            "IHL {ihl}"
        );
    }
    for version in (0..16).filter(|version| *version != 4) {
        assert_eq!(
            parse(&syn_with(&[(IP, version << 4 | 5)])),
            Err(Odd::BadHeader),
            "version {version}"
        );
    }
}

#[test]
fn the_total_length_has_room_for_the_headers_and_fits_the_frame() {
    for length in [0, 19, 20, 39] {
        assert_eq!(
            parse(&syn_of_length(length)),
            Err(Odd::BadHeader),
            "{length}"
        );
    }
    assert!(parse(&syn_of_length(60)).unwrap().is_some());
    for length in [61, 1_500, u16::MAX] {
        assert_eq!(
            parse(&syn_of_length(length)),
            Err(Odd::Truncated),
            "{length}"
        );
    }
}

#[test]
fn the_tcp_header_has_its_fixed_part_and_fits_the_packet() {
    for words in 0..5 {
        let frame = syn_with(&[(TCP_AT + 12, words << 4)]);
        assert_eq!(parse(&frame), Err(Odd::BadHeader), "{words} words");
    }
    for words in 5..=10 {
        let frame = syn_with(&[(TCP_AT + 12, words << 4)]);
        assert!(parse(&frame).unwrap().is_some(), "{words} words");
    }
    for words in 11..=15 {
        let frame = syn_with(&[(TCP_AT + 12, words << 4)]);
        assert_eq!(parse(&frame), Err(Odd::BadHeader), "{words} words");
    }
}

#[test]
fn a_syn_cut_anywhere_is_truncated() {
    for len in 0..SYN_FRAME.len() {
        assert_eq!(
            parse(&SYN_FRAME[..len]),
            Err(Odd::Truncated),
            "{len} bytes of it"
        );
    }
}

#[test]
fn the_source_mac_is_the_second_address() {
    assert_eq!(source(&SYN_FRAME), Some([0x02, 0, 0, 0, 0, 0x09]));
    let all_different: Vec<u8> = (0..14).collect();
    assert_eq!(source(&all_different), Some([6, 7, 8, 9, 10, 11]));
    assert_eq!(source(&all_different[..13]), None);
    let frame = &all_different[..];
    assert_eq!(destination_mac(&frame), Some(0x0001_0203_0405));
    assert_eq!(
        destination_mac(&frame),
        Some(Mac::new([0, 1, 2, 3, 4, 5]).number())
    );
}
