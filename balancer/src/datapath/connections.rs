//! This host's TCP connections on some of its addresses, from the kernel's socket table.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, TCP_ESTABLISHED};
use netlink_packet_sock_diag::inet::{ExtensionFlags, SocketId, StateFlags};

use crate::sock_diag::SocketTable;

/// A TCP connection that ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The other end.
    pub client: SocketAddr,
    /// This host's end.
    pub local: SocketAddr,
    /// Its handshake is done, and neither side has ended it.
    pub established: bool,
}

/// The connections on `addresses`: all that have a socket which a packet of theirs may reach, from the first SYN on.
pub fn on(addresses: &[IpAddr]) -> Result<Vec<Connection>> {
    let states = StateFlags::SYN_RECV
        | StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::CLOSING
        | StateFlags::LAST_ACK;
    let mut found = Vec::new();
    let Some(filter) = filter(addresses) else {
        return Ok(found);
    };
    let mut table = SocketTable::open()?;
    // A socket for IPv6 may have an IPv4 connection.
    for family in [AF_INET, AF_INET6] {
        let none = ExtensionFlags::empty();
        table.each(family, states.clone(), none, &filter, |socket| {
            let SocketId {
                source_address,
                source_port,
                destination_address,
                destination_port,
                ..
            } = socket.header.socket_id;
            found.push(Connection {
                client: SocketAddr::new(destination_address.to_canonical(), destination_port),
                local: SocketAddr::new(source_address.to_canonical(), source_port),
                established: socket.header.state == TCP_ESTABLISHED,
            });
        })?;
    }
    Ok(found)
}

/// A program that lets sockets on `addresses` pass; `None` without any. The kernel runs it on each socket: an instruction
/// says how far to go on if its condition is met, and how far if not. At the end a socket passes, beyond it it doesn't.
fn filter(addresses: &[IpAddr]) -> Option<Vec<u8>> {
    // `linux/inet_diag.h`: an instruction is { code: u8, yes: u8, no: u16 }, and a condition on an address
    // { family: u8, prefix_len: u8, port: i32, addr } after 2 bytes of padding, where port -1 is any.
    const JUMP: u8 = 1;
    const SOURCE: u8 = 7;
    const INSTRUCTION: u16 = 4;
    const BEYOND: u16 = 4;
    let (last, others) = addresses.split_last()?;
    let mut program = source_is(SOURCE, last, BEYOND);
    for address in others.iter().rev() {
        // If it isn't this address, over the jump to the next condition.
        let mut condition = source_is(SOURCE, address, INSTRUCTION);
        let to_end = INSTRUCTION + program.len() as u16;
        condition.extend([JUMP, INSTRUCTION as u8]);
        condition.extend(to_end.to_ne_bytes());
        condition.append(&mut program);
        program = condition;
    }
    Some(program)
}

/// A condition, and how far beyond it to go on if it isn't met.
fn source_is(code: u8, address: &IpAddr, otherwise: u16) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    };
    let length = 12 + octets.len() as u16;
    let mut program = vec![code, length as u8];
    program.extend((length + otherwise).to_ne_bytes());
    program.extend([family, 8 * octets.len() as u8, 0, 0]);
    program.extend((-1_i32).to_ne_bytes());
    program.extend(octets);
    program
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn finds_connections_on_some_addresses_only() {
        let addresses = ["127.0.0.31", "127.0.0.32", "127.0.0.33", "::1"];
        let listeners = addresses.map(|ip| TcpListener::bind((ip, 0)).unwrap());
        let clients = listeners.each_ref().map(|listener| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.local_addr().unwrap()
        });
        // Their sockets are closed by now, and the other ends still open.
        let wanted = ["127.0.0.31", "127.0.0.33", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let found = on(&wanted).unwrap();
        for (listener, client) in listeners.iter().zip(clients) {
            let local = listener.local_addr().unwrap();
            let is_it = |connection: &&Connection| connection.local == local;
            let of_listener: Vec<_> = found.iter().filter(is_it).collect();
            if wanted.contains(&local.ip()) {
                let [one] = of_listener[..] else {
                    panic!("{local}: {found:?}")
                };
                assert_eq!((one.client, one.established), (client, false));
            } else {
                assert_eq!(of_listener, [] as [&Connection; 0]);
            }
        }
        let elsewhere = |connection: &Connection| !wanted.contains(&connection.local.ip());
        assert!(!found.iter().any(elsewhere), "{found:?}");
        assert_eq!(on(&[]).unwrap(), []);
    }

    #[test]
    fn an_ipv4_connection_of_a_socket_for_ipv6_is_one() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.34", port)).unwrap();
        let found = on(&["127.0.0.34".parse().unwrap()]).unwrap();
        let expected = Connection {
            client: client.local_addr().unwrap(),
            local: SocketAddr::from(([127, 0, 0, 34], port)),
            established: true,
        };
        assert!(found.contains(&expected), "{found:?}");
    }
}
