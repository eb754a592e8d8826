//! Connections whose director changes: it dies, comes back, is restarted, lets go.
#![expect(clippy::disallowed_methods, reason = "an outage is real time")]

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use balancer_tests::{Connection, Held, Lab, Server, Signal, WITHOUT_CPU, adding, until};
use serde_json::Value;

use crate::steering::{ipv4, ipv6};
use crate::udp::{resolvers, start_dns};

/// Bounds waits for what takes the time-out, or some reports.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a busy test machine adds to an answer's time, and clients' repetitions of what was lost meanwhile.
const SLACK: Duration = Duration::from_secs(4);

#[test]
fn connections_survive_the_death_of_their_directors_host() {
    survive_their_directors_host(ipv4);
}

#[test]
fn connections_over_ipv6_survive_the_death_of_their_directors_host() {
    survive_their_directors_host(ipv6);
}

fn survive_their_directors_host(address: fn(&Server) -> IpAddr) {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let address = address(lab.server(1));

    let (begun, seconds) = (Instant::now(), 10);
    let held = Held::open(&lab.client, address, 40, seconds);
    assert!(held.served_by("web2") > 5 && held.served_by("web3") > 5);
    lab.switch.run("ip", &["link", "set", "web1", "down"]);
    until("another one has it", PATIENCE, || {
        ["web2", "web3"].contains(&holder(lab.server(2), address).as_str())
    });
    // Longer than the grace: then what is still unknown is reset.
    held.finish_but("web1");
    assert!(begun.elapsed() < Duration::from_secs(seconds.into()) + SLACK);
    let of_both = [2, 3].map(|number| changes(lab.server(number))).concat();
    assert!(
        of_both.iter().any(|change| is_recovery(change, address)),
        "{of_both:#?}"
    );
}

#[test]
fn udp_flows_keep_their_servers_when_their_directors_host_dies() {
    let Some(mut lab) = Lab::new(3) else { return };
    let address = lab.server(1).address().into();
    let _daemons = start_dns(&mut lab, address, "native");
    let resolvers = resolvers(&lab, address, 40);
    let ask = || resolvers.iter().map(|one| one.who().unwrap());
    let names: Vec<_> = ask().collect();
    // From its second packet on a flow is known for what it is.
    assert!(ask().eq(names.iter().cloned()));
    assert!(names.iter().any(|name| name == "web2") && names.iter().any(|name| name == "web3"));

    lab.switch.run("ip", &["link", "set", "web1", "down"]);
    until("its flows are known", PATIENCE, || {
        let of_both = [2, 3].map(|number| changes(lab.server(number))).concat();
        of_both.iter().any(|change| is_recovery(change, address))
    });
    for (resolver, name) in resolvers.iter().zip(&names) {
        if name != "web1" {
            assert_eq!(resolver.who().unwrap(), *name);
        }
    }
}

/// As after a crash of the host's programs that lost their pins: connections that were silent meanwhile go on.
#[test]
fn a_restart_without_pins_breaks_no_steered_connection() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let busy = Held::open(&lab.client, lab.server(1).address(), 12, 3);
    let open = || Connection::open(&lab.client, lab.server(1).address()).expect("a connection");
    let mut connections: Vec<_> = (0..20).map(|_| open()).collect();
    let mut ask = || -> Vec<_> {
        let answers = connections.iter_mut().map(|one| one.get("/"));
        answers
            .map(|answer| answer.expect("an answer").server)
            .collect()
    };
    let servers = ask();
    assert!(servers.iter().any(|name| name != "web1"), "{servers:?}");
    busy.finish();
    assert_eq!(lab.server(1).ask(&["detach", "eth0"]).code, Some(0));
    lab.server_mut(1).wait_for_end();
    lab.server_mut(1)
        .attach(&["--config", &config, "--mode", "native"]);
    // At once: what isn't known yet is dropped, and sent again.
    assert_eq!(ask(), servers);
}

#[test]
fn a_hand_back_breaks_no_connection() {
    hand_back(|_| ());
}

