//! Who has this IPv6 address? Neighbour solicitations (RFC 4861).
//!
//! As with ARP, the kernel can't be asked: a peer's address is on our own `lo` too.

use std::{collections::BTreeSet, io, net::Ipv6Addr, time::Duration};

use socket2::SockFilter;

use super::question::Question;

/// Asks on an interface, up to three times within `timeout`, who uses `target`. Returns the MAC address of the first that
/// answers, or `None`.
///
/// What one of `others` answers is no answer. With `source` `::` this is a solicitation as in duplicate address detection (RFC 4862 section 5.4), which leaves no trace
/// in the neighbour cache of others, and which is answered to all nodes (RFC 4861 section 7.2.4). Must be called within a
/// tokio runtime; needs the capability `CAP_NET_RAW`.
pub async fn probe(
    interface_index: u32,
    interface_mac: [u8; 6],
    source: Ipv6Addr,
    target: Ipv6Addr,
    others: &BTreeSet<[u8; 6]>,
    timeout: Duration,
) -> io::Result<Option<[u8; 6]>> {
    let group = solicited_node(target);
    let [.., a, b, c, d] = group.octets();
    let question = Question {
        interface_index,
        interface_mac,
        ether_type: libc::ETH_P_IPV6 as u16,
        // RFC 2464 section 7.
        to: [0x33, 0x33, a, b, c, d],
        packet: &solicitation(interface_mac, source, target, group),
    };
    question
        .ask(&only_advertisements(), timeout, |packet| {
            advertiser(packet, target).filter(|mac| !others.contains(mac))
        })
        .await
}

const IPV6_LEN: usize = 40;
const ICMPV6: u8 = 58;
/// Of routers on the way none lets a hop limit of 255 through: the packet is from this link (RFC 4861 section 7.1).
const FROM_THIS_LINK: u8 = 255;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Place of the flags in an advertisement.
const FLAGS: usize = 4;
const OVERRIDE: u8 = 0x20;
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// RFC 2464 section 7.
pub(super) const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Type, code, checksum, flags, target.
const MESSAGE_LEN: usize = 24;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// An option's length, in units of eight bytes, where it has an Ethernet address.
const ONE_UNIT: u8 = 1;
const OPTION_LEN: usize = 8;

mod field {
    use std::ops::Range;

    pub(super) const PAYLOAD_LEN: Range<usize> = 4..6;
    pub(super) const NEXT: usize = 6;
    pub(super) const HOP_LIMIT: usize = 7;
    pub(super) const SOURCE: Range<usize> = 8..24;
    pub(super) const DESTINATION: Range<usize> = 24..40;
    /// Of an `ICMPv6` message.
    pub(super) const CHECKSUM: Range<usize> = 2..4;
    pub(super) const TARGET: Range<usize> = 8..24;
}

/// RFC 4291 section 2.7.1.
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from_bits(
        (0xff02 << 112) | 0x1_ff00_0000 | u128::from(u32::from_be_bytes([0, a, b, c])),
    )
}

/// RFC 4861 section 4.3.
fn solicitation(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr, group: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![0; MESSAGE_LEN];
    message[0] = SOLICITATION;
    message[field::TARGET].copy_from_slice(&target.octets());
    // To whom has no address yet nothing can be answered directly.
    if !source.is_unspecified() {
        message.extend([SOURCE_MAC, ONE_UNIT]);
        message.extend(mac);
    }
    packet(source, group, &message)
}

/// An IPv6 packet with this `ICMPv6` message, whose checksum is filled in.
fn packet(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; IPV6_LEN];
    packet[0] = 6 << 4;
    packet[field::PAYLOAD_LEN].copy_from_slice(&(message.len() as u16).to_be_bytes());
    packet[field::NEXT] = ICMPV6;
    packet[field::HOP_LIMIT] = FROM_THIS_LINK;
    packet[field::SOURCE].copy_from_slice(&source.octets());
    packet[field::DESTINATION].copy_from_slice(&destination.octets());
    packet.extend(message);
    let sum = checksum(&packet);
    packet[IPV6_LEN..][field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An unsolicited neighbour advertisement that overrides what others know (RFC 4861 sections 4.4 and 7.2.6).
pub(super) fn announcement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![0; MESSAGE_LEN];
    message[0] = ADVERTISEMENT;
    message[FLAGS] = OVERRIDE;
    message[field::TARGET].copy_from_slice(&address.octets());
    message.extend([TARGET_MAC, ONE_UNIT]);
    message.extend(mac);
    packet(address, ALL_NODES, &message)
}

/// The link-layer address in a neighbour advertisement for `target`.
fn advertiser(packet: &[u8], target: Ipv6Addr) -> Option<[u8; 6]> {
    user(packet)
        .filter(|(address, _)| *address == target)
        .map(|(_, mac)| mac)
}

