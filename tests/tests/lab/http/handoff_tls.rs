//! TLS connections that move: curl, unmodified, sees one connection.

use std::collections::BTreeMap;
use std::fs;

use balancer_tests::{BY_CONNECTIONS, Lab, Signal};

use super::{certify, curl};
use crate::handoff::{all_moved, content, lose, moves, no_wrong_checksums, reference, sent, sums};

/// What is below `/NUMBER/` is for the server of that number. The web server behind the module names itself in each answer. A server
/// that is late with its reports on a busy machine gets its connections all the same: else they are served where they came to.
const CONFIG: &str = r#"
[exchange]
timeout_periods = 20

[[service]]
name = "www"
ports = ["8443/tcp"]
capacity = 10000

[[http]]
service = "www"
backend = "127.0.0.1:80"
tls_ports = [8443]
certificates = [{ certificate = "{DIR}/www.pem", key = "{DIR}/www.key" }]

[[http.rule]]
name = "uploads"
path = "/upload"
servers = ["web3"]
route = "handoff"
"#;

/// Bytes of a large answer.
const LARGE: usize = 10_000_000;

fn start() -> Option<Lab> {
    let mut lab = Lab::new(3)?;
    certify(&lab, "www", "www.example.com");
    let config = CONFIG.replace("{DIR}", &lab.dir().display().to_string());
    let mut config = BY_CONNECTIONS.to_owned() + &config;
    for number in 1..=3 {
        config += &format!(
            "\n[[http.rule]]\nname = \"r{number}\"\npath = \"/{number}/*\"\nservers = [\"web{number}\"]\nroute = \"handoff\"\n"
        );
    }
    for server in lab.servers() {
        for number in 1..=3 {
            let dir = server.dir().join(number.to_string());
            fs::create_dir_all(&dir).unwrap();
            for size in [1_000, 100_000, LARGE] {
                fs::write(dir.join(size.to_string()), content(size)).unwrap();
            }
        }
    }
    fs::write(lab.dir().join("large"), content(LARGE)).unwrap();
    lab.start(&config, "native");
    Some(lab)
}

#[test]
fn a_hundred_tls_downloads_move() {
    let Some(lab) = start() else { return };
    let before = (sent(lab.server(1)), sent(lab.server(3)));
    let reference = reference(&lab);
    for suite in [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "",
    ] {
        let suite = if suite.is_empty() {
            String::new()
        } else {
            format!("--tls13-ciphers {suite}")
        };
        let download = format!(
            "curl -s --max-time 20 --http1.1 --tlsv1.3 {suite} {} {} | sha256sum",
            name(&lab).join(" "),
            url(&format!("/3/{LARGE}"))
        );
        let sums = sums(&lab, 25, &download);
        assert_eq!(sums, BTreeMap::from([(reference.clone(), 25)]), "{suite}");
    }
    let bytes = (
        sent(lab.server(1)) - before.0,
        sent(lab.server(3)) - before.1,
    );
    assert!(bytes.1 > 100 * LARGE as u64, "{bytes:?}");
    assert!(
        bytes.0 < bytes.1 / 50,
        "the first server has sent {bytes:?}"
    );
    all_moved(&lab, 100);
}

#[test]
fn tls_downloads_move_fifty_at_a_time_on_a_lossy_way() {
    const SIZE: usize = 100_000;
    let Some(lab) = start() else { return };
    let dir = lab.dir().join("got");
    fs::create_dir(&dir).unwrap();
    lose(&lab);
    lab.client.shell(&format!(
        "curl -sf --max-time 60 --http1.1 --tlsv1.3 --parallel --parallel-immediate --parallel-max 50 {} -o '{}/#1' '{}?[1-50]'",
        name(&lab).join(" "),
        dir.display(),
        url(&format!("/3/{SIZE}"))
    ));
    let expected = content(SIZE);
    for number in 1..=50 {
        let got = fs::read(dir.join(number.to_string())).unwrap();
        assert!(got == expected, "answer {number}: {} bytes", got.len());
    }
    // A connection that waits for what was lost may take too long to move: its request is relayed.
    let (moved, failed) = moves(&lab);
    assert!(
        moved >= 40 && moved + failed == 50,
        "{moved} moved, {failed} couldn't"
    );
    no_wrong_checksums(&lab);
}

