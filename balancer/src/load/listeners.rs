//! Accept queues: connections that are made and that the service has not taken yet. The kernel tells of them by netlink
//! (`sock_diag(7)`).

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use balancer_common::types::FULL;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags};

use super::overflows::Overflows;
use crate::cluster::Timestamp;
use crate::sock_diag::SocketTable;

/// A queue that overflowed counts as full for so long.
const HOLD: Duration = Duration::from_secs(1);

/// The listening TCP sockets of this network namespace.
pub struct Listeners {
    /// Opened when it is needed, and again after a failure: answers may still be in the old one.
    table: Option<SocketTable>,
    /// Packets that a socket has dropped, by its inode. New connections that come to a full queue are among them, and so are
    /// resets of connections in the making and packets with senseless flags.
    dropped: HashMap<u32, u32>,
    /// Tells the former from the latter.
    overflows: Overflows,
    /// Whether some queue had overflowed when that was last sampled.
    rose: bool,
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
            overflows: Overflows::default(),
            rose: false,
            overflowed: vec![None; services],
        }
    }

    /// How full the accept queue of each service is, in basis points: of its sockets the fullest. One that overflowed within
    /// the last second is full at least: it has dropped a packet while some queue here overflowed. `service_of`
    /// names the service of a port. To be called in one network namespace.
    pub fn sample(
        &mut self,
        now: Timestamp,
        service_of: impl Fn(u16) -> Option<usize>,
    ) -> Result<Vec<u32>> {
        let mut listeners = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let asked = self.ask(family, &mut listeners);
            if asked.is_err() {
                self.table = None;
            }
            asked?;
        }
        // Whatever overflows drops, and this file is dear to read.
        let rose =
            listeners.iter().any(|listener| self.drops(listener)) && self.overflows.rose()?;
        Ok(self.judge(now, &listeners, rose, service_of))
    }

    fn judge(
        &mut self,
        now: Timestamp,
        listeners: &[Listener],
        rose: bool,
        service_of: impl Fn(u16) -> Option<usize>,
    ) -> Vec<u32> {
        // What overflows between the answers for sockets and for overflows is seen to be dropped by the next sample.
        let overflows = rose || self.rose;
        self.rose = rose;
        let mut fill = vec![0; self.overflowed.len()];
        for listener in listeners {
            let Some(service) = service_of(listener.port) else {
                continue;
            };
            if overflows && self.dropped.contains_key(&listener.inode) && self.drops(listener) {
                self.overflowed[service] = Some(now);
            }
            let share =
                u64::from(listener.waiting) * u64::from(FULL) / u64::from(listener.room.max(1));
            fill[service] = fill[service].max(u32::try_from(share).unwrap_or(u32::MAX));
        }
        self.dropped = listeners
            .iter()
            .map(|listener| (listener.inode, listener.dropped))
            .collect();
        for (fill, overflowed) in fill.iter_mut().zip(&self.overflowed) {
            if overflowed.is_some_and(|then| now.since(then) < HOLD) {
                *fill = (*fill).max(FULL);
            }
        }
        fill
    }

    /// Whether it has dropped packets since the last sample, or is new.
    fn drops(&self, listener: &Listener) -> bool {
        self.dropped.get(&listener.inode) != Some(&listener.dropped)
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

    /// What the listener of one service, with an empty queue, has dropped, and whether some queue overflowed: is it full?
    fn judged(samples: &[(u32, bool)]) -> Vec<bool> {
        let mut listeners = Listeners::new(1);
        let judge = |(second, &(dropped, rose)): (u64, &(u32, bool))| {
            let listener = Listener {
                port: 80,
                inode: 7,
                waiting: 0,
                room: 0,
                dropped,
            };
            listeners.judge(at(second * 1_000), &[listener], rose, |_| Some(0)) == [10_000]
        };
        (0..).zip(samples).map(judge).collect()
    }

    #[test]
    fn what_was_dropped_before_is_history() {
        assert_eq!(judged(&[(12, true), (12, true)]), [false, false]);
        assert_eq!(judged(&[(12, false), (13, true)]), [false, true]);
    }

    #[test]
    fn only_drops_and_an_overflow_together_count() {
        let resets = [(0, false), (1, false), (9, false)];
        assert_eq!(judged(&resets), [false, false, false]);
        let of_others = [(0, false), (0, true), (0, false), (1, false)];
        assert_eq!(judged(&of_others), [false, false, false, false]);
        let between_the_answers = [(0, false), (0, true), (1, false), (2, false)];
        assert_eq!(judged(&between_the_answers), [false, false, true, false]);
    }
}
