//! The UDP socket of the exchange.

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for what comes in while the daemon is busy or suspended: several reports of each of 256 peers.
const RECEIVE_BUFFER: usize = 1 << 20;

/// More datagrams than fit [`RECEIVE_BUFFER`], which the kernel doubles and of which it books 768 bytes for the smallest.
pub(super) const MOST_WAITING: usize = 4_096;

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
}

/// Who hears this server's reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A multicast group; its port is this server's, too.
    Group(SocketAddr),
    /// Servers that are named one by one.
    Peers {
        /// This server's port.
        port: u16,
        /// Theirs, with their addresses.
        addresses: Vec<SocketAddr>,
    },
}

/// Why there is no exchange.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else has the port.
    #[error(
        "UDP port {0} is in use: perhaps another balancer runs in this network namespace. `ss -ulpn 'sport = {0}'` shows \
         who has it"
    )]
    PortInUse(u16),
    /// The group is none.
    #[error("{0} is not a multicast address: a group is in 239.255.0.0/16, ff02::/16 or ff05::/16")]
    NotMulticast(IpAddr),
    /// The interface doesn't do.
    #[error(
        "can't join the multicast group {group} on {interface}: {error}; is {interface} up, has it an address of that \
             family, and is it capable of multicast (`ip link show {interface}`)?"
    )]
    Join {
        /// The group.
        group: IpAddr,
        /// The interface's name.
        interface: String,
        /// What the system said.
        error: io::Error,
    },
    /// Something else.
    #[error("can't {action} the UDP socket of the exchange: {error}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A bound socket, a member of its group if it has one.
///
/// Not tokio's own: that one gives what waits only after the runtime has looked, and a daemon that was held up must read
/// before it judges. It also sends nothing before the runtime has looked for the first time.
#[derive(Debug)]
pub(super) struct Socket {
    udp: AsyncFd<UdpSocket>,
    interface: Interface,
    group: Option<IpAddr>,
    audience: Vec<SocketAddr>,
    is_v6: bool,
}

impl Socket {
    /// Needs a tokio runtime around it.
    pub fn open(interface: Interface, audience: Audience) -> Result<Self, SocketError> {
        let (port, group, audience) = match audience {
            Audience::Group(address) if !address.ip().is_multicast() => {
                return Err(SocketError::NotMulticast(address.ip()));
            }
            Audience::Group(address) => (
                address.port(),
                Some(address.ip()),
                vec![scoped(address, interface.index)],
            ),
            Audience::Peers { port, addresses } => (port, None, addresses),
        };
        let is_v6 = audience.iter().any(SocketAddr::is_ipv6);
        let raw = bind(port, is_v6, group.is_some())?;
        if let Some(group) = group {
            let joined = limit(&raw, group, interface.index)
                .and_then(|()| join(&raw, group, interface.index));
            joined.map_err(|error| SocketError::Join {
                group,
                interface: interface.name.clone(),
                error,
            })?;
        }
        // SAFETY: a UdpSocket has the same open descriptor until it is dropped.
        let udp = unsafe { AsyncFd::register_with_interest(raw.into(), Interest::READABLE) }
            .map_err(|error| system("register")(error.into()))?;
        Ok(Self {
            udp,
            interface,
            group,
            audience,
            is_v6,
        })
    }

    /// Where reports go.
    pub fn audience(&self) -> &[SocketAddr] {
        &self.audience
    }

    /// Returns when something has come in since the last call. All of it is to be read then: it isn't said twice.
    pub async fn readable(&self) {
        // Fails only where the runtime shuts down.
        if let Ok(mut guard) = self.udp.readable().await {
            guard.clear_ready();
        }
    }

    /// The next datagram that waits, as much of it as fits; [`io::ErrorKind::WouldBlock`] if none does.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, from) = self.udp.get_ref().recv_from(buffer)?;
        Ok((length, canonical(from)))
    }

    /// Sends, or fails, at once.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let to = if self.is_v6 { mapped(to) } else { to };
        self.udp.get_ref().send_to(datagram, to).map(drop)
    }

    /// Leaves the group and joins it again, so that a snooping switch that has missed or forgotten this member hears of
    /// it.
    pub fn renew(&self) -> io::Result<()> {
        let Some(group) = self.group else {
            return Ok(());
        };
        let raw = socket2::SockRef::from(self.udp.get_ref());
        // There is nothing to leave if the interface was away in between: then joining is what matters.
        let _ = leave(&raw, group, self.interface.index);
        join(&raw, group, self.interface.index)
    }
}

