//! What people and networks do wrong: a clear message or a counter for each, and nothing changed on the host.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use balancer_tests::{Lab, Server, WITHOUT_CPU, until};

use crate::host::similar;

const PATIENCE: Duration = Duration::from_secs(5);

/// Port of the exchange.
const EXCHANGE: u16 = 9918;

#[test]
fn an_attach_that_fails_changes_nothing() {
    let Some(lab) = Lab::new(1) else { return };
    let config = lab.config(WITHOUT_CPU);
    let server = lab.server(1);

    refused(
        server,
        &["eth7"],
        1,
        &["no network interface `eth7`", "there are: eth0, lo"],
    );
    refused(server, &["--nonsense"], 2, &["--nonsense", "--help"]);
    refused(
        server,
        &["--mode", "fast"],
        2,
        &["fast", "native", "generic"],
    );

    let broken = lab.dir().join("broken.toml");
    fs::write(
        &broken,
        "[server]\nname = \"web1\"\n[levels]\noverload = 50%\n",
    )
    .unwrap();
    let broken = broken.to_str().unwrap();
    refused(server, &["--config", broken], 1, &[&format!("{broken}:4")]);
    refused(
        server,
        &["--config", "/nowhere.toml"],
        1,
        &["/nowhere.toml"],
    );

    let key = lab.dir().join("open.key");
    fs::copy(lab.dir().join("cluster.key"), &key).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let key = key.to_str().unwrap();
    refused(server, &["--key", key], 1, &[key, "0644", "chmod 600"]);
    fs::write(key, "secret\n").unwrap();
    fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
    refused(server, &["--key", key], 1, &[key, "holds no key"]);

    refused(
        server,
        &["--pin-dir", "/proc/nowhere"],
        1,
        &["/proc/nowhere"],
    );
    let file = format!("{config}/pins");
    refused(server, &["--pin-dir", &file], 1, &[&file]);
    refused(
        server,
        &["--control", "/proc/nowhere/socket"],
        1,
        &["/proc/nowhere"],
    );

    // A key is made where there is none, but not for an attach that fails later.
    let new = server.dir().join("keys/of/new.key");
    let new = new.to_str().unwrap();
    let arguments = ["--key", new, "--pin-dir", "/proc/nowhere"];
    refused(server, &arguments, 1, &["/proc/nowhere"]);
    assert!(!server.dir().join("keys").exists());

    let taken = server
        .host
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, EXCHANGE)))
        .unwrap();
    refused(server, &["--config", &config], 1, &["9918", "in use"]);
    drop(taken);
}

#[test]
fn attach_needs_privileges() {
    let Some(lab) = Lab::new(1) else { return };
    let server = lab.server(1);
    let before = server.dump();
    // As a descriptor: the path to it may be closed to others.
    let binary = server.balancer(&[]).get_args().last().unwrap().to_owned();
    let output = server
        .point(&mut Command::new("nsenter"))
        .arg(format!("--net=/run/netns/{}", server.host.namespace()))
        .args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ])
        .args(["/proc/self/fd/0", "attach", "eth0"])
        .stdin(File::open(binary).unwrap())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("needs root"), "{error}");
    similar(&server.dump(), &before);
}

#[test]
fn a_second_daemon_is_refused() {
    let Some(mut lab) = Lab::new(1) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(&format!(
        "[exchange]\ngroup = \"239.255.99.19:9919\"\n{WITHOUT_CPU}"
    ));
    let server = lab.server(1);

    refused(
        server,
        &["--config", &config],
        1,
        &["another balancer is running", "control.sock"],
    );
    // As another instance: the interface has the first one's program.
    let pins = lab.dir().join("bpf/other");
    let control = lab.dir().join("other.sock");
    refused(
        server,
        &[
            "--config",
            &config,
            "--pin-dir",
            pins.to_str().unwrap(),
            "--control",
            control.to_str().unwrap(),
        ],
        1,
        &[
            "eth0 has an XDP program already",
            "ip link set eth0 xdp off",
        ],
    );
    assert!(lab.server_mut(1).runs());
    assert_eq!(lab.server(1).status()["interfaces"][0]["mode"], "native");
}

#[test]
fn servers_with_different_keys_dont_see_each_other() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = lab.config(WITHOUT_CPU);
    let key = lab.dir().join("other.key");
    let key = key.to_str().unwrap();
    assert_eq!(lab.server(1).ask(&["keygen", key]).code, Some(0));
    lab.server_mut(1).attach(&["--config", &config]);
    lab.server_mut(2)
        .attach(&["--config", &config, "--key", key]);

    for server in lab.servers() {
        until("the other's reports are counted", PATIENCE, || {
            server.status()["exchange"]["unknown_key"].as_u64() > Some(2)
        });
        assert!(server.ask(&["status"]).output.contains("unknown key"));
        assert_eq!(server.status()["peers"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn garbage_is_counted_and_does_no_harm() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let server = lab.server(1);
    let before = server.host.network();
    let counted = || {
        let status = server.status();
        let names = [
            "garbage",
            "wrong_version",
            "unknown_key",
            "bad_seal",
            "malformed",
            "oversized",
        ];
        names
            .iter()
            .map(|name| status["exchange"][name].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(counted(), 0);

    let mut random = fastrand::Rng::with_seed(1);
    let socket = lab
        .client
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
        .unwrap();
    let lengths = [0, 1, 4, 40, 200, 1400, 9000];
    for length in lengths.iter().cycle().take(210) {
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(*length)
            .collect();
        socket
            .send_to(&bytes, (server.address(), EXCHANGE))
            .unwrap();
        // No more at a time than its socket holds.
        std::thread::sleep(Duration::from_millis(1));
    }
    until("all are counted", PATIENCE, || counted() == 210);
    assert_eq!(server.sees("web2").as_deref(), Some("online"));
    assert_eq!(server.status()["peers"].as_array().unwrap().len(), 1);
    similar(&server.host.network(), &before);
    assert!(lab.server_mut(1).runs());
}

#[test]
fn servers_with_one_name_are_told_of() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = lab.config(WITHOUT_CPU);
    for number in [1, 2] {
        lab.server_mut(number)
            .attach(&["--config", &config, "--name", "twin"]);
    }
    for server in lab.servers() {
        until("there is a warning", PATIENCE, || {
            let status = server.status();
            let warnings = status["warnings"].as_array().unwrap();
            warnings.iter().any(|warning| {
                warning
                    .as_str()
                    .is_some_and(|text| text.contains("twin") && text.contains("same name"))
            })
        });
        assert!(server.ask(&["status"]).output.contains("WARNING: "));
    }
}

/// Attaches in vain: with this exit code, with these words in the message, and with nothing left.
fn refused(server: &Server, arguments: &[&str], code: i32, words: &[&str]) {
    let before = server.dump();
    let ended = server.attach_in_vain(arguments);
    assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.error);
    for word in words {
        assert!(
            ended.error.contains(word),
            "{arguments:?}: no {word:?} in: {}",
            ended.error
        );
    }
    assert!(!ended.error.contains("panicked"), "{}", ended.error);
    similar(&server.dump(), &before);
}
