//! Servers on two links: a flow that comes in by one goes to a peer on the other, and a link that balancer isn't attached to
//! hears nothing of it.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use balancer_tests::{Held, Host, Lab, Signal, WITHOUT_CPU, until};

use crate::host::similar;

/// The client on the second link.
const ASKS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

#[test]
fn peers_on_both_links_in_native_mode() {
    peers_on_both_links("native");
}

#[test]
fn peers_on_both_links_in_generic_mode() {
    peers_on_both_links("generic");
}

fn peers_on_both_links(mode: &str) {
    let Some(mut lab) = Lab::new(3) else { return };
    second_link(&lab);
    // The first is on both links, of the others each is on one, and the client may be on the other.
    plug(&lab.switch, &lab.server(1).host, "10.78.0.101");
    let second = &lab.server(2).host;
    second.shell("ip link set eth0 down");
    plug(&lab.switch, second, "10.78.0.102");
    second.shell("ip route add default via 10.78.0.1");
    let third = &lab.server(3).host;
    third.shell("ip route add default via 10.77.0.1");
    let servers: [(&[&str], &str); 3] = [
        (
            &["eth0", "eth1"],
            "\"10.78.0.102:9918\", \"10.77.0.103:9918\"",
        ),
        (&["eth1"], "\"10.78.0.101:9918\""),
        (&["eth0"], "\"10.77.0.101:9918\""),
    ];
    for (number, (interfaces, peers)) in (1..).zip(servers) {
        let config = lab.config(&format!("{WITHOUT_CPU}\n[exchange]\npeers = [{peers}]\n"));
        let arguments = [interfaces, &["--config", &config, "--mode", mode]].concat();
        lab.server_mut(number).attach(&arguments);
    }
    for (number, peers) in [(1, 2), (2, 1), (3, 1)] {
        lab.server(number).wait_for_peers(peers);
    }
    for (link, address) in [(1, [10, 77, 0, 101]), (2, [10, 78, 0, 101])] {
        let load = Held::open(&lab.client, address, 14, 6);
        let rest = Held::open(&lab.client, address, 24, 3);
        for peer in ["web2", "web3"] {
            assert!(rest.served_by(peer) > 0, "link {link}: {peer} has none");
        }
        rest.finish();
        load.finish();
        until("web1 is idle again", Duration::from_secs(5), || {
            lab.server(1).connections() == 0
        });
    }
}

/// The director's, and that of one who is steered to: their clients and peers go on without noticing.
#[test]
fn ethernet_addresses_that_change_are_followed() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let first = Held::open(&lab.client, lab.server(1).address(), 14, 12);
    assert!(first.served_by("web2") > 0 && first.served_by("web3") > 0);
    for number in [1, 2] {
        let change = format!("ip link set eth0 address 02:00:00:00:77:0{number}");
        lab.server(number).host.shell(&change);
    }
    for (watcher, number) in [(1, 2), (3, 2), (3, 1), (2, 1)] {
        until("peers know the new address", Duration::from_secs(5), || {
            let peers = lab.server(watcher).json(&["peers"]);
            let mut peers = peers.as_array().unwrap().iter();
            peers.any(|peer| {
                peer["name"] == format!("web{number}")
                    && peer["way"]["mac"] == format!("02:00:00:00:77:0{number}")
            })
        });
    }
    let second = Held::open(&lab.client, lab.server(1).address(), 24, 4);
    for peer in ["web2", "web3"] {
        assert!(second.served_by(peer) > 0, "{peer} has none");
    }
    second.finish();
    first.finish();
    let text = lab.server(1).ask(&["status"]).output;
    let said = "eth0 has the Ethernet address 02:00:00:00:77:01 now";
    assert!(text.contains(said), "{text}");
}

#[test]
fn other_links_are_told_nothing() {
    let Some(mut lab) = Lab::new(2) else { return };
    second_link(&lab);
    let foreign = lab.server(2).address();
    plug(&lab.switch, &lab.server(1).host, "10.78.0.101");
    for route_localnet in [false, true] {
        let set = format!(
            "sysctl -qw net.ipv4.conf.all.route_localnet={}",
            u8::from(route_localnet)
        );
        lab.server(1).host.shell(&set);
        let before = lab.server(1).dump();
        lab.start(WITHOUT_CPU, "generic");
        let server = &lab.server(1).host;
        until(
            "it takes flows for its peer",
            Duration::from_secs(5),
            || server.network().contains("10.77.0.102/32"),
        );
        assert!(answered(&lab.client, [10, 78, 0, 101].into()));
        assert!(
            !answered(&lab.client, foreign),
            "route_localnet {route_localnet}"
        );
        // Where possible, it goes on to answer for its own address on the first link.
        assert_eq!(answered(&lab.client, server.address()), !route_localnet);

        // An answer to a client there: who asks for it by ARP says who he is.
        lab.client.shell("ip neighbour flush dev eth1");
        server.shell("ip neighbour flush dev eth1");
        send(server, foreign, ASKS);
        assert!(knows(server, ASKS));
        assert!(
            !knows(&lab.client, foreign),
            "route_localnet {route_localnet}"
        );
        for number in [1, 2] {
            lab.server_mut(number).end_balancer(Signal::SIGTERM);
        }
        similar(&lab.server(1).dump(), &before);
    }
}

/// Whether somebody on the second link answers for `address`.
fn answered(client: &Host, address: Ipv4Addr) -> bool {
    client.shell(&format!(
        "ip neighbour flush dev eth1; ip route replace {address}/32 dev eth1"
    ));
    send(client, ASKS, address);
    knows(client, address)
}

/// Sends a datagram that nobody waits for, and gives ARP a moment.
fn send(host: &Host, from: Ipv4Addr, to: Ipv4Addr) {
    host.enter(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.send_to(&[], (to, 9)).unwrap();
    });
    thread::sleep(Duration::from_millis(300));
}

/// Whether the host has an Ethernet address for `address` on the second link.
fn knows(host: &Host, address: Ipv4Addr) -> bool {
    let known = format!("ip neighbour show {address} dev eth1");
    host.shell(&known).contains("lladdr")
}

fn second_link(lab: &Lab) {
    lab.switch.shell(
        "ip link add bridge2 type bridge stp_state 0 mcast_snooping 0; ip link set bridge2 up",
    );
    plug(&lab.switch, &lab.client, "10.78.0.1");
}

/// Makes `eth1` of a host, on the second link.
fn plug(switch: &Host, host: &Host, address: &str) {
    let (label, namespace) = (host.label(), host.namespace());
    switch.shell(&format!(
        "ip link add {label}-2 type veth peer name eth1 netns {namespace}
         ethtool -K {label}-2 gro on tx off >/dev/null
         ip link set {label}-2 master bridge2 up"
    ));
    host.shell(&format!(
        "ethtool -K eth1 tx off >/dev/null
         ip address add {address}/24 dev eth1
         ip link set eth1 up"
    ));
}
