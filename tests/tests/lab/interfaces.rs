//! One balancer on two links: a flow that comes in by one goes to a peer on the other.

use std::time::Duration;

use balancer_tests::{Held, Host, Lab, WITHOUT_CPU, until};

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
    lab.switch.shell(
        "ip link add bridge2 type bridge stp_state 0 mcast_snooping 0; ip link set bridge2 up",
    );
    plug(&lab.switch, &lab.client, "10.78.0.1");
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
