//! Frames as bytes, well-formed and not; then frames of all sorts.

use core::net::IpAddr;

use proptest::prelude::*;

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

/// Where the IPv4 header begins.
const IP: usize = 14;
/// Where the TCP header begins.
const TCP_AT: usize = 34;

fn parse(frame: &[u8]) -> Result<Option<Packet>, Odd> {
    Packet::parse(&frame)
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
        protocol: TCP,
        padding: [0; 3],
    }
}

#[test]
fn a_syn() {
    let packet = parse(&SYN_FRAME).unwrap().unwrap();
    assert_eq!(
        packet,
        Packet {
            flow: flow(40_000, 80),
            flags: SYN
        }
    );
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
    assert_eq!(
        packet,
        Packet {
            flow: flow(40_001, 443),
            flags: FIN | ACK
        }
    );
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
fn what_is_not_tcp_over_ipv4_is_passed_by() {
    for (what, ether_type) in [
        ("VLAN-tagged", [0x81, 0x00]),
        ("doubly tagged", [0x88, 0xa8]),
        ("ARP", [0x08, 0x06]),
        ("IPv6", [0x86, 0xdd]),
        ("802.3 length", [0x00, 0x26]),
    ] {
        let frame = syn_with(&[(12, ether_type[0]), (13, ether_type[1])]);
        assert_eq!(parse(&frame), Ok(None), "{what}");
        // Whatever comes after the Ethernet header, or doesn't.
        assert_eq!(parse(&frame[..14]), Ok(None), "{what}");
    }
    for (what, protocol) in [("ICMP", 1), ("IPIP", 4), ("UDP", 17), ("SCTP", 132)] {
        let frame = syn_with(&[(IP + 9, protocol)]);
        assert_eq!(parse(&frame), Ok(None), "{what}");
        assert_eq!(parse(&frame[..TCP_AT]), Ok(None), "{what}");
    }
}

#[test]
fn a_vlan_tag_does_not_pass_for_an_ip_header() {
    let (macs, rest) = SYN_FRAME.split_at(12);
    let tagged = [macs, &[0x81, 0x00, 0x00, 0x0a], rest].concat();
    assert_eq!(parse(&tagged), Ok(None));
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
fn fragments_are_passed_by() {
    for (what, offset) in [
        ("first", [0x20, 0x00]),
        ("later", [0x20, 0xb9]),
        ("last", [0x00, 0xb9]),
        ("first, with don't fragment", [0x60, 0x00]),
        ("farthest", [0x1f, 0xff]),
    ] {
        let frame = syn_with(&[(IP + 6, offset[0]), (IP + 7, offset[1])]);
        assert_eq!(parse(&frame), Ok(None), "{what}");
    }
    // The reserved bit and don't fragment are no offset.
    for flags in [0x00, 0x40, 0x80, 0xc0] {
        let frame = syn_with(&[(IP + 6, flags)]);
        assert!(parse(&frame).unwrap().is_some(), "flags {flags:#x}");
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
}

/// The headers of a packet, as far as it tells, each field put where RFC 791 and RFC 9293 have it.
fn emit(packet: &Packet) -> Vec<u8> {
    let FlowKey {
        client,
        identity,
        client_port,
        port,
        protocol,
        padding: _,
    } = packet.flow;
    let mut frame = vec![0; TCP_AT + TCP_LEN];
    frame[12..14].copy_from_slice(&IPV4.to_be_bytes());
    frame[IP] = 0x45;
    frame[IP + 2..IP + 4].copy_from_slice(&40_u16.to_be_bytes());
    frame[IP + 9] = protocol;
    frame[IP + 12..IP + 16].copy_from_slice(&client.octets[12..]);
    frame[IP + 16..IP + 20].copy_from_slice(&identity.octets[12..]);
    frame[TCP_AT..TCP_AT + 2].copy_from_slice(&client_port.to_be_bytes());
    frame[TCP_AT + 2..TCP_AT + 4].copy_from_slice(&port.to_be_bytes());
    frame[TCP_AT + 12] = 0x50;
    frame[TCP_AT + 13] = packet.flags;
    frame
}

/// What [`emit`] writes of a frame: `EtherType`, protocol, addresses, ports, flags.
fn fields(frame: &[u8]) -> [&[u8]; 5] {
    [
        &frame[12..14],
        &frame[IP + 9..=IP + 9],
        &frame[IP + 12..IP + 20],
        &frame[TCP_AT..TCP_AT + 4],
        &frame[TCP_AT + 13..=TCP_AT + 13],
    ]
}

/// Garbage, garbage after the Ethernet header, and real frames with some bytes changed, cut or with more behind them.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let garbage = || prop::collection::vec(any::<u8>(), 0..120);
    let real = prop::sample::select(vec![SYN_FRAME.to_vec(), FIN_FRAME.to_vec()]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let mutated =
        (real, changes, garbage(), 0..150_usize).prop_map(|(mut frame, changes, mut tail, len)| {
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            frame.append(&mut tail);
            frame.truncate(len);
            frame
        });
    prop_oneof![
        1 => garbage(),
        1 => garbage().prop_map(|tail| [&SYN_FRAME[..IP], &tail].concat()),
        1 => garbage().prop_map(|tail| [&SYN_FRAME[..IP + 2], &[0, 40], &tail].concat()),
        5 => mutated,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_frame_is_read_as_it_is_or_refused(frame in any_frame()) {
        let mac = (frame.len() >= ETHERNET_LEN).then(|| frame[6..12].try_into().unwrap());
        prop_assert_eq!(source(&frame), mac);
        if let Ok(Some(packet)) = parse(&frame) {
            let emitted = emit(&packet);
            prop_assert_eq!(fields(&frame), fields(&emitted));
            prop_assert_eq!(parse(&emitted), Ok(Some(packet)));
        }
    }

    #[test]
    fn bytes_after_the_packet_change_nothing(tail in prop::collection::vec(any::<u8>(), 0..60)) {
        prop_assert_eq!(parse(&[&SYN_FRAME[..], &tail].concat()), parse(&SYN_FRAME));
    }
}