#[test]
fn a_tls_connection_moves_nine_times() {
    let Some(lab) = start() else { return };
    let servers = [1, 2, 3, 1, 3, 2, 1, 2, 3, 2];
    for size in [1_000, 100_000] {
        let told = asked(&lab, &["--http1.1", "--tlsv1.3"], &servers, size);
        let expected: Vec<_> = (0..)
            .zip(servers)
            .map(|(turn, number)| format!("200 {} {size} web{number}", u8::from(turn == 0)))
            .collect();
        assert_eq!(told, expected);
    }
    all_moved(&lab, 18);
}

#[test]
fn tls_uploads_move_while_they_arrive() {
    let Some(lab) = start() else { return };
    let file = lab.dir().join("upload");
    fs::write(&file, content(4_000_000)).unwrap();
    let text = lab.client.shell(&format!(
        "for i in $(seq 20); do curl -s --max-time 20 --http1.1 --tlsv1.3 {} --data-binary @{} -H Expect: {}; echo; done",
        name(&lab).join(" "),
        file.display(),
        url("/upload")
    ));
    let stored = text.lines().filter(|line| *line == "stored").count();
    assert_eq!(stored, 20, "{text}");
    let files = fs::read_dir(lab.server(3).dir().join("uploads")).unwrap();
    let files: Vec<_> = files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(files.len(), 20);
    all_moved(&lab, 20);
    assert!(files.iter().all(|bytes| *bytes == content(4_000_000)));
}

#[test]
fn what_cannot_move_is_relayed() {
    let Some(lab) = start() else { return };
    for how in [
        ["--http1.1", "--tls-max", "1.2"],
        ["--http2", "--tlsv1.3", "-s"],
    ] {
        let before = sent(lab.server(1));
        let told = asked(&lab, &how, &[3, 2, 3], LARGE);
        let expected =
            [(1, 3), (0, 2), (0, 3)].map(|(new, number)| format!("200 {new} {LARGE} web{number}"));
        assert_eq!(told, expected, "{how:?}");
        assert!(sent(lab.server(1)) - before > 3 * LARGE as u64, "{how:?}");
    }
    assert_eq!(moves(&lab), (0, 0));
}

#[test]
fn a_certificate_may_be_renewed_on_one_server_after_the_other() {
    let Some(mut lab) = start() else { return };
    let config = fs::read_to_string(lab.dir().join("balancer.toml")).unwrap();
    for number in [3, 1] {
        let file = format!("www{number}");
        certify(&lab, &file, "www.example.com");
        let path = lab.dir().join(format!("web{number}.toml"));
        fs::write(&path, config.replace("/www.", &format!("/{file}."))).unwrap();
        lab.server_mut(number).end_balancer(Signal::SIGTERM);
        let config = ["--config", path.to_str().unwrap(), "--mode", "native"];
        lab.server_mut(number).attach(&config);
        lab.wait_for_peers();
        let before = moves(&lab);
        for how in [["--http1.1", "-k"], ["--http2", "-k"]] {
            let told = asked(&lab, &how, &[3, 2], 100_000);
            assert_eq!(told, ["200 1 100000 web3", "200 0 100000 web2"], "{how:?}");
        }
        let moved = moves(&lab);
        assert_eq!((moved.0 - before.0, moved.1), (2, before.1));
    }
}

/// What curl says of requests by one connection, each for another server: status, new connections, bytes, who answered.
fn asked(lab: &Lab, how: &[&str], servers: &[u8], size: usize) -> Vec<String> {
    let name = name(lab);
    let urls: Vec<_> = servers
        .iter()
        .map(|number| url(&format!("/{number}/{size}")))
        .collect();
    let mut arguments: Vec<&str> = how.to_vec();
    arguments.extend(name.iter().map(String::as_str));
    arguments.extend([
        "-w",
        "%{http_code} %{num_connects} %{size_download} %header{x-server}\n",
    ]);
    let files: Vec<_> = (0..urls.len())
        .map(|turn| lab.dir().join(format!("turn{turn}")).display().to_string())
        .collect();
    for (url, file) in urls.iter().zip(&files) {
        arguments.extend(["-o", file, url]);
    }
    let (told, expected) = (curl(lab, &arguments), content(size));
    for file in &files {
        assert!(fs::read(file).unwrap() == expected, "{file}");
    }
    told.lines().map(str::to_owned).collect()
}

/// The service's name is the first server's address, and its certificate is known.
fn name(lab: &Lab) -> [String; 4] {
    let (address, dir) = (lab.server(1).address(), lab.dir());
    [
        "--resolve".to_owned(),
        format!("www.example.com:8443:{address}"),
        "--cacert".to_owned(),
        format!("{}/www.pem", dir.display()),
    ]
}

fn url(path: &str) -> String {
    format!("https://www.example.com:8443{path}")
}
