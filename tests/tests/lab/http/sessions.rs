//! What outlives its server, and what doesn't: transactions, announced paths, host names.

use std::collections::{BTreeMap, BTreeSet};

use balancer_tests::{Signal, until};

use super::cluster::{Browser, Cluster, PATIENCE};

/// Addresses of the client's host beside its own.
const CLIENTS: std::ops::Range<u8> = 20..44;

const RULES: &str = r#"
[[http.rule]]
name = "banking"
path = "/banking/*"
stateful = { end = "/banking/logout" }

[[http.rule]]
name = "shop"
path = "/shop/*"
stateful = { cookie = false }
"#;

#[test]
fn a_dead_servers_transactions_and_names_go_to_others() {
    let Some(cluster) = Cluster::start(|_| RULES.to_owned()) else {
        return;
    };
    let browser = cluster.browser("tls");
    transaction_by_tls(&cluster, &browser);
    let shop = shop(&cluster);

    cluster
        .lab
        .switch
        .run("ip", &["link", "set", "web2", "down"]);
    for number in [1, 3] {
        until("web2 is dead", PATIENCE, || {
            cluster.lab.server(number).sees("web2").as_deref() == Some("dead")
        });
    }
    // The transaction goes on at another one, and stays there.
    let transfer = "https://www.example.com:8443/banking/transfer";
    let lost = cluster.counted(1, "transaction_lost");
    let heir = browser.ask(1, transfer);
    assert!(["web1", "web3"].contains(&heir.server.as_str()), "{heir:?}");
    assert_eq!(cluster.counted(1, "transaction_lost"), lost + 1);
    for number in [1, 3, 1, 3] {
        assert_eq!(browser.ask(number, transfer).server, heir.server);
    }
    assert_eq!(cluster.counted(1, "transaction_lost"), lost + 1);
    // Clients that are known by their address: its own ones go, all others stay.
    for (client, server) in &shop {
        let one = shopper(&cluster, 1, *client);
        assert_eq!(one, shopper(&cluster, 3, *client));
        assert_ne!(one, "web2");
        assert!(
            one == *server || server == "web2",
            "{client}: {server}, {one}"
        );
    }
    caretaker(&cluster);
}

/// By TLS, over new connections and over kept ones, by whatever server: `web2` has it from then on.
fn transaction_by_tls(cluster: &Cluster, browser: &Browser<'_>) {
    let url = |path: &str| format!("https://www.example.com:8443/banking/{path}");
    assert_eq!(browser.ask(2, &url("")).server, "web2");
    for number in [1, 3, 2, 1] {
        assert_eq!(browser.ask(number, &url("transfer")).server, "web2");
    }
    for version in ["--http1.1", "--http2"] {
        let answers = browser.ask_on(3, &url("transfer"), 5, version);
        assert_eq!(answers, ["web2"; 5], "{version}");
    }
    // The ticket is for TLS alone.
    let plain = "http://www.example.com:8000/banking/transfer";
    assert_eq!(browser.ask(3, plain).server, "web3");
    assert_eq!(browser.ask(1, &url("transfer")).server, "web2");
    // The end, and the beginning of another one.
    assert_eq!(browser.ask(3, &url("logout")).server, "web2");
    assert_eq!(browser.ask(3, &url("transfer")).server, "web3");
    assert_eq!(browser.ask(1, &url("logout")).server, "web3");
    assert_eq!(browser.tickets(), 0);
    assert_eq!(browser.ask(2, &url("")).server, "web2");
    assert_eq!(cluster.counted(2, "transaction_lost"), 0);
}

/// Who serves each of several clients: the same one, whatever server is asked.
fn shop(cluster: &Cluster) -> BTreeMap<u8, String> {
    for client in CLIENTS {
        let address = format!("10.77.0.{client}/24");
        cluster
            .lab
            .client
            .run("ip", &["address", "add", &address, "dev", "eth0"]);
    }
    let shop: BTreeMap<_, _> = CLIENTS
        .map(|client| (client, shopper(cluster, 1, client)))
        .collect();
    for (client, server) in &shop {
        assert_eq!(shopper(cluster, 3, *client), *server, "{client}");
    }
    let servers: BTreeSet<_> = shop.values().map(String::as_str).collect();
    assert_eq!(servers, BTreeSet::from(["web1", "web2", "web3"]));
    shop
}

fn shopper(cluster: &Cluster, number: usize, client: u8) -> String {
    let address = format!("10.77.0.{client}");
    let answer = cluster.get(number, "/shop/cart", &["--interface", &address]);
    assert_ne!(answer.server, "", "{answer:?}");
    answer.server
}

/// A dead server's names are served at its address, with its certificate, which the client checks.
fn caretaker(cluster: &Cluster) {
    let own = "https://web2.example.com:8443/";
    until("another one answers for web2", PATIENCE, || {
        let answer = cluster.ask(1, own, &["--max-time", "2"]);
        answer.status == 200 && ["web1", "web3"].contains(&answer.server.as_str())
    });
    let common = cluster.ask(2, "https://www.example.com:8443/", &[]);
    assert_eq!(common.status, 200);
}

#[test]
fn what_a_server_announces_comes_and_goes_with_it() {
    const SERVES: &str = "serves = [\"/reports/*\"]\n";
    let more = |number| if number == 2 { SERVES } else { "" }.to_owned();
    let Some(mut cluster) = Cluster::start(more) else {
        return;
    };
    for number in [1, 3] {
        cluster.wait_for(number, "/reports/today", "web2");
        assert_eq!(cluster.get(number, "/", &[]).server, format!("web{number}"));
    }
    let told = cluster.explain(1, "/reports/today");
    assert_eq!(
        (&told["rule"], &told["server"]),
        (&"/reports/*".into(), &"web2".into()),
        "{told}"
    );
    // A second one, which was told of it while it ran.
    cluster.configure(3, SERVES);
    cluster.lab.server(3).signal_balancer(Signal::SIGHUP);
    cluster.wait_for(3, "/reports/today", "web3");
    cluster.set_load(2, 80);
    cluster.wait_for(1, "/reports/today", "web3");
    // Its daemon ends, and the other one takes it back: no word of it is left.
    cluster.lab.server_mut(2).end_balancer(Signal::SIGTERM);
    cluster.configure(3, "");
    cluster.lab.server(3).signal_balancer(Signal::SIGHUP);
    for number in [1, 3] {
        cluster.wait_for(number, "/reports/today", &format!("web{number}"));
    }
    assert_eq!(
        cluster.explain(1, "/reports/today")["rule"],
        serde_json::Value::Null
    );
}
