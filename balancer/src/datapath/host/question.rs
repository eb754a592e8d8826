//! Packets of ARP and NDP to a link: a question that is sent again until it is answered, or a statement.

use std::{
    io::{self, Read},
    mem::size_of,
    time::Duration,
};

use libc::{c_int, sockaddr_ll, socklen_t};
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// Times that a question is asked. RFC 5227 section 1.1 has as many (`PROBE_NUM`), over seconds.
const TRIES: u32 = 3;

/// A packet that asks for an address, and what it takes to send it.
pub(super) struct Question<'a> {
    /// The interface that it goes out by.
    pub(super) interface_index: u32,
    /// Its Ethernet address.
    pub(super) interface_mac: [u8; 6],
    /// `EtherType` of question and answer.
    pub(super) ether_type: u16,
    /// Ethernet address that it goes to.
    pub(super) to: [u8; 6],
    /// The packet, from the network header on.
    pub(super) packet: &'a [u8],
}

impl Question<'_> {
    /// Asks up to three times within `timeout`. `answer` reads the Ethernet address out of a packet that is an answer; only
    /// packets that pass the socket filter get there (all do if it is empty). Our own address is no answer.
    ///
    /// Must be called within a tokio runtime; needs the capability `CAP_NET_RAW`.
    pub(super) async fn ask(
        &self,
        filter: &[SockFilter],
        timeout: Duration,
        answer: impl Fn(&[u8]) -> Option<[u8; 6]>,
    ) -> io::Result<Option<[u8; 6]>> {
        // SAFETY: the socket owns its open descriptor, and nothing closes or replaces it before the AsyncFd is dropped.
        let socket = unsafe { AsyncFd::register(self.open(filter)?)? };
        let found = self.ask_by(&socket, timeout, answer).await;
        // The kernel lets nobody close a packet socket before an RCU grace period is over: milliseconds, in which this
        // thread has better things to do.
        tokio::task::spawn_blocking(|| drop(socket));
        found
    }

    /// Sends it once, and waits for no answer.
    pub(super) fn tell(&self) -> io::Result<()> {
        let socket = self.open(&[])?;
        let sent = socket.send_to(self.packet, &self.link_address()?);
        tokio::task::spawn_blocking(|| drop(socket));
        sent.map(drop)
    }

    /// A socket for packets of one kind and one interface, without their link-layer headers.
    pub(super) fn open(&self, filter: &[SockFilter]) -> io::Result<Socket> {
        // With protocol 0 it receives nothing before it is bound, and so nothing from other interfaces.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&self.link_address()?)?;
        Ok(socket)
    }

    fn link_address(&self) -> io::Result<SockAddr> {
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: sockaddr_ll is a socket address type of this system, and all zeroes is a value of it.
        let address: &mut sockaddr_ll = unsafe { storage.view_as() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = self.ether_type.to_be();
        address.sll_ifindex = c_int::try_from(self.interface_index)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        address.sll_halen = self.to.len() as u8;
        address.sll_addr[..self.to.len()].copy_from_slice(&self.to);
        // SAFETY: the storage holds an address of family AF_PACKET, which has this length.
        Ok(unsafe { SockAddr::new(storage, size_of::<sockaddr_ll>() as socklen_t) })
    }

    async fn ask_by(
        &self,
        socket: &AsyncFd<Socket>,
        timeout: Duration,
        answer: impl Fn(&[u8]) -> Option<[u8; 6]>,
    ) -> io::Result<Option<[u8; 6]>> {
        let to = self.link_address()?;
        let read = |packet: &[u8]| answer(packet).filter(|mac| *mac != self.interface_mac);
        // Timers are late by a millisecond or so, which must not add up: a short time-out is soon over. But where this thread itself
        // is late, an answer gets half of its time at the least.
        let after = |time| tokio::time::sleep(time).deadline();
        let end = after(timeout);
        for left in (0..TRIES).rev() {
            socket
                .async_io(Interest::WRITABLE, |socket| {
                    socket.send_to(self.packet, &to)
                })
                .await?;
            let turn = (end - timeout * left / TRIES).max(after(timeout / TRIES / 2));
            match tokio::time::timeout_at(turn, first(socket, &read)).await {
                Ok(found) => return found.map(Some),
                Err(_elapsed) => {}
            }
        }
        Ok(None)
    }
}

/// What `read` makes of the first packet that it makes anything of.
async fn first<T>(socket: &AsyncFd<Socket>, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
    loop {
        let mut packet = [0; 128];
        let length = socket
            .async_io(Interest::READABLE, |mut socket| socket.read(&mut packet))
            .await?;
        if let Some(found) = read(&packet[..length]) {
            return Ok(found);
        }
    }
}
