//! `HAProxy` before the cluster: it asks each server how it is, and goes by that.

use std::fs;
use std::time::Duration;

use balancer_tests::{Held, Lab, Process, until};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn fourth_embodiment_haproxy_goes_by_load_drain_and_health() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(
        "[load]
cpu = \"0%\"
run_queue = \"0%\"
memory_pressure = \"0%\"

[[service]]
name = \"www\"
ports = [\"80/tcp\"]
capacity = 20
overload = \"1000%\"
agent = \"0.0.0.0:9919\"
check = { http = \"http://127.0.0.1:80/\", every = \"100ms\", rise = 1, fall = 1 }
",
        "native",
    );
    let _haproxy = haproxy(&lab);
    until("HAProxy listens", PATIENCE, || {
        lab.client.curl("http://127.0.0.1:8404/", &[]).status == 200
    });
    // What HAProxy says of the two, as in `UP 100`.
    let seen = |lab: &Lab| -> Vec<String> {
        let table = lab
            .client
            .run("curl", &["-s", "-m", "5", "http://127.0.0.1:8404/;csv"]);
        let mut lines = table
            .lines()
            .map(|line| line.split(',').collect::<Vec<_>>());
        let head = lines.next().unwrap_or_default();
        let column = |name| head.iter().position(|title| *title == name);
        let (Some(status), Some(weight)) = (column("status"), column("weight")) else {
            return Vec::new();
        };
        let servers = lines.filter(|line| line.get(1).is_some_and(|name| name.starts_with("web")));
        servers
            .map(|line| format!("{} {}", line[status], line[weight]))
            .collect()
    };
    // Checks are connections, too: what is idle may be seen with one or two.
    let is_near = |seen: &String, weight: u32| {
        let seen = seen
            .strip_prefix("UP ")
            .and_then(|seen| seen.parse::<u32>().ok());
        seen.is_some_and(|seen| seen <= weight && weight <= seen + 10)
    };
    let wait = |lab: &Lab, wanted: [u32; 2]| {
        until(&format!("HAProxy sees {wanted:?}"), PATIENCE, || {
            let seen = seen(lab);
            seen.len() == 2
                && seen
                    .iter()
                    .zip(wanted)
                    .all(|(seen, wanted)| is_near(seen, wanted))
        });
    };
    wait(&lab, [100, 100]);

    // Ten connections of twenty.
    let held = Held::open(&lab.client, lab.server(1).address(), 10, 8);
    wait(&lab, [50, 100]);
    let url = "http://127.0.0.1:8000/";
    let names: Vec<_> = (0..60).map(|_| lab.client.curl(url, &[]).server).collect();
    let first = names.iter().filter(|name| *name == "web1").count();
    // A third, give or take: the requests count as load, too.
    assert!((12..=28).contains(&first), "{first} of 60 went to web1");
    held.finish();
    wait(&lab, [100, 100]);

    lab.server(1).ask(&["drain"]);
    until("HAProxy lets web1 drain", PATIENCE, || {
        seen(&lab)
            .first()
            .is_some_and(|seen| seen.starts_with("DRAIN"))
    });
    for _ in 0..6 {
        assert_eq!(lab.client.curl(url, &[]).server, "web2");
    }
    lab.server(1).ask(&["undrain"]);
    wait(&lab, [100, 100]);

    lab.server_mut(2).end_nginx();
    until("HAProxy sees that web2 is down", PATIENCE, || {
        seen(&lab)
            .get(1)
            .is_some_and(|seen| seen.starts_with("DOWN"))
    });
    assert_eq!(lab.client.curl(url, &[]).server, "web1");
    lab.server_mut(2).start_nginx();
    wait(&lab, [100, 100]);
}

/// `HAProxy` on the client's host: port 8000 of its loopback is for the cluster, port 8404 tells how it sees it.
fn haproxy(lab: &Lab) -> Process {
    let server = |number: usize| {
        format!(
            "    server web{number} {}:80 weight 100 check agent-check agent-port 9919 agent-inter 100ms\n",
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
    bind 127.0.0.1:8000
    balance roundrobin
{}{}listen told
    bind 127.0.0.1:8404
    stats enable
    stats uri /
",
        server(1),
        server(2)
    );
    let path = lab.dir().join("haproxy.cfg");
    fs::write(&path, config).unwrap();
    let mut command = lab.client.command("haproxy");
    command.args(["-db", "-f"]).arg(&path);
    Process::start(command, &lab.dir().join("haproxy.log"))
}
