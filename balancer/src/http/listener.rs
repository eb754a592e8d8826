//! The listening sockets: one for each port and worker.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::handoff::kernel::{self, SetSockOpt as _};
use super::site::Service;

/// Connections that may wait to be taken; the kernel has a limit of its own (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// How long a connection is silent before its client is asked whether it is there, and from one such question to the next.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Sockets of all addresses for `port`, among which the kernel spreads new connections.
///
/// # Errors
///
/// Somebody else has the port.
pub fn bind(port: u16, count: usize, service: &Service) -> Result<Vec<TcpListener>> {
    let cannot = |error: io::Error| {
        if error.kind() != io::ErrorKind::AddrInUse {
            return anyhow!(error).context(format!("cannot listen on port {port}"));
        }
        anyhow!(
            "port {port} is taken (`ss -ltnp 'sport = :{port}'` says by whom). balancer listens there itself for the [[http]] of \
             {}: let the web server listen on {} alone, where balancer expects it",
            service.name,
            service.site().http.backend
        )
    };
    // A web server of this user that shares the port would get some of the connections: see that nobody has it.
    drop(open(port, false).map_err(cannot)?);
    (0..count)
        .map(|_| open(port, true).map_err(cannot))
        .collect::<Result<_>>()
        .with_context(|| format!("service {}", service.name))
}

/// Sets what all connections of clients have. Without the first, an answer's last piece may wait for an acknowledgement; the
/// others find clients that are gone, behind a WebSocket, say.
pub fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE),
    )
}

fn open(port: u16, shared: bool) -> io::Result<TcpListener> {
    let bind = |domain, address: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        // Connections of a daemon before this one may not be quite over.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        // What connections get from their listener costs none of them a system call.
        prepare(&socket)?;
        // How a connection's first packet came tells whether it can move. Where the kernel can't (before 5.10), none moves.
        let _ = kernel::TcpSaveSyn.set(&socket, &kernel::FROM_ETHERNET);
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    match bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_nobody_else_does() {
        let first = open(0, true).unwrap();
        let port = first.local_addr().unwrap().port();
        assert!(open(port, true).is_ok());
        let error = open(port, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
