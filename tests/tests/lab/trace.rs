//! `balancer trace` tells of each decision, and of no other than it was asked for.

use std::path::PathBuf;
use std::time::Duration;

use balancer_tests::{Held, Lab, Process, Signal, WITHOUT_CPU, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn decisions_are_told() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let client = lab.client.address().to_string();
    let kept = start(&lab, "kept", &["--client", &client, "--verdict", "keep"]);
    let url = format!("http://{}/", lab.server(1).address());
    until("a kept connection is told of", PATIENCE, || {
        lab.client.curl(&url, &[]);
        kept.log().contains("keep")
    });
    let log = kept.log();
    let line = log.lines().next().unwrap();
    for words in [
        &client,
        "10.77.0.101:80",
        "www",
        "load ",
        "kept below level",
    ] {
        assert!(line.contains(words), "no {words:?} in {line:?}");
    }

    let second = lab.server(1).ask(&["trace"]);
    assert_eq!(second.code, Some(1));
    assert!(
        second.error.contains("another `balancer trace`"),
        "{second:?}"
    );

    let path = log_of(&lab, "kept");
    assert_eq!(kept.end(Signal::SIGINT).code(), Some(0));
    let log = std::fs::read_to_string(path).unwrap();
    let summary = log.lines().last().unwrap();
    assert!(summary.contains("decisions: keep "), "{summary}");
    assert!(!summary.contains("too fast"), "{summary}");
}

#[test]
fn only_what_was_asked_for_is_told() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "generic");
    let address = lab.server(1).address();
    let _load = Held::open(&lab.client, address, 14, 60);
    let steered = start(
        &lab,
        "steered",
        &["--json", "--service", "www", "--verdict", "steer"],
    );
    let url = format!("http://{address}/");
    until("a steered connection is told of", PATIENCE, || {
        lab.client.curl(&url, &[]);
        steered.log().contains("steer")
    });
    for line in steered.log().lines() {
        let decision: Value = serde_json::from_str(line).unwrap();
        assert_eq!(decision["verdict"], "steer", "{decision}");
        assert_eq!(decision["destination"], format!("{address}:80"));
        assert_eq!(decision["protocol"], "tcp");
        assert!(
            ["web2", "web3"].contains(&decision["peer"].as_str().unwrap()),
            "{decision}"
        );
        assert!(decision["load"].as_u64().unwrap() > 5_000, "{decision}");
    }
    // Killed, it is in nobody's way.
    steered.end(Signal::SIGKILL);

    let other = start(&lab, "other", &["--client", "192.0.2.0/24"]);
    let all = |lab: &Lab| {
        let status = lab.server(1).status();
        let packets = status["services"][0]["packets"].as_object().unwrap();
        packets.values().filter_map(Value::as_u64).sum::<u64>()
    };
    let before = all(&lab);
    until("connections come in", PATIENCE, || {
        lab.client.curl(&url, &[]);
        all(&lab) > before + 40
    });
    let path = log_of(&lab, "other");
    other.end(Signal::SIGTERM);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "0 decisions\n");

    let unknown = lab.server(1).ask(&["trace", "--service", "mail"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.error.contains("there are: www"), "{unknown:?}");
}

fn start(lab: &Lab, name: &str, arguments: &[&str]) -> Process {
    let command = lab.server(1).balancer(&[&["trace"], arguments].concat());
    Process::start(command, &log_of(lab, name))
}

fn log_of(lab: &Lab, name: &str) -> PathBuf {
    lab.dir().join(format!("{name}.log"))
}
