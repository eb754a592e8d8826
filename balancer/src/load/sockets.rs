//! Connections in the kernel's socket table.

use std::net::SocketAddr;

use anyhow::Result;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, TCP_FIN_WAIT2};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags};

use crate::sock_diag::SocketTable;

/// How many connections are open on each of `services`, which are told apart by `service_of` (the service that has a local
/// port). For use now and then: the kernel goes through its whole table for it.
pub fn established(services: usize, service_of: impl Fn(u16) -> Option<usize>) -> Result<Vec<u64>> {
    let mut counts = vec![0; services];
    each_open(|local| {
        if let Some(count) = service_of(local.port()).and_then(|service| counts.get_mut(service)) {
            *count += 1;
        }
    })?;
    Ok(counts)
}

/// Visits this host's end of each open TCP connection: its handshake done, its socket not closed. For use now and then, as
/// [`established`].
pub fn each_open(mut visit: impl FnMut(SocketAddr)) -> Result<()> {
    let open = StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::CLOSING
        | StateFlags::LAST_ACK;
    let mut table = SocketTable::open()?;
    for family in [AF_INET, AF_INET6] {
        let none = ExtensionFlags::empty();
        table.each(family, open.clone(), none, &[], |socket| {
            if !is_stub(&socket) {
                let end = &socket.header.socket_id;
                visit(SocketAddr::new(
                    end.source_address.to_canonical(),
                    end.source_port,
                ));
            }
        })?;
    }
    Ok(())
}

/// A connection that this host closed first and has no socket any more waits for the other end in a stub.
fn is_stub(socket: &InetResponse) -> bool {
    socket.header.state == TCP_FIN_WAIT2 && socket.header.inode == 0
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_open_connections_of_a_port_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let count = || {
            established(1, |port| (port == address.port()).then_some(0)).expect("the socket table")
                [0]
        };
        assert_eq!(count(), 0);
        let mut clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).expect("a connection"))
            .collect();
        // Accepted ones and those that wait to be are the same to the kernel.
        let (accepted, _) = listener.accept().expect("a connection");
        assert_eq!(count(), 3);

        clients[0].shutdown(Shutdown::Write).expect("half an end");
        assert_eq!(count(), 3, "it is half open");
        drop(accepted);
        assert_eq!(count(), 2);
        // Closed here first, and not there: a stub is left, for a minute, once the other end has acknowledged that.
        let (accepted, _) = listener.accept().expect("a connection");
        drop(accepted);
        let stubbed = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            count() == 1
        });
        assert!(stubbed, "{} count", count());
        clients.clear();
    }

    #[test]
    fn ends_of_both_families_are_found() {
        let ends = [(Ipv6Addr::LOCALHOST, false), (Ipv6Addr::UNSPECIFIED, true)];
        for (address, is_v4) in ends {
            let listener = TcpListener::bind((address, 0)).expect("a port");
            let port = listener.local_addr().expect("its address").port();
            let end: SocketAddr = if is_v4 {
                ([127, 0, 0, 1], port).into()
            } else {
                (Ipv6Addr::LOCALHOST, port).into()
            };
            let _client = TcpStream::connect(end).expect("a connection");
            let mut found = 0;
            each_open(|local| found += u32::from(local == end)).expect("the socket table");
            assert_eq!(found, 1, "{end}");
        }
    }
}
