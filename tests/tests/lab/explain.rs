//! What balancer says of its decisions is what happens; what it keeps in the kernel can be read.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use balancer_tests::{Connection, Held, Lab, Server, WITHOUT_CPU, until, until_some};
use serde_json::Value;

/// New connections that are explained in each state of load.
const TRIALS: u16 = 24;

/// With reports so seldom that most trials come between two, also on a busy machine.
const SELDOM: &str = "[exchange]\nperiod = \"2s\"\n\n";

#[test]
fn explanations_come_true() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(&format!("{SELDOM}{WITHOUT_CPU}"), "native");
    let address = lab.server(1).address();

    // Idle.
    assert_eq!(try_all(&lab, 20_000), reasons(&["kept_below_level"]));
    // Above the level, and the peers far below.
    let _some = Held::open(&lab.client, address, 14, 60);
    assert!(try_all(&lab, 21_000).contains("steered_new"));
    // Above the level, and the peers as well: once they have said that they are rid of what the trials brought them.
    let before = reports(lab.server(1));
    until(
        "each peer has reported twice",
        Duration::from_secs(20),
        || reports(lab.server(1)) >= before + 4,
    );
    let _more = Held::open(&lab.client, address, 29, 60);
    assert!(try_all(&lab, 22_000).contains("kept_no_candidate"));
}

#[test]
fn explanations_come_true_where_the_service_is_down() {
    let Some(mut lab) = Lab::new(3) else { return };
    // Not in the other test: a check's connection is part of the load for a moment.
    let check =
        "check = { tcp = \"127.0.0.1:80\", every = \"100ms\", timeout = \"100ms\", fall = 2 }";
    lab.start(&format!("{SELDOM}{WITHOUT_CPU}{check}\n"), "native");
    lab.server_mut(1).end_nginx();
    until("web1 is down", Duration::from_secs(5), || {
        lab.server(1).status()["services"][0]["healthy"] == false
    });
    assert_eq!(try_all(&lab, 23_000), reasons(&["steered_not_ready"]));
}

#[test]
fn flows_over_ipv6_are_explained() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let server = lab.server(1);
    let client = format!("[{}]:20000", lab.client.address_v6());
    let identity = |number: usize| format!("[{}]:80", lab.server(number).host.address_v6());
    for (number, reason) in [(1, "kept_below_level"), (2, "guest")] {
        let explanation = server.json(&["explain", &client, &identity(number)]);
        assert_eq!(explanation["reason"], reason, "{explanation:#}");
    }
    let mixed = server.ask(&["explain", &client, "10.77.0.101:80"]);
    assert_eq!(mixed.code, Some(1));
    assert!(
        mixed.error.contains("two IPv6 addresses"),
        "{}",
        mixed.error
    );
}

/// Explains and then makes connections from ports above `first`. Returns the reasons that were given.
fn try_all(lab: &Lab, first: u16) -> BTreeSet<String> {
    let server = lab.server(1);
    until("reports have settled", Duration::from_secs(5), || {
        server.status()["services"][0]["pending"] == 0
    });
    let open = server.connections();
    let mut reasons = BTreeSet::new();
    let mut compared = 0;
    for port in first.. {
        // The last one has been closed.
        until("web1 is as before", Duration::from_secs(5), || {
            server.connections() == open
        });
        let before = reports(server);
        let explanation = explain(server, lab, port);
        let answer = curl(lab, port);
        // A report in between changes what the next connection meets.
        if reports(server) == before {
            assert_eq!(answer, expected(&explanation), "{explanation:#}");
            reasons.insert(text(&explanation["reason"]));
            compared += 1;
        }
        if compared == TRIALS {
            return reasons;
        }
        assert!(
            port < first + 5 * TRIALS,
            "reports come too often to compare anything"
        );
    }
    unreachable!("ports go on beyond those that are tried")
}