/// The target of a neighbour advertisement and its link-layer address (RFC 4861 sections 4.4 and 7.1.2).
pub(super) fn user(packet: &[u8]) -> Option<(Ipv6Addr, [u8; 6])> {
    let payload_len = usize::from(u16::from_be_bytes(
        packet.get(field::PAYLOAD_LEN)?.try_into().ok()?,
    ));
    let packet = packet.get(..IPV6_LEN + payload_len)?;
    let (header, message) = packet.split_at(IPV6_LEN);
    let valid = header[field::NEXT] == ICMPV6
        && header[field::HOP_LIMIT] == FROM_THIS_LINK
        && message.len() >= MESSAGE_LEN
        && message[..2] == [ADVERTISEMENT, 0]
        && checksum(packet) == 0;
    if !valid {
        return None;
    }
    let target: [u8; 16] = message[field::TARGET].try_into().ok()?;
    let mut options = &message[MESSAGE_LEN..];
    while let [kind, units, ..] = *options {
        if units == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(usize::from(units) * OPTION_LEN)?;
        if (kind, units) == (TARGET_MAC, ONE_UNIT) {
            return Some((target.into(), option[2..].try_into().ok()?));
        }
        options = rest;
    }
    None
}

/// Over the pseudo-header and the message (RFC 4443 section 2.3): what belongs into the message, or 0 if it is there.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet[field::SOURCE.start..].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    let mut sum = sum + (packet.len() - IPV6_LEN) as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Lets only neighbour advertisements through. A host's other IPv6 traffic would crowd them out of the socket's buffer.
pub(super) fn only_advertisements() -> [SockFilter; 6] {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, field::NEXT as u32),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, ICMPV6.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, IPV6_LEN as u32),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, ADVERTISEMENT.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn target() -> Ipv6Addr {
        "2001:db8::12:3456".parse().unwrap()
    }

    /// As Linux answers, from its own address to all nodes.
    fn advertisement(options: &[u8]) -> Vec<u8> {
        let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
        let mut packet = solicitation(MAC, target(), target(), all_nodes);
        packet.truncate(IPV6_LEN + MESSAGE_LEN);
        packet[IPV6_LEN..IPV6_LEN + 5].copy_from_slice(&[ADVERTISEMENT, 0, 0, 0, 0x20]);
        packet.extend(options);
        finish(packet)
    }

    /// With the right length and checksum.
    fn finish(mut packet: Vec<u8>) -> Vec<u8> {
        let length = (packet.len() - IPV6_LEN) as u16;
        packet[field::PAYLOAD_LEN].copy_from_slice(&length.to_be_bytes());
        packet[IPV6_LEN..][field::CHECKSUM].fill(0);
        let sum = checksum(&packet);
        packet[IPV6_LEN..][field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    #[test]
    fn solicitation_is_as_on_the_wire() {
        let group = solicited_node(target());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        let packet = solicitation(MAC, Ipv6Addr::UNSPECIFIED, target(), group);
        let expected = b"\x60\0\0\0\0\x18\x3a\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
                         \xff\x02\0\0\0\0\0\0\0\0\0\x01\xff\x12\x34\x56\
                         \x87\0\xe4\x1e\0\0\0\0\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\x12\x34\x56";
        assert_eq!(packet, expected);
        let with_source = solicitation(MAC, target(), target(), group);
        assert_eq!(
            with_source[IPV6_LEN + MESSAGE_LEN..],
            [1, 1, 2, 0, 0, 0, 0, 7]
        );
    }

    #[test]
    fn an_advertisement_names_the_mac() {
        let mac = [2, 1, 2, 0, 0, 0, 0, 7];
        let nonce = [14, 1, 9, 9, 9, 9, 9, 9];
        for options in [
            &mac[..],
            &[mac, nonce].concat(),
            &[nonce, mac].concat(),
            &[[14, 2, 0, 0, 0, 0, 0, 0], nonce, mac].concat(),
        ] {
            assert_eq!(advertiser(&advertisement(options), target()), Some(MAC));
        }
        // What comes behind the packet is padding.
        let padded = [advertisement(&mac), vec![0; 6]].concat();
        assert_eq!(advertiser(&padded, target()), Some(MAC));
        for options in [&[][..], &[2], &[2, 0, 2, 0, 0, 0, 0, 7], &mac[..7], &nonce] {
            assert_eq!(advertiser(&advertisement(options), target()), None);
        }
    }

    #[test]
    fn only_valid_advertisements_for_the_target_count() {
        let good = advertisement(&[2, 1, 2, 0, 0, 0, 0, 7]);
        assert_eq!(advertiser(&good, "2001:db8::1".parse().unwrap()), None);
        for len in 0..good.len() {
            assert_eq!(advertiser(&good[..len], target()), None, "{len} bytes");
        }
        for at in IPV6_LEN..good.len() {
            let mut broken = good.clone();
            broken[at] ^= 0x40;
            assert_eq!(advertiser(&broken, target()), None, "checksum, byte {at}");
        }
        for at in [field::NEXT, field::HOP_LIMIT, IPV6_LEN, IPV6_LEN + 1] {
            let mut other = good.clone();
            other[at] ^= 1;
            assert_eq!(advertiser(&finish(other), target()), None, "byte {at}");
        }
    }
}