/// A kernel that has asked for a peer's Ethernet address while nobody could answer asks again a second later: too late.
#[test]
fn a_hand_back_to_a_host_that_speaks_too_early_breaks_no_connection() {
    let known = hand_back(|lab| {
        let peers = [2, 3].map(|number| lab.server(number).address());
        lab.server(1).host.spawn(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                for peer in peers {
                    // Fails while there is no link.
                    let _ = socket.send_to(&[], (peer, 9));
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        thread::sleep(Duration::from_millis(100));
    });
    // Not all connections have the bad luck that it would be too late for them.
    assert!(known < Duration::from_millis(800), "{known:?}");
}

/// How long it takes until the home knows the flows on its identity, while it is disturbed.
fn hand_back(disturb: fn(&Lab)) -> Duration {
    let Some(mut lab) = Lab::new(3) else {
        return Duration::ZERO;
    };
    lab.start(WITHOUT_CPU, "native");
    let address = lab.server(1).address().into();
    lab.switch.run("ip", &["link", "set", "web1", "down"]);
    until("another one has it", PATIENCE, || {
        ["web2", "web3"].contains(&holder(lab.server(2), address).as_str())
    });
    let caretaker = holder(lab.server(2), address);
    let begun = Instant::now();
    let held = Held::open(&lab.client, address, 40, 6);
    assert!(held.served_by(&caretaker) > 5 && held.served_by(&caretaker) < 35);
    disturb(&lab);
    lab.switch.run("ip", &["link", "set", "web1", "up"]);
    until("its home has it", PATIENCE, || {
        (1..=3).all(|number| holder(lab.server(number), address) == "web1")
    });
    held.finish();
    assert!(begun.elapsed() < Duration::from_secs(6) + SLACK);
    let changes = changes(lab.server(1));
    let mut recovered = changes.iter().filter(|one| is_recovery(one, address));
    let time = recovered.next().and_then(|change| {
        let (_, time) = change.rsplit_once("known after ")?;
        time.trim_end_matches(" ms").parse().ok()
    });
    Duration::from_millis(time.unwrap_or_else(|| panic!("no recovery: {changes:#?}")))
}

/// Who gets an identity may have had it before, and remember where a port's connection went then. It is another one's by now.
#[test]
fn a_port_that_was_used_again_meanwhile_is_a_new_connection() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let address = lab.server(1).address().into();
    let open = |lab: &Lab| -> Vec<_> {
        let ports = 40_000..40_040;
        let connections = ports.map(|port| {
            let opened = Connection::open_from(&lab.client, port, address);
            let mut connection = opened.expect("a connection");
            let server = connection.get("/").expect("an answer").server;
            (connection, server)
        });
        connections.collect()
    };
    let change = |lab: &Lab, to: &str, done: fn(&str) -> bool| {
        lab.switch.run("ip", &["link", "set", "web1", to]);
        until("it has moved", PATIENCE, || {
            [2, 3]
                .iter()
                .all(|of| done(&holder(lab.server(*of), address)))
        });
    };
    let mut before = open(&lab);
    for to in ["down", "up", "down"] {
        // Asked all the while, but for what ends with its host.
        let ends = |server: &str| to == "down" && server == "web1";
        let (ended, lasting): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|(_, server)| ends(server));
        let asked: Vec<_> = lasting
            .into_iter()
            .map(|(mut connection, server)| {
                thread::spawn(move || {
                    let until = Instant::now() + Duration::from_secs(4);
                    while Instant::now() < until {
                        let answer = connection.get("/").map(|answer| answer.server);
                        assert_eq!(answer.expect("an answer"), server);
                        thread::sleep(Duration::from_millis(5));
                    }
                    connection
                })
            })
            .collect();
        change(
            &lab,
            to,
            if to == "up" {
                |who| who == "web1"
            } else {
                |who| who != "web1"
            },
        );
        let lasted: Vec<_> = asked.into_iter().map(|one| one.join().unwrap()).collect();
        let ended = ended.into_iter().map(|(connection, _)| connection);
        lasted.into_iter().chain(ended).for_each(Connection::abort);
        before = open(&lab);
    }
}