#[test]
fn a_flow_that_is_steered_stays_with_its_peer() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let server = lab.server(1);
    let held = Held::open(&lab.client, server.address(), 14, 8);

    // One that is open.
    let mut connection = Connection::open(&lab.client, server.address()).unwrap();
    let peer = connection.get("/").unwrap().server;
    let explanation = explain(server, &lab, connection.local().port());
    assert_eq!(explanation["reason"], "steered", "{explanation:#}");
    assert_eq!(expected(&explanation), peer);

    // Ones that have just ended: the next from the same port is part of the same story, at whatever load.
    // (Peers that got several since their last report may be passed over.)
    let steered: Vec<_> = (24_000..25_000)
        .map(|port| (port, curl(&lab, port)))
        .filter(|(_, server)| server != "web1")
        .take(TRIALS.into())
        .collect();
    assert_eq!(steered.len(), usize::from(TRIALS));
    held.finish();
    drop(connection);
    until("web1 is idle", Duration::from_secs(5), || {
        server.connections() == 0
    });
    for (port, peer) in steered {
        let explanation = explain(server, &lab, port);
        assert_eq!(explanation["reason"], "steered", "{explanation:#}");
        assert_eq!(expected(&explanation), peer, "{explanation:#}");
        assert_eq!(curl(&lab, port), peer);
    }
    assert_eq!(curl(&lab, 25_000), "web1");
}

#[test]
fn every_pinned_map_is_printed_with_field_names() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    // So that no map is empty.
    let held = Held::open(&lab.client, lab.server(1).address(), 14, 2);
    assert!(held.served_by("web2") > 0);

    let pins = fs::read_dir(lab.server(1).pin_dir()).unwrap();
    let maps: Vec<_> = pins
        .map(|pin| pin.unwrap().path())
        .filter(|pin| !pin.to_string_lossy().contains("link_"))
        .collect();
    assert!(maps.len() >= 11, "{maps:?}");
    for map in maps {
        let dump = Command::new("bpftool")
            .args(["--json", "map", "dump", "pinned"])
            .arg(&map)
            .output()
            .expect("bpftool is installed");
        let entries: Value = serde_json::from_slice(&dump.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}", map.display()));
        if entries.as_array().is_some_and(Vec::is_empty) {
            // No service here has affinity.
            assert!(map.ends_with("CLIENTS"), "{} is empty", map.display());
            continue;
        }
        let entry = &entries[0]["formatted"];
        let value = if entry["values"].is_array() {
            &entry["values"][0]["value"]
        } else {
            &entry["value"]
        };
        // PEER_MACS maps to a plain number.
        let named = value.is_object() || entry["key"].is_object() && value.is_number();
        assert!(named, "{}: {entries:.200}", map.display());
    }
    held.finish();
}

fn explain(server: &Server, lab: &Lab, port: u16) -> Value {
    let source = format!("{}:{port}", lab.client.address());
    let destination = format!("{}:80", server.address());
    server.json(&["explain", &source, &destination])
}

/// The server that an explanation says will answer; none where nobody listens.
fn expected(explanation: &Value) -> String {
    match text(&explanation["verdict"]).as_str() {
        "keep" => "web1".to_owned(),
        "steer" => text(&explanation["peer"]),
        other => panic!("{other}: {explanation:#}"),
    }
}

/// The server that answers to a connection from `port`. It closes first, so that the port is free again at once: curl reads
/// on until then if it ignores the length.
fn curl(lab: &Lab, port: u16) -> String {
    let url = format!("http://{}/", lab.server(1).address());
    let port = port.to_string();
    let arguments = [
        "--local-port",
        &port,
        "--ignore-content-length",
        "-H",
        "Connection: close",
    ];
    until_some("an answer", Duration::from_secs(5), || {
        let answer = lab.client.curl(&url, &arguments);
        (answer.status == 200).then_some(answer.server)
    })
}

/// Reports that have come in.
fn reports(server: &Server) -> u64 {
    let status = server.status();
    status["exchange"]["received"].as_u64().expect("a number")
}

fn reasons(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
