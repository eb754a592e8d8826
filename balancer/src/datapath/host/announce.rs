//! Telling a link who has an address: by ARP, or by a neighbour advertisement.

use std::{io, net::IpAddr};

use super::{arp, ndp, question::Question};

/// Tells all on the link of an interface that `address` is at `interface_mac`.
///
/// Must be called within a tokio runtime; needs the capability `CAP_NET_RAW`.
pub fn announce(interface_index: u32, interface_mac: [u8; 6], address: IpAddr) -> io::Result<()> {
    let (ether_type, to, packet) = match address {
        IpAddr::V4(v4) => (
            libc::ETH_P_ARP as u16,
            arp::BROADCAST,
            arp::announcement(interface_mac, v4).to_vec(),
        ),
        IpAddr::V6(v6) => (
            libc::ETH_P_IPV6 as u16,
            ndp::ALL_NODES_MAC,
            ndp::announcement(interface_mac, v6),
        ),
    };
    let statement = Question {
        interface_index,
        interface_mac,
        ether_type,
        to,
        packet: &packet,
    };
    statement.tell()
}
