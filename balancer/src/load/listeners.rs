//! Accept queues: connections that are made and that the service has not taken yet. The kernel tells of them by netlink
//! (`sock_diag(7)`).

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use balancer_common::types::FULL;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags};

use crate::cluster::Timestamp;
use crate::sock_diag::SocketTable;

/// A queue that overflowed counts as full for so long.
const HOLD: Duration = Duration::from_secs(1);

/// The listening TCP sockets of this network namespace.
pub struct Listeners {
    /// Opened when it is needed, and again after a failure: answers may still be in the old one.
    table: Option<SocketTable>,
    /// Packets that a socket has dropped, by its inode. New connections that come to a full queue are among them.
    dropped: HashMap<u32, u32>,
    /// When a service's queue last overflowed.
    overflowed: Vec<Option<Timestamp>>,
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    port: u16,
    inode: u32,
    waiting: u32,
    room: u32,
    dropped: u32,
}

impl Listeners {
    /// For so many `services`.
    pub fn new(services: usize) -> Self {
        Self {
            table: None,
            dropped: HashMap::new(),
            overflowed: vec![None; services],
        }
    }

    /// How full the accept queue of each service is, in basis points: of its sockets the fullest. One that overflowed within
    /// the last second is full at least. `service_of` names the service of a port. To be called in one network namespace.
    pub fn sample(
        &mut self,
        now: Timestamp,
        service_of: impl Fn(u16) -> Option<usize>,
    ) -> Result<Vec<u32>> {
        let mut listeners = Vec::new();
        for family in [AF_INET, AF_INET6] {
            // A kernel without IPv6 has no such sockets, and says so.
            let asked = self.ask(family, &mut listeners);
            if asked.is_err() {
                self.table = None;
            }
            if family == AF_INET {
                asked?;
            }
        }
        Ok(self.judge(now, &listeners, service_of))
    }

    fn judge(
        &mut self,
        now: Timestamp,
        listeners: &[Listener],
        service_of: impl Fn(u16) -> Option<usize>,
    ) -> Vec<u32> {
        let mut fill = vec![0; self.overflowed.len()];
        let mut dropped = HashMap::new();
        for listener in listeners {
            let Some(service) = service_of(listener.port) else {
                continue;
            };
            let before = self.dropped.get(&listener.inode);
            if before.is_some_and(|before| listener.dropped != *before) {
                self.overflowed[service] = Some(now);
            }
            dropped.insert(listener.inode, listener.dropped);
            let share =
                u64::from(listener.waiting) * u64::from(FULL) / u64::from(listener.room.max(1));
            fill[service] = fill[service].max(u32::try_from(share).unwrap_or(u32::MAX));
        }
        self.dropped = dropped;
        for (fill, overflowed) in fill.iter_mut().zip(&self.overflowed) {
            if overflowed.is_some_and(|then| now.since(then) < HOLD) {
                *fill = (*fill).max(FULL);
            }
        }
        fill
    }

    fn ask(&mut self, family: u8, found: &mut Vec<Listener>) -> Result<()> {
        let table = match &mut self.table {
            Some(table) => table,
            empty => empty.insert(SocketTable::open()?),
        };
        table.each(
            family,
            StateFlags::LISTEN,
            ExtensionFlags::SKMEMINFO,
            &[],
            |socket| found.push(listener(&socket)),
        )
    }
}

fn listener(socket: &InetResponse) -> Listener {
    let header = &socket.header;
    let dropped = socket.nlas.iter().find_map(|nla| match nla {
        Nla::MemInfo(memory) => Some(memory.drops),
        _ => None,
    });
    Listener {
        port: header.socket_id.source_port,
        inode: header.inode,
        waiting: header.recv_queue,
        room: header.send_queue,
        dropped: dropped.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use nix::sys::socket::{Backlog, listen};

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(0) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_queue_fills_and_overflows() {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listen(&socket, Backlog::new(3).expect("a backlog")).expect("a shorter queue");
        let address = socket.local_addr().expect("its address");
        let mut listeners = Listeners::new(2);
        let mut sample = |milliseconds| {
            let service_of = |port| (port == address.port()).then_some(1);
            listeners
                .sample(at(milliseconds), service_of)
                .expect("an answer")
        };
        assert_eq!(sample(0), [0, 0]);
        let connect = || TcpStream::connect(address).expect("a connection");
        let clients: Vec<_> = (0..2).map(|_| connect()).collect();
        assert_eq!(sample(100), [0, 6_666]);
        // The kernel lets one more wait than there is room for. The next is dropped.
        let full: Vec<_> = (0..2).map(|_| connect()).collect();
        assert_eq!(sample(200), [0, 13_333]);
        let in_vain = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert!(in_vain.is_err());
        for _ in 0..4 {
            socket.accept().expect("a connection");
        }
        assert_eq!(sample(300), [0, 10_000], "it has overflowed");
        assert_eq!(sample(1_200), [0, 10_000], "within a second");
        assert_eq!(sample(1_300), [0, 0]);
        drop((clients, full));
    }

    #[test]
    fn what_was_dropped_before_is_history() {
        let mut listeners = Listeners::new(1);
        let mut fill = |milliseconds, dropped| {
            let listener = Listener {
                port: 80,
                inode: 7,
                waiting: 0,
                room: 0,
                dropped,
            };
            listeners.judge(at(milliseconds), &[listener], |_| Some(0))[0]
        };
        assert_eq!(fill(0, 12), 0);
        assert_eq!(fill(100, 12), 0);
        assert_eq!(fill(200, 13), 10_000);
    }
}
