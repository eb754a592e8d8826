//! Peers behind a router.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use balancer_tests::{Connection, Held, Lab, Server, WITHOUT_CPU, until, until_some};
use serde_json::Value;

use crate::steering::{ipv4, ipv6, noise};

/// So many connections at once overload a server with a capacity of 20.
const OVERLOAD: usize = 14;

/// Bounds waits for what takes some reports.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_peer_behind_a_router_answers_in_native_mode() {
    a_peer_behind_a_router_answers("native");
}

#[test]
fn a_peer_behind_a_router_answers_in_generic_mode() {
    a_peer_behind_a_router_answers("generic");
}

fn a_peer_behind_a_router_answers(mode: &str) {
    let Some(mut lab) = Lab::routed(&[77, 78]) else {
        return;
    };
    lab.start(&unicast(&lab, ipv4), mode);
    let peer = &lab.server(1).status()["peers"][0];
    assert_eq!(peer["way"]["tunnel"], lab.server(2).address().to_string());
    for address in [ipv4(lab.server(1)), ipv6(lab.server(1))] {
        serves_and_carries(&lab, address, 28);
    }
}

/// Without IPv4 the tunnel is IPv6's, too.
#[test]
fn a_peer_behind_a_router_answers_through_a_tunnel_over_ipv6() {
    let Some(mut lab) = Lab::routed(&[77, 78]) else {
        return;
    };
    for server in lab.servers() {
        server.host.shell("ip -4 address flush dev eth0");
    }
    lab.start(&unicast(&lab, ipv6), "native");
    serves_and_carries(&lab, ipv6(lab.server(1)), 48);
}

/// web1 steers what comes to `address` to web2 through a tunnel that takes `overhead` bytes of each packet, and all of it
/// arrives.
fn serves_and_carries(lab: &Lab, address: IpAddr, overhead: u64) {
    let (download, upload) = (noise(5_000_000), noise(1_000_000));
    fs::write(lab.server(2).dir().join("page"), &download).unwrap();
    let held = Held::open(&lab.client, address, OVERLOAD, 10);
    let here = held.served_by("web1");
    assert!(
        (1..OVERLOAD).contains(&here),
        "web1 serves {here}: {:#}",
        lab.server(1).status()
    );
    assert_eq!(
        held.served_by("web2"),
        lab.server(2).connections() as usize,
        "its own connections"
    );

    let too_big = count(lab.server(1), "too_big");
    let mut connection = steered(lab, address);
    let answer = connection.get("/page").unwrap();
    assert!(answer.body == download, "the download differs");
    assert_eq!(
        count(lab.server(1), "too_big"),
        too_big,
        "only requests are in the tunnel"
    );
    // Packets of 1,500 bytes that must not be fragmented: too big, which their sender is told.
    let answer = connection.post("/upload", &upload).unwrap();
    assert_eq!(
        (answer.server.as_str(), answer.body.as_slice()),
        ("web2", &b"stored"[..])
    );
    let stored = fs::read_dir(lab.server(2).dir().join("uploads")).unwrap();
    let stored: Vec<_> = stored.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(stored.len(), 1);
    assert!(
        fs::read(&stored[0]).unwrap() == upload,
        "the upload differs"
    );
    fs::remove_file(&stored[0]).unwrap();
    assert!(count(lab.server(1), "too_big") > too_big);
    let route = lab
        .client
        .run("ip", &["route", "get", &address.to_string()]);
    assert!(
        route.contains(&format!(" mtu {} ", 1500 - overhead)),
        "{route}"
    );
    held.finish();
    drop(connection);
    until("no connection is left", PATIENCE, || {
        lab.servers().iter().all(|server| server.connections() == 0)
    });
}

#[test]
fn forged_tunnel_packets_are_dropped() {
    let Some(mut lab) = Lab::routed(&[77, 78]) else {
        return;
    };
    lab.start(&unicast(&lab, ipv4), "native");
    let inside = [
        // An IPv4 packet with a SYN to web1's port 80, and an IPv6 header.
        vec![
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 79, 0, 1, 10, 77, 0, 101, 0x9c, 0x40,
            0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
        ],
        [&[0x60, 0, 0, 0, 0, 0, 6, 64][..], &[0; 32]].concat(),
        vec![],
        b"no packet at all".to_vec(),
    ];
    for server in lab.servers() {
        for address in [ipv4(server), ipv6(server)] {
            lab.client.enter(|| {
                let any: IpAddr = if address.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0; 16].into()
                };
                let socket = UdpSocket::bind((any, 0)).unwrap();
                for packet in &inside {
                    socket.send_to(packet, (address, 6080)).unwrap();
                }
            });
        }
        until("all are counted", PATIENCE, || {
            server.status()["packets"]["tunnel_spoofed"] == 2 * inside.len()
        });
        let status = server.status();
        let guests = &status["services"][0]["packets"]["guest"];
        assert_eq!((guests, server.connections()), (&Value::from(0), 0));
    }
}

#[test]
fn a_tunnel_outlives_the_router() {
    let Some(mut lab) = Lab::routed(&[77, 78]) else {
        return;
    };
    lab.start(&unicast(&lab, ipv4), "native");
    let router = lab.router.as_ref().unwrap();
    let held = Held::open(&lab.client, ipv4(lab.server(1)), OVERLOAD, 16);
    let mut connection = steered(&lab, ipv4(lab.server(1)));

    // Another box in its place, which announces its Ethernet addresses as routers do.
    router.shell(
        "for net in 77 78; do
             sysctl -qw net.ipv4.conf.net$net.arp_notify=1 net.ipv6.conf.net$net.ndisc_notify=1
             ip link set net$net address 02:00:00:00:00:$net
         done",
    );
    until("the new router is found", Duration::from_secs(5), || {
        lab.server(1).status()["peers"][0]["way"]["mac"] == "02:00:00:00:00:77"
    });
    assert_eq!(connection.get("/").unwrap().server, "web2");
    // One that restarts slowly: what flows is repeated, and nobody takes anybody for dead.
    router.shell("ip link set net77 down; ip link set net78 down; sleep 3; ip link set net77 up; ip link set net78 up");
    assert_eq!(connection.get("/").unwrap().server, "web2");
    held.finish();
    lab.wait_for_peers();
}

/// A connection to `address` that web2 has.
fn steered(lab: &Lab, address: IpAddr) -> Connection {
    until_some("a connection is steered to web2", PATIENCE, || {
        let mut connection = Connection::open(&lab.client, address).unwrap();
        (connection.get("/").unwrap().server == "web2").then_some(connection)
    })
}

/// The configuration of servers that no multicast joins.
pub fn unicast(lab: &Lab, address: fn(&Server) -> IpAddr) -> String {
    let peers: Vec<_> = lab
        .servers()
        .iter()
        .map(|server| format!("\"{}\"", std::net::SocketAddr::new(address(server), 9918)))
        .collect();
    format!(
        "[exchange]\npeers = [{}]\n\n{WITHOUT_CPU}",
        peers.join(", ")
    )
}

/// A counter of the packets of a server's service.
fn count(server: &Server, counter: &str) -> u64 {
    server.status()["services"][0]["packets"][counter]
        .as_u64()
        .unwrap_or_else(|| panic!("no counter {counter}"))
}