#[test]
fn a_hand_back_to_a_host_that_was_restarted_breaks_no_connection() {
    let Some(mut lab) = Lab::new(3) else { return };
    let config = lab.config(WITHOUT_CPU);
    let arguments = adding(&config, "10.77.0.201/24");
    lab.start(WITHOUT_CPU, "native");
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    lab.server_mut(1).attach(&arguments);
    lab.wait_for_peers();
    let address = "10.77.0.201".parse().unwrap();

    let begun = Instant::now();
    let before = Held::open(&lab.client, address, 40, 12);
    assert!(before.served_by("web2") > 5 && before.served_by("web3") > 5);
    // Nothing of it is left, neither its address nor its pins. Those that it served itself end.
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    until("another one has it", PATIENCE, || {
        ["web2", "web3"].contains(&holder(lab.server(2), address).as_str())
    });
    let during = Held::open(&lab.client, address, 40, 6);
    lab.server_mut(1).attach(&arguments);
    until("its home has it", PATIENCE, || {
        (1..=3).all(|number| holder(lab.server(number), address) == "web1")
    });
    during.finish();
    before.finish_but("web1");
    assert!(begun.elapsed() < Duration::from_secs(12) + SLACK);
}

/// A short time-out is over soon on a busy machine: the flows of a server that is late are waited for.
#[test]
fn connections_survive_a_goodbye_that_their_servers_daemon_sleeps_through() {
    let Some(mut lab) = Lab::new(3) else { return };
    let config = lab.config(&format!("[exchange]\nperiod = \"25ms\"\n{WITHOUT_CPU}"));
    let address: IpAddr = "10.77.0.201".parse().unwrap();
    for number in 2..=3 {
        lab.server_mut(number)
            .attach(&["--config", &config, "--mode", "native"]);
    }
    for late in [2, 3] {
        lab.server_mut(1).attach(&adding(&config, "10.77.0.201/24"));
        lab.wait_for_peers();
        let name = format!("web{late}");
        let open = || {
            let mut connection = Connection::open(&lab.client, address).expect("a connection");
            let server = connection.get("/").expect("an answer").server;
            (connection, server)
        };
        // A server that is late meanwhile gets none: there are enough sooner or later. Connections of others fill their servers.
        let mut all = Vec::new();
        until("it has some connections", PATIENCE, || {
            all.push(open());
            all.iter().filter(|(_, server)| *server == name).count() == 6
        });
        let (its, _others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, server)| *server == name);

        lab.server(late).signal_balancer(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(80));
        lab.server(1).signal_balancer(Signal::SIGTERM);
        let asked = its.into_iter().map(|(mut connection, _)| {
            thread::spawn(move || connection.get("/").map(|answer| answer.server))
        });
        let asked: Vec<_> = asked.collect();
        // Longer than its time-out, and over before the grace is, though the machine be busy.
        thread::sleep(Duration::from_millis(150));
        lab.server(late).signal_balancer(Signal::SIGCONT);
        for answer in asked {
            assert_eq!(answer.join().unwrap().expect("an answer"), name);
        }
        lab.server_mut(1).wait_for_end();
    }
}

/// Who has an address, as a server sees it.
fn holder(server: &Server, address: IpAddr) -> String {
    let status = server.status();
    let holders = status["holders"].as_array().expect("the holders");
    let is_it = |holder: &&Value| holder["address"] == address.to_string();
    let found = holders.iter().find(is_it);
    let name = found.and_then(|holder| holder["holder"].as_str());
    name.unwrap_or("nobody").to_owned()
}

fn is_recovery(change: &str, address: IpAddr) -> bool {
    change.starts_with(&format!("{address}: peers go on with "))
}

/// What a server says of the last changes.
fn changes(server: &Server) -> Vec<String> {
    let status = server.status();
    let changes = status["changes"].as_array().expect("the changes");
    let text = |change: &Value| change["text"].as_str().expect("a text").to_owned();
    changes.iter().map(text).collect()
}
