//! Links of a smaller MTU between the servers and the client.

use std::fs;
use std::time::Duration;

use balancer_tests::{Connection, Held, Lab, until};

use crate::steering::{ipv4, ipv6, noise};
use crate::tunnel::unicast;

/// So many connections at once overload a server with a capacity of 20.
const OVERLOAD: usize = 18;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_download_from_a_peer_learns_of_a_narrow_link_in_native_mode() {
    a_download_from_a_peer_learns_of_a_narrow_link("native");
}

#[test]
fn a_download_from_a_peer_learns_of_a_narrow_link_in_generic_mode() {
    a_download_from_a_peer_learns_of_a_narrow_link("generic");
}

/// What doesn't fit is said to the identity, which is web1's: the peer that sent it must hear of it. web2 is on web1's link, web3
/// behind a tunnel.
fn a_download_from_a_peer_learns_of_a_narrow_link(mode: &str) {
    let Some(mut lab) = Lab::routed(&[77, 77, 78]) else {
        return;
    };
    lab.start(&unicast(&lab, ipv4), mode);
    let page = noise(1_000_000);
    for server in lab.servers() {
        fs::write(server.dir().join("page"), &page).unwrap();
    }
    // On this side only: the client doesn't know, so its MSS is that of 1,500 bytes.
    let router = lab.router.as_ref().unwrap();
    router.run("ip", &["link", "set", "net79", "mtu", "1300"]);

    for address in [ipv4(lab.server(1)), ipv6(lab.server(1))] {
        let held = Held::open(&lab.client, address, OVERLOAD, 10);
        // They stay open, so that it's not the same peer each time.
        let mut downloads = Vec::new();
        until("both peers have served one", PATIENCE, || {
            let mut connection = Connection::open(&lab.client, address).unwrap();
            let answer = connection.get("/page").unwrap();
            assert!(answer.body == page, "the download differs");
            downloads.push((answer.server, connection));
            ["web2", "web3"]
                .iter()
                .all(|peer| downloads.iter().any(|(server, _)| server == peer))
        });
        held.finish();
    }
    let status = lab.server(1).status();
    let errors = &status["services"][0]["packets"]["steered_error"];
    // One from each peer in each family; a repetition may come of any.
    assert!(errors.as_u64().unwrap() >= 4, "{errors}");
    for peer in [2, 3] {
        let known = lab.server(peer).host.shell(&format!(
            "ip route get {}; ip route get {}",
            lab.client.address(),
            lab.client.address_v6()
        ));
        assert_eq!(known.matches(" mtu 1300").count(), 2, "web{peer}: {known}");
    }
}
