//! Two levels that agree: connections, which XDP steers, and requests, which the module routes.

use std::fmt::Write as _;

use balancer_tests::{Signal, until};
use serde_json::Value;

use super::cluster::{Cluster, PATIENCE};

const RULES: &str = "[[http.rule]]\nname = \"two\"\npath = \"/two/*\"\nservers = [\"web2\"]\n";

#[test]
fn first_embodiment_connections_are_steered_where_requests_are_not_routed() {
    let Some(mut cluster) = Cluster::start(|_| RULES.to_owned()) else {
        return;
    };
    let routed = |cluster: &Cluster| status(cluster)["services"][0]["routed"] == true;
    assert!(routed(&cluster));

    // Above its level: requests go elsewhere, connections don't.
    cluster.set_load(1, 90);
    until("web1 relays", PATIENCE, || {
        cluster.get(1, "/", &[]).server != "web1"
    });
    for _ in 0..10 {
        assert_ne!(cluster.get(1, "/", &[]).server, "web1");
    }
    assert_eq!(steered(&cluster), 0);
    let told = flow(&cluster);
    assert_eq!(told["reason"], "kept_below_level", "{told}");
    assert!(steps(&told).contains("its requests are routed one by one"));
    let shown = cluster.lab.server(1).ask(&["status"]).output;
    assert!(shown.contains("requests are routed one by one"), "{shown}");
    let relayed = cluster.counted(1, "relayed");
    assert!(relayed > 10, "{relayed}");

    // It drains, or its web server fails: then connections go, too.
    assert_eq!(cluster.lab.server(1).ask(&["drain"]).code, Some(0));
    let (before, relayed) = (steered(&cluster), cluster.counted(1, "relayed"));
    until("connections are steered", PATIENCE, || {
        flow(&cluster)["reason"] == "steered_not_ready"
    });
    assert_ne!(cluster.get(1, "/", &[]).server, "web1");
    assert_eq!(steered(&cluster), before + 1);
    assert_eq!(
        cluster.counted(1, "relayed"),
        relayed,
        "it was a connection"
    );
    assert_eq!(cluster.lab.server(1).ask(&["undrain"]).code, Some(0));
    until("connections stay", PATIENCE, || {
        flow(&cluster)["reason"] == "kept_below_level"
    });
    cluster.lab.server_mut(1).end_nginx();
    until("connections are steered again", PATIENCE, || {
        flow(&cluster)["reason"] == "steered_not_ready"
    });
    let before = steered(&cluster);
    assert_eq!(cluster.get(1, "/", &[]).status, 200);
    assert_eq!(steered(&cluster), before + 1);
    cluster.lab.server_mut(1).start_nginx();

    // Without rules load is balanced by connections (the first embodiment), and requests stay where these come to.
    for number in 1..=3 {
        cluster.configure(number, "");
        cluster.lab.server(number).signal_balancer(Signal::SIGHUP);
    }
    until("web1 routes no requests", PATIENCE, || !routed(&cluster));
    until("load steers connections", PATIENCE, || {
        flow(&cluster)["reason"] == "steered_new"
    });
    let (before, relayed) = (steered(&cluster), cluster.counted(1, "relayed"));
    assert_ne!(cluster.get(1, "/", &[]).server, "web1");
    assert_eq!(steered(&cluster), before + 1);
    assert_eq!(cluster.counted(1, "relayed"), relayed);
}

fn status(cluster: &Cluster) -> Value {
    cluster.lab.server(1).status()
}

fn steered(cluster: &Cluster) -> u64 {
    cluster.lab.server(1).steered()
}

/// What web1 would do with a new connection of the client's.
fn flow(cluster: &Cluster) -> Value {
    let destination = format!("{}:8000", cluster.lab.server(1).address());
    let client = format!("{}:45678", cluster.lab.client.address());
    cluster
        .lab
        .server(1)
        .json(&["explain", &client, &destination])
}

/// What an explanation says, as text.
fn steps(told: &Value) -> String {
    let mut text = String::new();
    for step in told["steps"].as_array().expect("the steps") {
        let _ = writeln!(text, "{step}");
    }
    text
}
