//! A flow that the local stack has begun with stays, whatever the loads are now.

use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::{fs, io};

use crate::frame::{
    CLIENT, CLIENT_V6, FIRST, FIRST_V6, IDENTITY, IDENTITY_V6, OUR_MAC, ROUTER_MAC, Segment,
};
use crate::server::{Server, WWW};

#[test]
fn a_half_finished_connection_is_kept() {
    kept(FIRST, IDENTITY.into(), "tcp");
}

#[test]
fn a_half_finished_connection_over_ipv6_is_kept() {
    kept(FIRST_V6, IDENTITY_V6.into(), "tcp6");
}

/// `table`: the file of the kernel's where the connection stands.
fn kept(first: Segment, identity: IpAddr, table: &str) {
    let Some(mut server) = Server::new() else {
        return;
    };
    server.add_peer(0);
    let router = link_to_router();
    let _listener = TcpListener::bind((identity, 80)).unwrap();

    server.admits(&first, "kept_below_level");
    send(&router, &first.frame());
    wait_for_request(table);

    server.set_own_load(9_000);
    server.passes(&first.frame(), Some(WWW), "kept_repeated");
    server.passes(&first.frame(), Some(WWW), "kept_repeated");
    // That somebody listens keeps no other flow.
    server.steers(&first.numbered(1), 0, "steered_new");
}

/// Gives this network namespace an interface with the identities, and a router at its other end that answers nothing. Returns a
/// socket at the router's end.
fn link_to_router() -> OwnedFd {
    let (ours, routers) = (text(OUR_MAC), text(ROUTER_MAC));
    let (client, client_v6) = (CLIENT.ip(), CLIENT_V6.ip());
    for arguments in [
        format!("link add eth0 address {ours} type veth peer name router address {routers}"),
        format!("address add {IDENTITY}/24 dev eth0"),
        format!("address add {IDENTITY_V6}/64 dev eth0 nodad"),
        "link set eth0 up".into(),
        "link set router up".into(),
        format!("route add {client} via 10.0.0.1 dev eth0"),
        format!("neighbour add 10.0.0.1 lladdr {routers} dev eth0"),
        format!("route add {client_v6} via 2001:db8::1 dev eth0"),
        format!("neighbour add 2001:db8::1 lladdr {routers} dev eth0"),
    ] {
        let status = Command::new("ip")
            .args(arguments.split(' '))
            .status()
            .unwrap();
        assert!(status.success(), "ip {arguments}");
    }
    packet_socket("router").unwrap()
}

fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: nix::net::if_::if_nametoindex(interface)?.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is as long as is said.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    if result == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn send(socket: &OwnedFd, frame: &[u8]) {
    assert_eq!(nix::unistd::write(socket, frame), Ok(frame.len()));
}

/// Waits until the stack has a request in state SYN-RECEIVED.
fn wait_for_request(table: &str) {
    const SYN_RECV: &str = "03";
    for _ in 0..200 {
        // Of this thread's network namespace, where /proc/net may be another thread's.
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        if table
            .lines()
            .any(|line| line.split_whitespace().nth(3) == Some(SYN_RECV))
        {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the listener got no SYN");
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
