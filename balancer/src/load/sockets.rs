//! Connections in the kernel's socket table.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};

/// How many connections are open on each of `services`, which are told apart by `service_of` (the service that has a local
/// port). For use now and then: the kernel writes out its whole table for it.
pub fn established(services: usize, service_of: impl Fn(u16) -> Option<usize>) -> Result<Vec<u64>> {
    let mut counts = vec![0; services];
    each_open(|local| {
        if let Some(count) = service_of(local.port()).and_then(|service| counts.get_mut(service)) {
            *count += 1;
        }
    })?;
    Ok(counts)
}

/// Visits this host's end of each open TCP connection. For use now and then, as [`established`].
pub fn each_open(mut visit: impl FnMut(SocketAddr)) -> Result<()> {
    for table in ["tcp", "tcp6"] {
        // The thread's network namespace, not the process' first one.
        let path = format!("/proc/thread-self/net/{table}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(_) if table == "tcp6" => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        text.lines().skip(1).filter_map(open).for_each(&mut visit);
    }
    Ok(())
}

/// The local end in a line of /proc/net/tcp, if its connection is open: its handshake done, its socket not closed.
fn open(line: &str) -> Option<SocketAddr> {
    const SYN_SENT: u8 = 2;
    const SYN_RECV: u8 = 3;
    const FIN_WAIT_2: u8 = 5;
    const TIME_WAIT: u8 = 6;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    const NEW_SYN_RECV: u8 = 12;
    let mut fields = line.split_whitespace();
    let (ip, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    // A connection that this host closed first and has no socket any more waits for the other end in a stub.
    let stub = state == FIN_WAIT_2 && fields.nth(5)? == "0";
    let open = !stub
        && !matches!(
            state,
            SYN_SENT | SYN_RECV | TIME_WAIT | CLOSE | LISTEN | NEW_SYN_RECV
        );
    let port = u16::from_str_radix(port, 16).ok()?;
    open.then(|| Some(SocketAddr::new(address(ip)?, port)))
        .flatten()
}

/// An address as the kernel prints it: words of network byte order as if they were of its own. An IPv4 one that a socket
/// for IPv6 has is that.
fn address(hex: &str) -> Option<IpAddr> {
    let mut octets = [0; 16];
    let words = hex.len() / 8;
    if !hex.is_ascii() || !matches!(hex.len(), 8 | 32) {
        return None;
    }
    for (index, word) in octets.chunks_exact_mut(4).take(words).enumerate() {
        let number = u32::from_str_radix(&hex[index * 8..][..8], 16).ok()?;
        word.copy_from_slice(&number.to_ne_bytes());
    }
    Some(match octets {
        [a, b, c, d, ..] if words == 1 => IpAddr::from([a, b, c, d]),
        octets => IpAddr::from(octets).to_canonical(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream};

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
        let _clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).expect("a connection"))
            .collect();
        // Accepted ones and those that wait to be are the same to the kernel.
        let _accepted = listener.accept().expect("a connection");
        assert_eq!(count(), 3);
    }

    #[test]
    fn skips_what_is_no_connection() {
        let line =
            |state| format!("   0: 0100007F:0050 00000000:0000 {state} 00000000:00000000 00:0 0 0");
        let here = |text: &str| Some(text.parse().expect("an end"));
        assert_eq!(open(&line("01")), here("127.0.0.1:80"));
        assert_eq!(open(&line("08")), here("127.0.0.1:80"));
        for state in ["02", "03", "06", "07", "0A", "0C", "zz"] {
            assert_eq!(open(&line(state)), None, "{state}");
        }
        assert_eq!(open("garbage"), None);
    }

    #[test]
    fn reads_addresses_of_both_families() {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port");
        let end = listener.local_addr().expect("its address");
        let _client = TcpStream::connect(end).expect("a connection");
        let mut found = 0;
        each_open(|local| found += u32::from(local == end)).expect("the socket table");
        assert_eq!(found, 1);
        // As it looks on a little-endian machine.
        if cfg!(target_endian = "little") {
            assert_eq!(address("0100007F"), "127.0.0.1".parse().ok());
            let mapped = "0000000000000000FFFF00000100007F";
            assert_eq!(address(mapped), "127.0.0.1".parse().ok());
        }
        for bad in ["", "0100007", "0100007F00", "0100007G", "é00007F"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
