//! Who has this IPv4 address? ARP probes (RFC 826, RFC 5227).
//!
//! The kernel can't be asked: a peer's address is on our own `lo` too. So the requests are ours, on a packet socket.

use std::{
    io::{self, Read},
    mem::size_of,
    net::Ipv4Addr,
    time::Duration,
};

use libc::{c_int, sockaddr_ll, socklen_t};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// Requests sent before the address counts as free. RFC 5227 section 1.1 has as many (`PROBE_NUM`), over seconds.
const TRIES: u32 = 3;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Asks on an interface, up to three times within `timeout`, who uses `target`. Returns the MAC address of the first that
/// answers, or `None`.
///
/// With `source` 0.0.0.0 this is a probe as in RFC 5227, which leaves no trace in the neighbour table of others. Any ARP
/// packet that comes from `target` counts as an answer, a request too (section 2.1.1), unless it is from
/// `interface_mac` itself. Must be called within a tokio runtime; needs the capability `CAP_NET_RAW`.
pub async fn probe(
    interface_index: u32,
    interface_mac: [u8; 6],
    source: Ipv4Addr,
    target: Ipv4Addr,
    timeout: Duration,
) -> io::Result<Option<[u8; 6]>> {
    // SAFETY: the socket owns its open descriptor, and nothing closes or replaces it before the AsyncFd is dropped.
    let socket = unsafe { AsyncFd::register(open(interface_index)?)? };
    let broadcast = link_address(interface_index, BROADCAST)?;
    let question = request(interface_mac, source, target);
    let found = ask(
        &socket,
        interface_mac,
        target,
        &question,
        &broadcast,
        timeout,
    )
    .await;
    // The kernel lets nobody close a packet socket before an RCU grace period is over: milliseconds, in which this thread
    // has better things to do.
    tokio::task::spawn_blocking(|| drop(socket));
    found
}

/// A socket for ARP packets of one interface, without their link-layer headers.
fn open(interface_index: u32) -> io::Result<Socket> {
    // With protocol 0 it receives nothing before it is bound, and so nothing from other interfaces.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
    socket.bind(&link_address(interface_index, BROADCAST)?)?;
    Ok(socket)
}

fn link_address(interface_index: u32, mac: [u8; 6]) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a socket address type of this system, and all zeroes is a value of it.
    let address: &mut sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
    address.sll_ifindex = c_int::try_from(interface_index)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    address.sll_halen = mac.len() as u8;
    address.sll_addr[..mac.len()].copy_from_slice(&mac);
    // SAFETY: the storage holds an address of family AF_PACKET, which has this length.
    Ok(unsafe { SockAddr::new(storage, size_of::<sockaddr_ll>() as socklen_t) })
}

async fn ask(
    socket: &AsyncFd<Socket>,
    own: [u8; 6],
    target: Ipv4Addr,
    question: &[u8],
    broadcast: &SockAddr,
    timeout: Duration,
) -> io::Result<Option<[u8; 6]>> {
    for _ in 0..TRIES {
        socket
            .async_io(Interest::WRITABLE, |socket| {
                socket.send_to(question, broadcast)
            })
            .await?;
        match tokio::time::timeout(timeout / TRIES, answer(socket, own, target)).await {
            Ok(found) => return found.map(Some),
            Err(_elapsed) => {}
        }
    }
    Ok(None)
}

async fn answer(socket: &AsyncFd<Socket>, own: [u8; 6], target: Ipv4Addr) -> io::Result<[u8; 6]> {
    loop {
        let mut packet = [0; 64];
        let length = socket
            .async_io(Interest::READABLE, |mut socket| socket.read(&mut packet))
            .await?;
        if let Some(mac) = sender(&packet[..length], target).filter(|mac| *mac != own) {
            return Ok(mac);
        }
    }
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

/// The MAC address of the sender, if this is an ARP packet from `target`.
fn sender(packet: &[u8], target: Ipv4Addr) -> Option<[u8; 6]> {
    let packet = packet.get(..LENGTH)?;
    let from_target =
        packet[field::KIND] == ETHERNET_IPV4 && packet[field::SENDER] == target.octets();
    from_target
        .then(|| packet[field::SENDER_MAC].try_into().ok())
        .flatten()
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
