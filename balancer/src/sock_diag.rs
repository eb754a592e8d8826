//! The kernel's table of TCP sockets, asked by netlink (`sock_diag(7)`).

use std::io;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// `INET_DIAG_REQ_BYTECODE` of `linux/inet_diag.h`.
const FILTER: u16 = 1;

/// Length of a netlink attribute's header.
const ATTRIBUTE: usize = 4;

/// The sockets of the network namespace that it was opened in. After a failure answers may still be in it: open another one.
pub struct SocketTable {
    netlink: Socket,
    request: Vec<u8>,
}

impl SocketTable {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let netlink = open().context("cannot ask the kernel for its sockets (sock_diag)")?;
        Ok(Self {
            netlink,
            request: Vec::new(),
        })
    }

    /// Visits all sockets of an address family that are in one of `states`, with `extensions`. `filter` is a program of
    /// `linux/inet_diag.h` that the kernel runs on each; an empty one lets all pass. A kernel without IPv6 has none of it.
    pub fn each(
        &mut self,
        family: u8,
        states: StateFlags,
        extensions: ExtensionFlags,
        filter: &[u8],
        mut visit: impl FnMut(InetResponse),
    ) -> Result<()> {
        let id = if family == AF_INET {
            SocketId::new_v4()
        } else {
            SocketId::new_v6()
        };
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions,
            states,
            socket_id: id,
        };
        self.write(request, filter);
        self.netlink
            .send(&self.request, 0)
            .context("cannot ask the kernel for its sockets")?;
        loop {
            let (answer, _) = self
                .netlink
                .recv_from_full()
                .context("the kernel doesn't tell of its sockets")?;
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .context("the kernel tells of its sockets in another way than expected")?;
                match message.payload {
                    NetlinkPayload::Done(done) => return ended(family, done.code),
                    NetlinkPayload::Error(error) => return ended(family, error.raw_code()),
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                        visit(*socket);
                    }
                    _ => {}
                }
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }

    fn write(&mut self, request: InetRequest, filter: &[u8]) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut length = message.buffer_len();
        self.request.clear();
        self.request.resize(length, 0);
        message.serialize(&mut self.request);
        if !filter.is_empty() {
            let attribute = ATTRIBUTE + filter.len();
            self.request
                .extend_from_slice(&(attribute as u16).to_ne_bytes());
            self.request.extend_from_slice(&FILTER.to_ne_bytes());
            self.request.extend_from_slice(filter);
            length += attribute;
            self.request[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        }
    }
}

/// What the end of an answer says. Where nobody answers for IPv6 the kernel hasn't got it; any other failure leaves open which
/// sockets there are, also of IPv4: a socket for IPv6 may have such connections.
fn ended(family: u8, code: i32) -> Result<()> {
    let unsupported = [libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
    if code == 0 || family == AF_INET6 && unsupported.contains(&-code) {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(-code);
    bail!("the kernel doesn't tell of its sockets: {error}")
}

fn open() -> io::Result<Socket> {
    let mut netlink = Socket::new(NETLINK_SOCK_DIAG)?;
    netlink.bind_auto()?;
    netlink.connect(&SocketAddr::new(0, 0))?;
    Ok(netlink)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_without_ipv6_has_no_such_sockets() {
        assert!(ended(AF_INET, 0).is_ok());
        for unsupported in [libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP] {
            assert!(ended(AF_INET6, -unsupported).is_ok());
            assert!(ended(AF_INET, -unsupported).is_err());
        }
        for failed in [libc::ENOMEM, libc::ENOBUFS, libc::EINTR, libc::EINVAL] {
            assert!(ended(AF_INET6, -failed).is_err());
        }
    }
}
