//! Connections in the kernel's socket table.

use std::fs;

use anyhow::{Context as _, Result};

/// How many connections are open on each of `services`, which are told apart by `service_of` (the service that has a local
/// port). For use now and then: the kernel writes out its whole table for it.
pub fn established(services: usize, service_of: impl Fn(u16) -> Option<usize>) -> Result<Vec<u64>> {
    let mut counts = vec![0; services];
    for table in ["tcp", "tcp6"] {
        // The thread's network namespace, not the process' first one.
        let path = format!("/proc/thread-self/net/{table}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(_) if table == "tcp6" => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        for port in text.lines().skip(1).filter_map(open_port) {
            if let Some(count) = service_of(port).and_then(|service| counts.get_mut(service)) {
                *count += 1;
            }
        }
    }
    Ok(counts)
}

/// The local port of a line of /proc/net/tcp, if its connection is open: its handshake done, its socket not closed.
fn open_port(line: &str) -> Option<u16> {
    const SYN_SENT: u8 = 2;
    const SYN_RECV: u8 = 3;
    const FIN_WAIT_2: u8 = 5;
    const TIME_WAIT: u8 = 6;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    const NEW_SYN_RECV: u8 = 12;
    let mut fields = line.split_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    // A connection that this host closed first and has no socket any more waits for the other end in a stub.
    let stub = state == FIN_WAIT_2 && fields.nth(5)? == "0";
    let open = !stub
        && !matches!(
            state,
            SYN_SENT | SYN_RECV | TIME_WAIT | CLOSE | LISTEN | NEW_SYN_RECV
        );
    open.then(|| u16::from_str_radix(port, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

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
        assert_eq!(open_port(&line("01")), Some(80));
        assert_eq!(open_port(&line("08")), Some(80));
        for state in ["02", "03", "06", "07", "0A", "0C", "zz"] {
            assert_eq!(open_port(&line(state)), None, "{state}");
        }
        assert_eq!(open_port("garbage"), None);
    }
}
