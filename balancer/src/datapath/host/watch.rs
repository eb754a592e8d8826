//! Watching a link for hosts that use an address.

use std::{
    io::{self, Read},
    net::IpAddr,
};

use socket2::Socket;
use tokio::io::{Interest, unix::AsyncFd};

use super::{arp, ndp, question::Question};

/// The ARP packets and neighbour advertisements that an interface receives.
pub struct Watch {
    arp: AsyncFd<Socket>,
    ndp: AsyncFd<Socket>,
}

impl Watch {
    /// Begins to watch. Must be called within a tokio runtime; needs the capability `CAP_NET_RAW`.
    pub fn open(interface_index: u32, interface_mac: [u8; 6]) -> io::Result<Self> {
        let socket = |ether_type: u16, filter: &[_]| {
            let question = Question {
                interface_index,
                interface_mac,
                ether_type,
                to: [0; 6],
                packet: &[],
            };
            let socket = question.open(filter)?;
            // SAFETY: the socket owns its open descriptor, and nothing closes or replaces it before the AsyncFd is dropped.
            Ok::<_, io::Error>(unsafe {
                AsyncFd::register_with_interest(socket, Interest::READABLE)?
            })
        };
        Ok(Self {
            arp: socket(libc::ETH_P_ARP as u16, &[])?,
            ndp: socket(libc::ETH_P_IPV6 as u16, &ndp::only_advertisements())?,
        })
    }

    /// The next address that a host on the link was seen to use, and the host's Ethernet address, which may be the
    /// interface's own. Cancel-safe.
    pub async fn next(&self) -> io::Result<(IpAddr, [u8; 6])> {
        loop {
            let seen = tokio::select! {
                packet = read(&self.arp) => {
                    arp::user(&packet?).map(|(address, mac)| (IpAddr::V4(address), mac))
                }
                packet = read(&self.ndp) => {
                    ndp::user(&packet?).map(|(address, mac)| (IpAddr::V6(address), mac))
                }
            };
            if let Some(user) = seen {
                return Ok(user);
            }
        }
    }
}

async fn read(socket: &AsyncFd<Socket>) -> io::Result<Vec<u8>> {
    let mut packet = [0; 128];
    let length = socket
        .async_io(Interest::READABLE, |mut socket| socket.read(&mut packet))
        .await?;
    Ok(packet[..length].to_vec())
}
