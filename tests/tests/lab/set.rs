//! Changes of the configuration while balancer runs.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::thread;
use std::time::Duration;

use balancer_tests::{Held, Lab, Server, Signal, WITHOUT_CPU, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn what_is_set_decides_at_once() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let (server, client) = (lab.server(1), &lab.client);
    let url = format!("http://{}/", server.address());
    let held = Held::open(client, server.address(), 8, 8);
    assert_eq!(held.served_by("web1"), 8);
    assert_eq!(client.curl(&url, &[]).server, "web1");

    // 8 of 20 connections are 40 %.
    for (setting, served) in [
        ("overload=30%", "web2"),
        ("overload=45%", "web1"),
        ("www.overload=30%", "web2"),
        ("www.margin=90%", "web1"),
        ("www.margin=0%", "web2"),
        ("www.capacity=2000", "web1"),
    ] {
        let ended = server.ask(&["set", setting]);
        assert_eq!(ended.code, Some(0), "{}", ended.error);
        assert!(ended.output.contains(setting), "{}", ended.output);
        assert_eq!(client.curl(&url, &[]).server, served, "{setting}");
    }
    held.finish();
}

/// A peer that reports seldom is not taken for one that is silent.
#[test]
fn a_peer_is_off_line_by_its_own_period() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let (quick, slow) = (lab.server(1), lab.server(2));
    for (server, setting) in [(quick, "period=100ms"), (slow, "period=20s")] {
        assert_eq!(server.ask(&["set", setting, "overload=0%"]).code, Some(0));
    }
    // Above its level it asks for fresh reports. That must be over.
    let first = Held::open(&lab.client, quick.address(), 1, 10);
    assert_eq!(first.served_by("web1"), 1);
    until("the slow one was silent for some time", PATIENCE, || {
        quick.status()["peers"][0]["age_ms"].as_u64() > Some(3_000)
    });
    assert_eq!(quick.sees("web2").as_deref(), Some("online"));
    let held = Held::open(&lab.client, quick.address(), 12, 4);
    assert!(held.served_by("web2") > 0, "{:#}", quick.status());
    held.finish();
    first.finish();
    // It is known to be quick: its silence shows soon.
    lab.server_mut(1).end_balancer(Signal::SIGKILL);
    until("the quick one is missed", Duration::from_secs(5), || {
        lab.server(2).sees("web1").as_deref() == Some("silent")
    });
}

/// Without a moment in which two servers have no key in common.
#[test]
fn keys_are_rotated_while_servers_run_and_nothing_is_lost() {
    let Some(mut lab) = Lab::new(3) else { return };
    let dir = lab.dir();
    let [old, new] = ["cluster.key", "new.key"].map(|name| dir.join(name).display().to_string());
    assert_eq!(lab.server(1).ask(&["keygen", &new]).code, Some(0));
    let write = |lab: &Lab, keys: &[&String]| {
        lab.config(&format!("[exchange]\nkeys = {keys:?}\n\n{WITHOUT_CPU}"))
    };
    let config = write(&lab, &[&old]);
    for number in 1..=3 {
        lab.server_mut(number)
            .attach(&["--config", &config, "--mode", "native"]);
    }
    lab.wait_for_peers();
    let held = Held::open(&lab.client, lab.server(1).address(), 20, 10);
    assert!(held.served_by("web2") > 0 && held.served_by("web3") > 0);
    for keys in [&[&old, &new][..], &[&new, &old], &[&new]] {
        write(&lab, keys);
        for server in lab.servers() {
            server.signal_balancer(Signal::SIGHUP);
            // So that each mixture of servers lasts for some reports.
            thread::sleep(Duration::from_millis(700));
        }
    }
    thread::sleep(Duration::from_secs(2));
    for server in lab.servers() {
        let status = server.status();
        let exchange = &status["exchange"];
        assert_eq!(exchange["unknown_key"], 0, "{exchange:#}");
        let changes = status["changes"].as_array().unwrap();
        let texts = changes.iter().filter_map(|change| change["text"].as_str());
        let others: Vec<_> = texts.filter(|text| !text.ends_with(" is there")).collect();
        assert!(others.is_empty(), "{others:?}");
        server.wait_for_peers(2);
    }
    held.finish();
    // The old key is of no use any more.
    lab.server_mut(3).end_balancer(Signal::SIGTERM);
    write(&lab, &[&old]);
    lab.server_mut(3)
        .attach(&["--config", &config, "--mode", "native"]);
    until("it isn't understood", PATIENCE, || {
        lab.server(1).status()["exchange"]["unknown_key"].as_u64() > Some(0)
    });
    assert_eq!(lab.server(1).sees("web3").as_deref(), Some("left"));
}

