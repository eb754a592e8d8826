//! Frames about a segment that are no segments themselves: its fragments, and ICMP errors about what answers it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{
    OUR_MAC, ROUTER_MAC, Segment, Transport, UDP, checksum, ipv4, ipv6, mend_ipv4, pseudo,
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
/// Routers on the way to the client.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);

/// Types of the ICMP errors of the segment's family.
pub fn error_types(about: &Segment) -> &'static [u8] {
    if about.from.is_ipv4() {
        &[3, 11, 12]
    } else {
        &[1, 2, 3, 4]
    }
}

/// An ICMP error of this type about a packet that the identity sent to the flow's client.
pub fn error(flow: &Segment, kind: u8) -> Vec<u8> {
    let sent = Segment {
        from: flow.to,
        to: flow.from,
        tags: &[],
        ..*flow
    };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    let ip_len = if flow.from.is_ipv4() { 20 } else { 40 };
    message.extend(&sent.frame()[14..14 + ip_len + 8]);
    let (ether_type, packet) = match flow.to.ip() {
        IpAddr::V4(to) => {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum);
            ([8, 0], ipv4(ROUTER, to, ICMP, 60, &message))
        }
        IpAddr::V6(to) => {
            let addresses = [ROUTER_V6.octets(), to.octets()].concat();
            let sum =
                checksum(&[&addresses[..], &pseudo(ICMPV6, message.len()), &message].concat());
            message[2..4].copy_from_slice(&sum);
            ([0x86, 0xdd], ipv6(ROUTER_V6, to, ICMPV6, 60, &message))
        }
    };
    [&OUR_MAC[..], &ROUTER_MAC, &ether_type, &packet].concat()
}

/// The datagram, which has some 4,000 bytes of payload, in three fragments.
pub fn fragments(datagram: &Segment, id: u16) -> [Vec<u8>; 3] {
    let parts = [(0, 1_400), (1_400, 2_800), (2_800, usize::MAX)];
    parts.map(|(start, end)| match datagram.from.ip() {
        IpAddr::V4(_) => v4_fragment(datagram, id, start, end),
        IpAddr::V6(_) => {
            let more = u16::from(end != usize::MAX);
            v6_fragment(datagram, id.into(), start, more, end)
        }
    })
}

/// The datagram with so much payload that it comes in fragments.
pub fn long(datagram: Segment) -> Segment {
    Segment {
        transport: Transport::Udp(4_000),
        ..datagram
    }
}

/// The datagram in a fragment that is the whole packet (RFC 6946).
pub fn atomic(datagram: &Segment) -> Vec<u8> {
    v6_fragment(datagram, 7, 0, 0, usize::MAX)
}

fn v4_fragment(datagram: &Segment, id: u16, start: usize, end: usize) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (datagram.from.ip(), datagram.to.ip()) else {
        panic!("{datagram:?}");
    };
    let ethernet = 14 + datagram.tags.len();
    let whole = datagram.frame();
    let payload = &whole[ethernet + 20..];
    let part = &payload[start..end.min(payload.len())];
    let mut packet = ipv4(from, to, UDP, datagram.hops, part);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    let more = u16::from(end < payload.len()) << 13;
    packet[6..8].copy_from_slice(&(more | (start / 8) as u16).to_be_bytes());
    mend_ipv4(&mut packet);
    [&whole[..ethernet], &packet].concat()
}

fn v6_fragment(datagram: &Segment, id: u32, start: usize, more: u16, end: usize) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (datagram.from.ip(), datagram.to.ip()) else {
        panic!("{datagram:?}");
    };
    let ethernet = 14 + datagram.tags.len();
    let whole = datagram.frame();
    let payload = &whole[ethernet + 40..];
    let mut part = vec![UDP, 0];
    part.extend((start as u16 | more).to_be_bytes());
    part.extend(id.to_be_bytes());
    part.extend(&payload[start..end.min(payload.len())]);
    let packet = ipv6(from, to, FRAGMENT, datagram.hops, &part);
    [&whole[..ethernet], &packet].concat()
}
