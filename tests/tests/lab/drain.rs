//! Servers that are to be switched off.

use std::time::Duration;

use balancer_tests::{Held, Lab, Process, Server, Signal, WITHOUT_CPU, until, until_some};

use crate::host::similar;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_drain_ends_when_nothing_is_left_here_and_on_peers() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let (web1, client) = (lab.server(1), &lab.client);
    let url = format!("http://{}/", web1.address());

    let kept = Held::open(client, web1.address(), 8, 6);
    assert_eq!(kept.served_by("web1"), 8);
    let later = Held::open(client, web1.address(), 10, 12);
    let steered = 10 - later.served_by("web1");
    assert!(steered > 0);

    let log = lab.dir().join("logs/drain.log");
    let mut drain = Process::start(web1.balancer(&["drain", "--wait"]), &log);
    until("it drains", PATIENCE, || !web1.status()["drain"].is_null());
    for _ in 0..20 {
        assert_ne!(client.curl(&url, &[]).server, "web1");
    }
    for peer in [2, 3] {
        until("peers know", PATIENCE, || {
            let peers = lab.server(peer).json(&["peers"]);
            let mut peers = peers.as_array().unwrap().iter();
            peers.any(|peer| peer["name"] == "web1" && peer["draining"] == true)
        });
    }
    until("what was steered is counted", PATIENCE, || {
        left(web1).1 >= steered as u64
    });
    assert!(web1.ask(&["status"]).output.contains("DRAINING for "));

    kept.finish();
    assert!(drain.ended().is_none(), "{}", drain.log());
    assert!(left(web1).1 > 0, "{}", drain.log());
    later.finish();
    let status = until_some("the drain ends", PATIENCE, || drain.ended());
    assert_eq!(status.code(), Some(0), "{}", drain.log());
    let said = drain.log();
    assert!(said.contains("new connections go to peers"), "{said}");
    assert!(
        said.ends_with("this server may be switched off\n"),
        "{said}"
    );
    assert!(said.lines().count() > 4, "it counts down: {said}");
    assert_eq!(left(web1), (0, 0));

    assert_eq!(web1.ask(&["undrain", "--wait"]).code, Some(0));
    assert_eq!(client.curl(&url, &[]).server, "web1");
    assert!(web1.status()["drain"].is_null());
}

/// What is steered at the end is in its next report, which may be long in coming.
#[test]
fn a_drain_waits_for_a_peer_that_reports_seldom() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let (web1, web2) = (lab.server(1), lab.server(2));
    assert_eq!(web2.ask(&["set", "period=6s"]).code, Some(0));
    assert_eq!(web1.ask(&["drain"]).code, Some(0));
    let drain = || web1.status()["drain"].clone();
    until("web2 has counted", PATIENCE, || {
        drain()["unheard"].as_array().is_some_and(Vec::is_empty)
    });
    let held = Held::open(&lab.client, web1.address(), 1, 12);
    assert_eq!(held.served_by("web2"), 1);
    until("it has counted again", PATIENCE, || {
        assert_eq!(drain()["ended"], false, "{:#}", drain());
        left(web1).1 == 1
    });
    held.finish();
}

#[test]
fn peers_send_nothing_to_a_server_that_drains() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    assert_eq!(lab.server(2).ask(&["drain"]).code, Some(0));
    until("web1 knows", PATIENCE, || {
        let peers = lab.server(1).json(&["peers"]);
        let mut peers = peers.as_array().unwrap().iter();
        peers.any(|peer| peer["name"] == "web2" && peer["draining"] == true)
    });
    let held = Held::open(&lab.client, lab.server(1).address(), 30, 4);
    assert_eq!(held.served_by("web2"), 0);
    assert!(held.served_by("web3") > 0);
    held.finish();
}

#[test]
fn a_drain_outlasts_the_daemon_but_not_a_detach() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = lab.config(WITHOUT_CPU);
    let arguments = ["--config", config.as_str(), "--mode", "native"];
    let url = format!("http://{}/", lab.server(1).address());
    lab.server_mut(2).attach(&arguments);
    let before = lab.server(1).dump();
    lab.server_mut(1).attach(&arguments);
    lab.wait_for_peers();
    assert_eq!(lab.server(1).ask(&["drain"]).code, Some(0));

    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        lab.server_mut(1).end_balancer(signal);
        lab.server_mut(1).attach(&arguments);
        lab.wait_for_peers();
        assert!(!lab.server(1).status()["drain"].is_null(), "{signal}");
        until("its peer takes new ones", PATIENCE, || {
            lab.client.curl(&url, &[]).server == "web2"
        });
    }

    assert_eq!(lab.server(1).ask(&["detach", "eth0"]).code, Some(0));
    lab.server_mut(1).wait_for_end();
    similar(&lab.server(1).dump(), &before);
    lab.server_mut(1).attach(&arguments);
    lab.wait_for_peers();
    assert!(lab.server(1).status()["drain"].is_null());
    assert_eq!(lab.client.curl(&url, &[]).server, "web1");
}

#[test]
fn without_a_peer_that_can_take_them_a_server_serves_on() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    assert_eq!(lab.server(2).ask(&["drain"]).code, Some(0));
    let server = lab.server(1);
    until("web1 knows", PATIENCE, || {
        server.ask(&["peers"]).output.contains("online, draining")
    });
    let ended = server.ask(&["drain"]);
    assert_eq!(ended.code, Some(0), "{}", ended.error);
    let warning = "no peer can take new connections of www: this server goes on serving them";
    assert!(ended.error.contains(warning), "{}", ended.error);
    let url = format!("http://{}/", server.address());
    assert_eq!(lab.client.curl(&url, &[]).server, "web1");
    until("all but that is done", PATIENCE, || {
        let status = server.ask(&["status"]).output;
        status.contains(
            "left: 0 connections here, 0 on peers, new ones of www until a peer can take them",
        )
    });
    assert_eq!(server.status()["drain"]["ended"], false);

    assert_eq!(lab.server(2).ask(&["undrain"]).code, Some(0));
    until("the warning goes", PATIENCE, || {
        !server.ask(&["status"]).output.contains(warning)
    });
    assert_eq!(lab.client.curl(&url, &[]).server, "web2");
}

/// Connections that are left here, and on peers.
fn left(server: &Server) -> (u64, u64) {
    let status = server.status();
    let number = |key: &str| status["drain"][key].as_u64().unwrap();
    (number("connections"), number("steered"))
}