/// The port belongs to one socket: a second one, which `SO_REUSEADDR` would allow, takes some of the datagrams of the
/// first.
fn bind(port: u16, is_v6: bool, only_v6: bool) -> Result<RawSocket, SocketError> {
    let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
    let raw = RawSocket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(system("make"))?;
    raw.set_nonblocking(true).map_err(system("make"))?;
    // Beyond net.core.rmem_max for root, up to it for others.
    if setsockopt(&raw, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        raw.set_recv_buffer_size(RECEIVE_BUFFER)
            .map_err(system("set the receive buffer of"))?;
    }
    let any = if is_v6 {
        raw.set_only_v6(only_v6).map_err(system("make"))?;
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    match raw.bind(&SocketAddr::new(any, port).into()) {
        Ok(()) => Ok(raw),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(SocketError::PortInUse(port)),
        Err(error) => Err(system("bind")(error)),
    }
}

/// Keeps the group's datagrams on the link of `interface`, in both directions.
fn limit(raw: &RawSocket, group: IpAddr, interface: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(_) => {
            raw.set_multicast_all_v4(false)?;
            raw.set_multicast_loop_v4(false)?;
            raw.set_multicast_ttl_v4(1)?;
            set_multicast_interface_v4(raw, interface)
        }
        IpAddr::V6(_) => {
            raw.set_multicast_all_v6(false)?;
            raw.set_multicast_loop_v6(false)?;
            raw.set_multicast_hops_v6(1)?;
            raw.set_multicast_if_v6(interface)
        }
    }
}

fn join(raw: &RawSocket, group: IpAddr, interface: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => raw.join_multicast_v4_n(&group, &by_index(interface)),
        IpAddr::V6(group) => raw.join_multicast_v6(&group, interface),
    }
}

fn leave(raw: &RawSocket, group: IpAddr, interface: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => raw.leave_multicast_v4_n(&group, &by_index(interface)),
        IpAddr::V6(group) => raw.leave_multicast_v6(&group, interface),
    }
}

fn by_index(interface: u32) -> socket2::InterfaceIndexOrAddress {
    socket2::InterfaceIndexOrAddress::Index(interface)
}

/// `IP_MULTICAST_IF` by index (ip(7)): an address may be on several interfaces, and move.
fn set_multicast_interface_v4(raw: &RawSocket, interface: u32) -> io::Result<()> {
    let request = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: interface.cast_signed(),
    };
    // SAFETY: the option takes an ip_mreqn, and `request` is one that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            raw.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            (&raw const request).cast(),
            size_of_val(&request) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// IPv6 groups exist once per link, so their addresses name the interface.
fn scoped(address: SocketAddr, interface: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(mut v6) => {
            v6.set_scope_id(interface);
            v6.into()
        }
        v4 @ SocketAddr::V4(_) => v4,
    }
}

/// The form that an IPv4 address has on an IPv6 socket (RFC 4291, section 2.5.5.2).
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        v6 @ SocketAddr::V6(_) => v6,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
        IpAddr::V6(_) => address,
    }
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |error| SocketError::System { action, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lo() -> Interface {
        Interface {
            name: "lo".into(),
            index: 1,
        }
    }

    fn listed(port: u16, addresses: &[&str]) -> Audience {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        Audience::Peers { port, addresses }
    }

    #[tokio::test]
    async fn a_used_port_is_named() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Socket::open(lo(), listed(port, &[]))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("UDP port {port} is in use")),
            "{error}"
        );
        assert!(
            error.contains(&format!("`ss -ulpn 'sport = {port}'`")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_group_must_be_one() {
        let group = Audience::Group("10.0.0.1:9918".parse().unwrap());
        let error = Socket::open(lo(), group).unwrap_err().to_string();
        assert!(
            error.starts_with("10.0.0.1 is not a multicast address"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_interface_that_is_not_there_is_named() {
        let gone = Interface {
            name: "gone0".into(),
            index: 999_999,
        };
        for group in ["239.255.99.18:0", "[ff02::9918]:0"] {
            let error =
                Socket::open(gone.clone(), Audience::Group(group.parse().unwrap())).unwrap_err();
            assert!(
                matches!(&error, SocketError::Join { interface, .. } if interface == "gone0"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_membership_can_be_renewed_even_if_it_was_lost() {
        let group = "239.255.99.19".parse().unwrap();
        let socket = Socket::open(lo(), Audience::Group(SocketAddr::new(group, 0))).unwrap();
        let members = || std::fs::read_to_string("/proc/net/igmp").unwrap();
        let group_in_hex = "1363FFEF";
        assert!(members().contains(group_in_hex), "{}", members());
        socket.renew().unwrap();
        assert!(members().contains(group_in_hex), "{}", members());
        leave(&socket2::SockRef::from(socket.udp.get_ref()), group, 1).unwrap();
        assert!(!members().contains(group_in_hex), "{}", members());
        socket.renew().unwrap();
        assert!(members().contains(group_in_hex), "{}", members());
    }

    #[tokio::test]
    async fn a_list_may_mix_families() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = Socket::open(lo(), listed(0, &["127.0.0.1:9", "[::1]:9"])).unwrap();
        socket
            .send(receiver.local_addr().unwrap(), b"hello")
            .unwrap();
        let mut buffer = [0; 8];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");

        receiver.send_to(b"hello yourself", from).unwrap();
        socket.readable().await;
        assert_eq!(
            socket.receive(&mut buffer).unwrap(),
            (8, receiver.local_addr().unwrap())
        );
    }
}
