//! Checks of real servers, and what becomes of the connections to one that fails.

use std::fs;
use std::time::Duration;

use balancer_tests::{Daemon, Lab, Server, WITHOUT_CPU, until};

/// Bounds waits for a verdict: three checks a second apart, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The worked examples: a check of each kind.
const CHECKS: &str = include_str!("../../../examples/checks.toml");

/// A service whose certificate is not for the name that its clients use.
const MISNAMED: &str = "[[service]]\nname = \"misnamed\"\nports = [\"9443/tcp\"]\n\
                        check = { https = \"https://127.0.0.1:8443/\", host = \"other.example.com\" }\n";

#[test]
fn each_check_sees_its_server_come_and_go() {
    let Some(mut lab) = Lab::new(1) else { return };
    let files = lab.dir().join("srv");
    let checks = CHECKS.replace("/srv", files.to_str().unwrap());
    let config = lab.config(&format!("{checks}{MISNAMED}"));
    let server = lab.server_mut(1);
    server.end_nginx();
    server.attach(&["--config", &config, "--mode", "native"]);
    let services = [
        "www",
        "secure-www",
        "secure",
        "mail",
        "ftp",
        "redis",
        "dns",
        "files",
    ];

    for round in 1..=2 {
        for service in services {
            until_healthy(server, service, false);
        }
        if round == 1 {
            let refused = "no connection: Connection refused (os error 111)";
            for service in ["www", "secure-www", "secure", "mail", "ftp", "redis", "dns"] {
                assert_eq!(reason(server, service), refused, "{service}");
            }
            assert_eq!(
                reason(server, "files"),
                format!("ended with 1: no {}", files.display())
            );
        }

        server.start_nginx();
        let daemons: Vec<_> = Daemon::ALL.map(|daemon| server.start_daemon(daemon)).into();
        fs::create_dir(&files).unwrap();
        for service in services {
            until_healthy(server, service, true);
        }
        for (service, expected) in [
            ("www", "answered 200 OK"),
            ("secure-www", "answered 200 OK"),
            ("secure", "did a TLS handshake"),
            (
                "mail",
                "answered \"221 mail.example.com closing connection\"",
            ),
            ("ftp", "answered \"221 Goodbye.\""),
            ("redis", "answered \"+PONG\""),
            ("dns", "answered with 1 records"),
            ("files", "ended with 0"),
        ] {
            assert_eq!(reason(server, service), expected, "{service}");
        }
        if round == 1 {
            until_healthy(server, "misnamed", false);
            server.end_nginx();
            fs::remove_dir(&files).unwrap();
            drop(daemons);
        }
    }
}

#[test]
fn a_certificate_for_another_name_is_no_health() {
    let Some(mut lab) = Lab::new(1) else { return };
    let config = lab.config(MISNAMED);
    let server = lab.server_mut(1);
    let _tls = server.start_daemon(Daemon::Tls);
    server.attach(&["--config", &config, "--mode", "native"]);
    until_healthy(server, "misnamed", false);
    let reason = reason(server, "misnamed");
    assert!(
        reason.starts_with("no TLS connection: invalid peer certificate: certificate not valid for name \"other.example.com\""),
        "{reason}"
    );
}

/// Reports are ten seconds apart: what peers know sooner they were told at once.
#[test]
fn a_sick_service_sends_its_new_connections_to_peers_and_takes_them_back() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = format!(
        "[exchange]\nperiod = \"10s\"\n{WITHOUT_CPU}check = {{ http = \"http://127.0.0.1/\", every = \"100ms\", rise = 2, fall = 2 }}\n"
    );
    lab.start(&config, "native");
    let url = format!("http://{}/", lab.server(1).address());
    assert_eq!(lab.client.curl(&url, &[]).server, "web1");

    lab.server_mut(1).end_nginx();
    until_healthy(lab.server(1), "www", false);
    for _ in 0..10 {
        assert_eq!(lab.client.curl(&url, &[]).server, "web2");
    }
    until_peer_healthy(&lab, false);
    // Nobody is left who is healthy: who is asked keeps it, and says no.
    lab.server_mut(2).end_nginx();
    until_healthy(lab.server(2), "www", false);
    assert_eq!(lab.client.curl(&url, &[]).status, 0);

    lab.server_mut(1).start_nginx();
    until_healthy(lab.server(1), "www", true);
    for _ in 0..10 {
        assert_eq!(lab.client.curl(&url, &[]).server, "web1");
    }
    until_peer_healthy(&lab, true);
}

#[test]
fn commands_that_misbehave_do_no_harm() {
    let Some(mut lab) = Lab::new(1) else { return };
    let config = lab.config(
        r#"
[[service]]
name = "hangs"
ports = ["1/tcp"]
check = { command = ["/bin/sh", "-c", "sleep 98765 & sleep 98765"], every = "200ms", fall = 2 }

[[service]]
name = "floods"
ports = ["2/tcp"]
check = { command = ["/usr/bin/head", "-c", "10000000", "/dev/urandom"], every = "200ms", fall = 2 }

[[service]]
name = "garbage"
ports = ["3/tcp"]
check = { command = ["/bin/sh", "-c", "head -c 1000 /dev/urandom; exit 3"], every = "200ms", fall = 2 }

[[service]]
name = "missing"
ports = ["4/tcp"]
check = { command = ["/nowhere/check"], every = "200ms", fall = 2 }
"#,
    );
    let server = lab.server_mut(1);
    server.attach(&["--config", &config, "--mode", "native"]);
    for (service, expected) in [
        ("hangs", "took longer than 500 ms"),
        ("floods", "said more than 64 KiB"),
        ("garbage", "ended with 3: "),
        (
            "missing",
            "cannot run /nowhere/check: No such file or directory (os error 2)",
        ),
    ] {
        until_healthy(server, service, false);
        let reason = reason(server, service);
        assert!(reason.starts_with(expected), "{service}: {reason}");
        assert!(!reason.contains(char::is_control), "{service}: {reason}");
    }
    let kilobytes = server.memory("VmRSS");
    assert!(kilobytes < 60_000, "{kilobytes} KiB");

    assert_eq!(
        server.end_balancer(balancer_tests::Signal::SIGTERM).code(),
        Some(0)
    );
    until("no command is left", PATIENCE, || !runs("sleep\x0098765\0"));
}

/// Whether some process has this command line. One that has ended has none.
fn runs(command: &str) -> bool {
    fs::read_dir("/proc").unwrap().any(|entry| {
        let path = entry.unwrap().path().join("cmdline");
        fs::read_to_string(path).is_ok_and(|line| line == command)
    })
}

fn until_healthy(server: &Server, service: &str, healthy: bool) {
    let what = format!("healthy of {service} is {healthy}");
    until(&what, PATIENCE, || {
        state(server, service)["healthy"] == healthy
    });
}

/// Waits, less long than a period, until web2 knows how web1 is.
fn until_peer_healthy(lab: &Lab, healthy: bool) {
    let what = format!("web2 knows that healthy of web1 is {healthy}");
    until(&what, Duration::from_secs(5), || {
        lab.server(2).status()["peers"][0]["services"][0]["healthy"] == healthy
    });
}

fn reason(server: &Server, service: &str) -> String {
    let state = state(server, service);
    state["health"].as_str().expect("a text").to_owned()
}

fn state(server: &Server, service: &str) -> serde_json::Value {
    let status = server.status();
    let services = status["services"].as_array().expect("services");
    let found = services.iter().find(|entry| entry["name"] == service);
    found
        .unwrap_or_else(|| panic!("no service {service}"))
        .clone()
}
