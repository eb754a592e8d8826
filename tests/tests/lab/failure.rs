//! Daemons that are killed, hosts that die.

use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use balancer_tests::{Connection, Held, Lab, Signal, WITHOUT_CPU, until, until_some};

use crate::host::similar;

/// After so much silence a peer is off-line.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Bounds waits for what takes the time-out, or some reports.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn connections_survive_the_death_of_the_director() {
    let Some(mut lab) = Lab::new(3) else { return };
    let before = lab.server(1).dump();
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let url = format!("http://{}/", lab.server(1).address());

    let held = Held::open(&lab.client, lab.server(1).address(), 16, 12);
    assert!(held.served_by("web2") > 0 && held.served_by("web3") > 0);
    let pins = map_ids(&lab, 1);
    lab.server_mut(1).end_balancer(Signal::SIGKILL);
    // Nobody tells the program of the peers any more, so that it keeps new ones.
    thread::sleep(TIMEOUT * 3);
    assert_eq!(lab.client.curl(&url, &[]).server, "web1");

    lab.server_mut(1)
        .attach(&["--config", &config, "--mode", "native"]);
    assert_eq!(map_ids(&lab, 1), pins);
    lab.wait_for_peers();
    assert!(
        lab.server(1).connections() >= 11,
        "{:#}",
        lab.server(1).status()
    );
    until("new ones are steered again", PATIENCE, || {
        lab.client.curl(&url, &[]).server != "web1"
    });
    held.finish();

    for number in [1, 2, 3] {
        assert_eq!(
            lab.server_mut(number).end_balancer(Signal::SIGTERM).code(),
            Some(0)
        );
    }
    similar(&lab.server(1).dump(), &before);
}

#[test]
fn connections_survive_the_death_of_a_guests_host() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let url = format!("http://{}/", lab.server(1).address());

    let held = Held::open(&lab.client, lab.server(1).address(), 16, 12);
    assert!(held.served_by("web2") > 0);
    let pins = map_ids(&lab, 2);
    lab.server_mut(2).end_balancer(Signal::SIGKILL);
    thread::sleep(TIMEOUT * 3);
    // Its host lives, and serves what it has. Nobody knows whether it can take more.
    assert_eq!(lab.server(1).sees("web2").as_deref(), Some("silent"));
    for _ in 0..20 {
        assert_ne!(lab.client.curl(&url, &[]).server, "web2");
    }
    until("web3 gets new ones", PATIENCE, || {
        lab.client.curl(&url, &[]).server == "web3"
    });

    lab.server_mut(2)
        .attach(&["--config", &config, "--mode", "native"]);
    assert_eq!(map_ids(&lab, 2), pins);
    lab.wait_for_peers();
    until("it gets new ones again", PATIENCE, || {
        lab.client.curl(&url, &[]).server == "web2"
    });
    held.finish();
}

#[test]
fn a_dead_host_gets_nothing_and_its_clients_know_soon() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let address = lab.server(1).address();
    let held = Held::open(&lab.client, address, 14, 12);

    // Connections that wait for their clients.
    let mut guests = until_some("some are steered to web2", PATIENCE, || {
        let mut connection = Connection::open(&lab.client, address).unwrap();
        (connection.get("/").unwrap().server == "web2").then_some(vec![connection])
    });
    for _ in 0..6 {
        let mut connection = Connection::open(&lab.client, address).unwrap();
        if connection.get("/").unwrap().server == "web2" {
            guests.push(connection);
        }
    }

    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    until("web2 is dead", PATIENCE, || {
        lab.server(1).sees("web2").as_deref() == Some("dead")
    });
    for mut guest in guests {
        let error = guest.get("/").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    for _ in 0..20 {
        let mut connection = Connection::open(&lab.client, address).unwrap();
        assert_ne!(connection.get("/").unwrap().server, "web2");
    }

    lab.switch.run("ip", &["link", "set", "web2", "up"]);
    lab.wait_for_peers();
    drop(held);
}

fn map_ids(lab: &Lab, number: usize) -> String {
    let server = lab.server(number);
    let dir = server.pin_dir();
    server.host.shell(&format!(
        "for map in {}/[A-Z]*; do bpftool map show pinned $map | head -n 1; done",
        dir.display()
    ))
}
