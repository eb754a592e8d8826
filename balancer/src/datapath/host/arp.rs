//! Who has this IPv4 address? ARP probes (RFC 826, RFC 5227).
//!
//! The kernel can't be asked: a peer's address is on our own `lo` too. So the requests are ours, on a packet socket.

use std::{collections::BTreeSet, io, net::Ipv4Addr, time::Duration};

use super::question::Question;

pub(super) const BROADCAST: [u8; 6] = [0xff; 6];

/// Asks on an interface, up to three times within `timeout`, who uses `target`. Returns the MAC address of the first that
/// answers, or `None`.
///
/// What one of `others` answers is no answer. With `source` 0.0.0.0 this is a probe as in RFC 5227, which leaves no trace in the neighbour table of others. Any ARP
/// packet that comes from `target` counts as an answer, a request too (section 2.1.1), unless it is from
/// `interface_mac` itself. Must be called within a tokio runtime; needs the capability `CAP_NET_RAW`.
pub async fn probe(
    interface_index: u32,
    interface_mac: [u8; 6],
    source: Ipv4Addr,
    target: Ipv4Addr,
    others: &BTreeSet<[u8; 6]>,
    timeout: Duration,
) -> io::Result<Option<[u8; 6]>> {
    let question = Question {
        interface_index,
        interface_mac,
        ether_type: libc::ETH_P_ARP as u16,
        to: BROADCAST,
        packet: &request(interface_mac, source, target),
    };
    question
        .ask(&[], timeout, |packet| {
            sender(packet, target).filter(|mac| !others.contains(mac))
        })
        .await
}

/// Ethernet and IPv4, with address lengths of 6 and 4: the start of every packet considered here (RFC 826).
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const OPERATION_REQUEST: [u8; 2] = [0, 1];
const LENGTH: usize = 28;

mod field {
    use std::ops::Range;

    pub(super) const KIND: Range<usize> = 0..6;
    pub(super) const OPERATION: Range<usize> = 6..8;
    pub(super) const SENDER_MAC: Range<usize> = 8..14;
    pub(super) const SENDER: Range<usize> = 14..18;
    pub(super) const TARGET: Range<usize> = 24..28;
}

fn request(mac: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[field::KIND].copy_from_slice(&ETHERNET_IPV4);
    packet[field::OPERATION].copy_from_slice(&OPERATION_REQUEST);
    packet[field::SENDER_MAC].copy_from_slice(&mac);
    packet[field::SENDER].copy_from_slice(&source.octets());
    packet[field::TARGET].copy_from_slice(&target.octets());
    packet
}

/// An announcement (RFC 5227 section 2.3): a request for the address itself, from it. Unlike a reply it is believed by those
/// that have just heard of another one.
pub(super) fn announcement(mac: [u8; 6], address: Ipv4Addr) -> [u8; LENGTH] {
    request(mac, address, address)
}

/// Who sent an ARP packet: the address that it uses, if it uses any, and its Ethernet address.
pub(super) fn user(packet: &[u8]) -> Option<(Ipv4Addr, [u8; 6])> {
    let packet = packet.get(..LENGTH)?;
    let octets: [u8; 4] = packet[field::SENDER].try_into().ok()?;
    let address = Ipv4Addr::from(octets);
    (packet[field::KIND] == ETHERNET_IPV4 && !address.is_unspecified())
        .then_some((address, packet[field::SENDER_MAC].try_into().ok()?))
}

/// The MAC address of the sender, if this is an ARP packet from `target`.
fn sender(packet: &[u8], target: Ipv4Addr) -> Option<[u8; 6]> {
    user(packet)
        .filter(|(address, _)| *address == target)
        .map(|(_, mac)| mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn request_is_as_on_the_wire() {
        let expected = b"\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x07\x00\x00\x00\x00\
                         \x00\x00\x00\x00\x00\x00\x0a\x00\x00\x01";
        assert_eq!(&request(MAC, Ipv4Addr::UNSPECIFIED, TARGET), expected);
    }

    #[test]
    fn only_packets_from_the_target_count() {
        let from = |source| request(MAC, source, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(sender(&from(TARGET), TARGET), Some(MAC));
        assert_eq!(
            sender(&[&from(TARGET)[..], &[0; 18]].concat(), TARGET),
            Some(MAC),
            "padded"
        );
        assert_eq!(sender(&from(Ipv4Addr::new(10, 0, 0, 2)), TARGET), None);
        assert_eq!(sender(&from(TARGET)[..LENGTH - 1], TARGET), None);
        for byte in field::KIND {
            let mut packet = from(TARGET);
            packet[byte] ^= 0x40;
            assert_eq!(sender(&packet, TARGET), None);
        }
    }
}
