//! What balancer changes on a host is undone, however it ends.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use balancer_tests::{Lab, Process, Server, Signal, WITHOUT_CPU, until};
use serde_json::Value;

#[test]
fn all_is_as_before_in_native_mode() {
    all_is_as_before("native");
}

#[test]
fn all_is_as_before_in_generic_mode() {
    all_is_as_before("generic");
}

fn all_is_as_before(mode: &str) {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = lab.config(WITHOUT_CPU);
    let arguments = ["--config", config.as_str(), "--mode", mode];
    // Its address is one of those that the other has to do with.
    lab.server_mut(2).attach(&arguments);
    let server = lab.server_mut(1);
    let before = server.dump();
    let attach = |server: &mut Server| {
        server.attach(&arguments);
        server.wait_for_peers(1);
        until(
            "it takes flows for its peer",
            Duration::from_secs(5),
            || server.host.network().contains("10.77.0.102/32"),
        );
        assert_ne!(server.dump(), before);
        kernel_objects(&server.pin_dir())
    };
    let check = |server: &Server, objects: &[(&str, u64)]| {
        similar(&server.dump(), &before);
        for (kind, id) in objects {
            assert!(!exists(kind, *id), "{kind} {id} is still there");
        }
    };

    let objects = attach(server);
    assert_eq!(server.end_balancer(Signal::SIGTERM).code(), Some(0));
    check(server, &objects);

    let objects = attach(server);
    assert_eq!(server.ask(&["detach", "eth0"]).code, Some(0));
    assert_eq!(server.wait_for_end().code(), Some(0));
    check(server, &objects);

    let objects = attach(server);
    server.end_balancer(Signal::SIGKILL);
    let status = server.ask(&["status"]);
    assert_eq!(status.code, Some(1));
    assert!(
        status.error.contains("no balancer is running"),
        "{status:?}"
    );
    let detach = server.ask(&["detach", "eth0"]);
    assert_eq!(detach.code, Some(0), "{detach:?}");
    assert!(!server.dir().join("control.sock").exists());
    check(server, &objects);

    let again = server.ask(&["detach", "eth0"]);
    assert_eq!(again.code, Some(1));
    assert!(again.error.contains("not attached to eth0"), "{again:?}");
}

#[test]
fn a_bpffs_that_it_mounts_goes_as_well() {
    let Some(mut lab) = Lab::new(1) else { return };
    let config = lab.config(WITHOUT_CPU);
    let pins = lab.dir().join("web1/pins/here");
    let server = lab.server_mut(1);
    let before = server.dump();
    server.attach(&["--config", &config, "--pin-dir", pins.to_str().unwrap()]);
    assert!(pins.join("PEERS").exists());
    let objects = kernel_objects(&pins);
    assert_eq!(server.end_balancer(Signal::SIGTERM).code(), Some(0));
    similar(&server.dump(), &before);
    for (kind, id) in objects {
        assert!(!exists(kind, id), "{kind} {id} is still there");
    }
}

#[test]
fn what_a_daemon_left_that_was_killed_while_it_started_goes() {
    let Some(lab) = Lab::new(1) else { return };
    let config = lab.config(WITHOUT_CPU);
    let server = lab.server(1);
    let before = server.dump();
    let pins = server.pin_dir();
    let mut unattached = 0;
    for turn in 0..20 {
        let command = server.attach_command(&["--config", &config]);
        let log = lab.dir().join(format!("logs/starting{turn}.log"));
        let starting = Process::start(command, &log);
        until("its first pin", Duration::from_secs(20), || {
            pins.join("SETTINGS").exists() || pins.join("FLOWS").exists()
        });
        starting.end(Signal::SIGKILL);
        unattached += usize::from(!pins.join("link_xdp_eth0").exists());
        let detach = server.ask(&["detach", "eth0"]);
        assert_eq!(detach.code, Some(0), "{detach:?}");
        similar(&server.dump(), &before);
        assert!(!pins.join("SETTINGS").exists() && !pins.join("FLOWS").exists());
        assert_eq!(server.ask(&["detach", "eth0"]).code, Some(1));
        if unattached == 3 {
            return;
        }
    }
    panic!("it was attached before it was killed in all but {unattached} turns");
}

/// Shows where two dumps differ, which are too long to be shown themselves.
pub fn similar(after: &str, before: &str) {
    let only = |these: &str, those: &str| -> Vec<String> {
        let lines = these
            .lines()
            .filter(|line| !those.lines().any(|other| other == *line));
        lines.map(str::to_owned).collect()
    };
    assert!(
        after == before,
        "the host isn't as before.\nthere now: {:#?}\nthere before: {:#?}",
        only(after, before),
        only(before, after)
    );
}

/// Ids of the links, programs and maps of the instance that is pinned in `dir`. The kernel doesn't use one twice.
fn kernel_objects(dir: &Path) -> Vec<(&'static str, u64)> {
    let mut objects = Vec::new();
    for pin in fs::read_dir(dir).unwrap() {
        let pin = pin.unwrap().path();
        // The kernel's own files at the root of a bpffs.
        if pin.extension().is_some() {
            continue;
        }
        let is_link = pin.to_string_lossy().contains("link_");
        let kind = if is_link { "link" } else { "map" };
        let shown = show(kind, &["pinned", &pin.to_string_lossy()]);
        objects.push((kind, shown["id"].as_u64().unwrap()));
        if let Some(program) = shown["prog_id"].as_u64() {
            objects.push(("prog", program));
            // Not all of them have a pin.
            let shown = show("prog", &["id", &program.to_string()]);
            let maps = shown["map_ids"].as_array().unwrap();
            objects.extend(maps.iter().map(|id| ("map", id.as_u64().unwrap())));
        }
    }
    objects.sort_unstable();
    objects.dedup();
    assert!(objects.len() >= 16, "{objects:?}");
    objects
}

fn show(kind: &str, which: &[&str]) -> Value {
    let show = Command::new("bpftool")
        .args(["--json", kind, "show"])
        .args(which)
        .output()
        .expect("bpftool is installed");
    serde_json::from_slice(&show.stdout).unwrap()
}

fn exists(kind: &str, id: u64) -> bool {
    // The kernel frees them a moment after their last user has let go.
    let show = || {
        Command::new("bpftool")
            .args([kind, "show", "id", &id.to_string()])
            .output()
            .expect("bpftool is installed")
            .status
            .success()
    };
    (0..100).all(|_| {
        std::thread::sleep(Duration::from_millis(10));
        show()
    })
}
