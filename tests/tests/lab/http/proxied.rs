//! The fourth embodiment with the others in it: real `HAProxy` in HTTP mode, which says by the PROXY protocol who asks and goes by what
//! the agents say, before servers that route requests.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use balancer_tests::{BY_CONNECTIONS, Lab, Process, until};

use super::{curl, web};

const PATIENCE: Duration = Duration::from_secs(10);

const CONFIG: &str = r#"
[[service]]
name = "www"
ports = ["8000/tcp"]
capacity = 1000
agent = "0.0.0.0:9919"

[[http]]
service = "www"
backend = "127.0.0.1:9000"
proxy_protocol = { from = ["10.77.0.1/32"] }

[[http.rule]]
name = "banking"
path = "/banking/*"
servers = ["web1", "web2"]
stateful = { end = "/banking/logout" }

[[http.rule]]
name = "securities"
path = "/securities/*"
servers = ["web3"]
"#;

/// The one that asks `HAProxy`.
const CLIENT: &str = "10.77.0.50";

#[test]
fn fourth_embodiment_haproxy_before_rules_and_transactions() {
    let Some(mut lab) = Lab::new(3) else { return };
    let _webs = [1, 2, 3].map(|number| web(lab.server(number)));
    lab.start(&format!("{BY_CONNECTIONS}{CONFIG}"), "native");
    let net = format!("{CLIENT}/24");
    lab.client
        .run("ip", &["address", "add", &net, "dev", "eth0"]);
    let _haproxy = haproxy(&lab);
    let jar = lab.dir().join("jar").display().to_string();
    // Whom the web server knows as its client, and which one it is.
    let ask = |path: &str, more: &[&str]| {
        let url = format!("http://10.77.0.1:7000{path}");
        let told = curl(&lab, &[&["--interface", CLIENT, &url], more].concat());
        let value = |name: &str| {
            let mut lines = told.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
        };
        if let Some(client) = value("for=") {
            assert_eq!(client, CLIENT, "{told}");
        }
        value("server=").unwrap_or(told)
    };
    until("HAProxy has all three", PATIENCE, || {
        let servers: BTreeSet<_> = (0..6).map(|_| ask("/", &[])).collect();
        servers == ["web1", "web2", "web3"].map(str::to_owned).into()
    });
    // Content, whatever server it chooses.
    for _ in 0..6 {
        assert_eq!(ask("/securities/", &[]), "web3");
    }
    // A transaction.
    let cookies = ["-b", jar.as_str(), "-c", jar.as_str()];
    let home = ask("/banking/", &cookies);
    for _ in 0..9 {
        assert_eq!(ask("/banking/transfer", &cookies), home);
    }
    // It drains: nothing new for it, but the transaction goes on to its end.
    let (number, other) = if home == "web1" {
        (1, "web2")
    } else {
        (2, "web1")
    };
    assert_eq!(lab.server(number).ask(&["drain"]).code, Some(0));
    until("HAProxy lets it drain", PATIENCE, || {
        let table = lab
            .client
            .shell("curl -s -m 5 'http://127.0.0.1:8404/;csv'");
        let mut lines = table.lines();
        lines.any(|line| line.starts_with(&format!("cluster,{home},")) && line.contains(",DRAIN"))
    });
    for _ in 0..6 {
        assert_eq!(ask("/banking/", &[]), other);
        assert_ne!(ask("/", &[]), home);
        assert_eq!(ask("/banking/transfer", &cookies), home);
    }
    assert_eq!(ask("/banking/logout", &cookies), home);
    assert_eq!(ask("/banking/", &cookies), other);
}

/// `HAProxy` on the client's host: port 7000 is for the cluster, port 8404 tells how it sees it.
fn haproxy(lab: &Lab) -> Process {
    let server = |number: usize| {
        format!(
            "    server web{number} {}:8000 send-proxy-v2 check check-send-proxy inter 100ms agent-check agent-port 9919 \
             agent-inter 100ms\n",
            lab.server(number).address()
        )
    };
    let config = format!(
        "defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
listen cluster
    bind 10.77.0.1:7000
    balance roundrobin
    source 10.77.0.1
{}{}{}listen told
    bind 127.0.0.1:8404
    stats enable
    stats uri /
",
        server(1),
        server(2),
        server(3)
    );
    let path = lab.dir().join("haproxy.cfg");
    fs::write(&path, config).unwrap();
    let mut command = lab.client.command("haproxy");
    command.args(["-db", "-f"]).arg(&path);
    Process::start(command, &lab.dir().join("haproxy.log"))
}