#[test]
fn one_bad_setting_changes_nothing() {
    let Some(mut lab) = Lab::new(1) else { return };
    lab.start(WITHOUT_CPU, "native");
    let (server, config) = (lab.server(1), lab.dir().join("balancer.toml"));
    let (before, file) = (in_effect(server), fs::read_to_string(&config).unwrap());
    for (bad, code, words) in [
        (
            "margin=200%",
            1,
            "margin=200%: \"200%\" is not a margin: write 0% to 100%",
        ),
        ("www.capacity=0", 1, "is not a capacity"),
        ("server.name=other", 1, "peers know this server by it"),
        (
            "exchange.keys=[\"/nowhere.key\"]",
            1,
            "a flag of the command line wins",
        ),
        ("nonsense", 2, "KEY=VALUE"),
    ] {
        let ended = server.ask(&["set", "overload=1%", "period=1s", bad, "--save"]);
        assert_eq!(ended.code, Some(code), "{bad}: {}", ended.error);
        assert!(ended.error.contains(words), "{bad}: {}", ended.error);
        assert_eq!(in_effect(server), before, "{bad}");
        assert_eq!(fs::read_to_string(&config).unwrap(), file, "{bad}");
    }
    // Where it can't be saved, it doesn't go into effect either.
    fs::remove_file(&config).unwrap();
    let ended = server.ask(&["set", "overload=1%", "--save"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.error.contains("balancer.toml"), "{}", ended.error);
    assert_eq!(in_effect(server), before);
}

#[test]
fn what_is_saved_lasts() {
    let Some(mut lab) = Lab::new(2) else { return };
    let commented = format!("# Ours.\n{WITHOUT_CPU} # measured in May\n");
    let config = lab.config(&commented);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o640)).unwrap();
    let arguments = ["--config", config.as_str(), "--mode", "native"];
    lab.server_mut(1).attach(&arguments);
    let server = lab.server(1);
    let set = |arguments: &[&str]| {
        let ended = server.ask(&[&["set"], arguments].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.error);
        ended.output
    };

    assert!(set(&["margin=1%"]).contains("not saved"));
    assert_eq!(in_effect(server)["margin"], 100);
    let saved = set(&[
        "overload=33%",
        "www.capacity=40",
        "period=200ms",
        "timeout_periods=4",
        "--save",
    ]);
    assert!(saved.contains(&format!("saved in {config}")), "{saved}");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.starts_with("# Ours.\n"), "{text}");
    assert!(text.contains("capacity = 40"), "{text}");
    assert!(text.contains("# measured in May"), "{text}");
    assert!(!text.contains("margin"), "{text}");
    assert_eq!(fs::metadata(&config).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(server.ask(&["check-config", &config]).code, Some(0));
    let now = in_effect(server);
    assert_eq!(now["margin"], 100, "what was set before is still in effect");
    assert_eq!(
        (&now["period"], &now["timeout"]),
        (&200.into(), &800.into())
    );

    let pid = server.status()["pid"].to_string();
    server.host.run("kill", &["-HUP", &pid]);
    until("what was not saved is forgotten", PATIENCE, || {
        in_effect(server)["margin"] == 2_000
    });
    let now = in_effect(server);
    assert_eq!(
        (&now["overload"], &now["capacity"]),
        (&3_300.into(), &40.into())
    );

    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    lab.server_mut(1).attach(&arguments);
    assert_eq!(in_effect(lab.server(1)), now);
    // The peer goes by the same file: they report each 200 ms and agree.
    lab.server_mut(2).attach(&arguments);
    lab.wait_for_peers();
}

#[test]
fn only_root_commands() {
    let Some(mut lab) = Lab::new(1) else { return };
    lab.start(WITHOUT_CPU, "native");
    let server = lab.server(1);
    let socket = server.dir().join("control.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    // As a descriptor: the path to the program may be closed to others.
    let program = server.balancer(&[]).get_args().last().unwrap().to_owned();
    let mut command = server.host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["/proc/self/fd/0", "set", "overload=1%"]);
    let output = server
        .point(command.stdin(File::open(program).unwrap()))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("only root may"), "{error}");
    assert_eq!(in_effect(server)["overload"], 5_000);
}

/// What can be set, as `status` shows it.
fn in_effect(server: &Server) -> Value {
    let status = server.status();
    let service = &status["services"][0];
    serde_json::json!({
        "overload": service["overload"],
        "margin": service["margin"],
        "policy": service["policy"],
        "capacity": service["capacity"],
        "period": status["period_ms"],
        "timeout": status["timeout_ms"],
    })
}
