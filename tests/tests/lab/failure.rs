//! Daemons that are killed, hosts that die.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use balancer_tests::{Busy, Connection, Held, Lab, Signal, WITHOUT_CPU, until, until_some};

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
fn connections_survive_a_daemon_that_is_stopped_for_longer_than_the_time_out() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let url = format!("http://{}/", lab.server(1).address());
    let held = Held::open(&lab.client, lab.server(1).address(), 16, 10);
    for server in ["web1", "web2", "web3"] {
        assert!(held.served_by(server) > 0, "{server}");
    }
    // The one that steers, and one that serves what is steered.
    for (stopped, watcher) in [(1, 2), (2, 1)] {
        let name = format!("web{stopped}");
        lab.server(stopped).signal_balancer(Signal::SIGSTOP);
        until("it is missed", PATIENCE, || {
            lab.server(watcher).sees(&name).as_deref() == Some("silent")
        });
        thread::sleep(TIMEOUT);
        assert_eq!(lab.client.curl(&url, &[]).status, 200);
        lab.server(stopped).signal_balancer(Signal::SIGCONT);
        lab.wait_for_peers();
    }
    held.finish();
    for server in lab.servers() {
        let status = server.status();
        assert!(
            !status["changes"].to_string().contains("has it now"),
            "{status:#}"
        );
        assert_eq!(
            status["warnings"].as_array().map(Vec::len),
            Some(0),
            "{status:#}"
        );
    }
}

/// As a package manager does it: the new program's file takes the place of the old one's, and the service is restarted.
#[test]
fn an_upgrade_loses_no_connection() {
    let Some(mut lab) = Lab::new(3) else { return };
    let config = lab.config(WITHOUT_CPU);
    let arguments = ["--config", &config, "--mode", "native", "--persist"];
    for number in 1..=3 {
        lab.server_mut(number).attach(&arguments);
    }
    lab.wait_for_peers();
    let address = lab.server(1).address();
    let held = Held::open(&lab.client, address, 16, 10);
    assert!(held.served_by("web1") > 0 && held.served_by("web2") > 0);
    let client = Busy::new(&lab.client, move |go_on| {
        let mut servers = BTreeMap::new();
        while go_on() {
            let answer = Connection::from_here(address.into()).and_then(|mut new| new.get("/"));
            *servers
                .entry(answer.expect("an answer").server)
                .or_insert(0) += 1;
        }
        servers
    });
    for number in 1..=3 {
        let (pins, id) = (map_ids(&lab, number), lab.server(number).balancer_id());
        let server = lab.server_mut(number);
        server.replace_program();
        assert_eq!(server.end_balancer(Signal::SIGTERM).code(), Some(0));
        server.attach(&arguments);
        assert_ne!(server.balancer_id(), id);
        assert_eq!(map_ids(&lab, number), pins);
        lab.wait_for_peers();
    }
    let servers: BTreeMap<String, u32> = client.end();
    println!("new connections: {servers:?}");
    assert!(servers.len() > 1, "{servers:?}");
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
