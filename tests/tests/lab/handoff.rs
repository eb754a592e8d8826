//! Live hand-off with real web servers and unmodified clients: the connection moves, the client doesn't notice.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use balancer_tests::{BY_CONNECTIONS, Host, Lab, Server, Signal, connect_from, until};
use socket2::Socket;

const PATIENCE: Duration = Duration::from_secs(20);

/// What is below `/NUMBER/` is for the server of that number, what is below `/either/` for the last two. The web server behind the module is the lab's nginx, which names
/// itself in each answer.
const RULES: &str = r#"
[[service]]
name = "www"
ports = ["8000/tcp"]
capacity = 10000

[[http]]
service = "www"
backend = "127.0.0.1:80"

[[http.rule]]
name = "uploads"
path = "/upload"
servers = ["web3"]
route = "handoff"
"#;

/// Bytes of a large answer.
const LARGE: usize = 10_000_000;

/// Three servers; each has the files `/NUMBER/SIZE` of all.
fn start() -> Option<Lab> {
    let mut lab = Lab::new(3)?;
    let mut rules = BY_CONNECTIONS.to_owned() + RULES;
    for number in 1..=3 {
        rules += &rule(&number.to_string(), &format!("[\"web{number}\"]"));
    }
    rules += &rule("either", "[\"web2\", \"web3\"]");
    rules += &rule("bank", "[\"web2\", \"web3\"]");
    rules += "stateful = {}\n";
    for server in lab.servers() {
        for name in ["1", "2", "3", "either", "bank"] {
            let dir = server.dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            for size in [1_000, 100_000, 1_000_000, LARGE] {
                fs::write(dir.join(size.to_string()), content(size)).unwrap();
            }
        }
    }
    // Another copy of the file is what the client compares with.
    fs::write(lab.dir().join("large"), content(LARGE)).unwrap();
    lab.start(&rules, "native");
    Some(lab)
}

fn rule(name: &str, servers: &str) -> String {
    format!(
        "\n[[http.rule]]\nname = \"{name}\"\npath = \"/{name}/*\"\nservers = {servers}\nroute = \"handoff\"\n"
    )
}

#[test]
fn downloads_move_one_after_the_other() {
    let Some(lab) = start() else { return };
    let before = (sent(lab.server(1)), sent(lab.server(3)));
    let url = url(&lab, &format!("/3/{LARGE}"));
    let sums = sums(
        &lab,
        200,
        &format!("curl -s --max-time 20 {url} | sha256sum"),
    );
    assert_eq!(sums, BTreeMap::from([(reference(&lab), 200)]));
    let bytes = (
        sent(lab.server(1)) - before.0,
        sent(lab.server(3)) - before.1,
    );
    assert!(bytes.1 > 200 * LARGE as u64, "{bytes:?}");
    assert!(
        bytes.0 < bytes.1 / 50,
        "the first server has sent {bytes:?}"
    );
    all_moved(&lab, 200);
    no_damage(&lab);
}

#[test]
fn downloads_move_fifty_at_a_time() {
    let Some(lab) = start() else { return };
    let dir = lab.dir().join("got");
    fs::create_dir(&dir).unwrap();
    let before = sent(lab.server(1));
    lab.client.shell(&format!(
        "curl -sf --max-time 60 --parallel --parallel-immediate --parallel-max 50 -o '{}/#1' '{}?[1-50]'",
        dir.display(),
        url(&lab, &format!("/3/{LARGE}"))
    ));
    let sums = lab
        .client
        .shell(&format!("cat {}/* | sha256sum", dir.display()));
    let all = lab.client.shell(&format!(
        "for i in $(seq 50); do cat {}/large; done | sha256sum",
        lab.dir().display()
    ));
    assert_eq!(sums, all);
    let bytes = sent(lab.server(1)) - before;
    all_moved(&lab, 50);
    // The client's acknowledgements, one for two segments, as it merges none: each is sent on, 66 bytes for 2,896.
    assert!(
        bytes < 50 * LARGE as u64 / 25,
        "the first server has sent {bytes} bytes"
    );
    no_damage(&lab);
}

#[test]
fn a_connection_moves_nine_times() {
    let Some(lab) = start() else { return };
    let servers = [1, 2, 3, 1, 3, 2, 1, 2, 3, 2];
    for round in 0..10 {
        let mut command = lab.client.command("curl");
        command.args(["-s", "--max-time", "20", "-w"]);
        command.arg("%{http_code} %{num_connects} %{size_download} %header{x-server}\n");
        let size = [1_000, 100_000][round % 2];
        for (turn, number) in servers.iter().enumerate() {
            let url = url(&lab, &format!("/{number}/{size}"));
            command.arg("-o").arg(lab.dir().join(turn.to_string()));
            command.arg(url);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let expected: Vec<_> = (0..)
            .zip(servers)
            .map(|(turn, number)| format!("200 {} {size} web{number}", u8::from(turn == 0)))
            .collect();
        assert_eq!(told.lines().collect::<Vec<_>>(), expected, "round {round}");
        let expected = content(size);
        for turn in 0..servers.len() {
            let got = fs::read(lab.dir().join(turn.to_string())).unwrap();
            assert!(got == expected, "round {round}, turn {turn}");
        }
    }
    all_moved(&lab, 90);
    no_damage(&lab);
}

#[test]
fn the_last_server_of_a_connection_has_it() {
    let Some(lab) = start() else { return };
    let mut stream = connect(&lab, 0);
    for number in [2, 3, 1, 3] {
        let (server, body) = get(&mut stream, &format!("/{number}/1000"), "keep-alive");
        assert_eq!((server, body), (format!("web{number}"), content(1_000)));
        // It stays with its last owner for a moment, silent.
        until("only its owner has it", PATIENCE, || {
            let owners = lab.servers().iter().filter(|server| {
                let which = "ss -Htn state established '( sport = :8000 and dst 10.77.0.1 )'";
                !server.host.shell(which).is_empty()
            });
            owners
                .map(|owner| owner.host.label())
                .eq([format!("web{number}")])
        });
    }
    all_moved(&lab, 4);
    no_damage(&lab);
}

#[test]
fn uploads_move_while_they_arrive() {
    let Some(lab) = start() else { return };
    let (file, url) = (lab.dir().join("upload"), url(&lab, "/upload"));
    fs::write(&file, content(1_000_000)).unwrap();
    let stored = sums(
        &lab,
        100,
        &format!(
            "curl -s --max-time 20 --data-binary @{} -H Expect: {url}",
            file.display()
        ),
    );
    assert_eq!(stored, BTreeMap::from([("stored".to_owned(), 100)]));
    // Whole, and there, not here.
    let uploads = |number| {
        let dir = lab.server(number).dir().join("uploads");
        let files = fs::read_dir(dir).into_iter().flatten();
        files
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .collect::<Vec<_>>()
    };
    let (there, whole) = (uploads(3), content(1_000_000));
    assert_eq!(there.len(), 100);
    assert!(there.iter().all(|bytes| *bytes == whole));
    assert!(uploads(1).is_empty());
    // On a machine with much else to do a few take too long to move.
    let (moved, failed) = moves(&lab);
    assert!(moved >= 90, "{moved} have moved, {failed} couldn't");
    no_damage(&lab);
}

#[test]
fn a_lossy_way_loses_nothing() {
    let Some(lab) = start() else { return };
    lose(&lab);
    let url = url(&lab, "/3/1000000");
    let sums = sums(
        &lab,
        30,
        &format!("curl -s --max-time 20 {url} | sha256sum"),
    );
    let reference = lab.client.shell(&format!(
        "sha256sum < {}",
        lab.server(3).dir().join("3/1000000").display()
    ));
    let reference = reference.trim_end().to_owned();
    assert_eq!(sums, BTreeMap::from([(reference, 30)]));
    all_moved(&lab, 30);
}

#[test]
fn a_port_that_is_used_again_is_a_new_connection() {
    let Some(lab) = start() else { return };
    let mut moved = 0;
    for turn in 0..60 {
        let number = 1 + turn % 3;
        moved += u64::from(number != 1 || turn % 4 == 3);
        let mut stream = connect(&lab, 40_000);
        let path = format!("/{number}/1000");
        if turn % 4 == 3 {
            // This one breaks off.
            write!(stream, "GET /3/{LARGE} HTTP/1.1\r\nHost: lab\r\n\r\n").unwrap();
            stream.read_exact(&mut [0; 1_000]).unwrap();
            let socket = Socket::from(stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            drop(socket);
            continue;
        }
        let (server, body) = get(&mut stream, &path, "close");
        assert_eq!(
            (server, body),
            (format!("web{number}"), content(1_000)),
            "turn {turn}"
        );
    }
    // More, if the first packet went where the port's last connection had moved.
    let (counted, failed) = moves(&lab);
    assert!(
        counted >= moved && failed == 0,
        "{counted} of {moved}, {failed} failed"
    );
}

#[test]
fn a_peer_that_does_not_answer_costs_no_request() {
    let Some(lab) = start() else { return };
    // Stopped for a moment: what it wakes to late is somebody else's by then.
    let ask = |path: &str| lab.client.curl(&url(&lab, path), &[]);
    assert_eq!(ask("/3/100000").server, "web3");
    lab.server(3).signal_balancer(Signal::SIGSTOP);
    let answers: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..5).map(|_| scope.spawn(|| ask("/3/100000"))).collect();
        until("its peers notice", PATIENCE, || {
            lab.server(1).sees("web3").as_deref() != Some("online")
        });
        lab.server(3).signal_balancer(Signal::SIGCONT);
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, answer.size), (200, 100_000), "{answers:?}");
    }
    until("web3 is asked again", PATIENCE, || {
        ask("/3/100000").server == "web3"
    });
    no_damage(&lab);

    // Dead, and nobody knows it yet: what both could answer the other one does.
    lab.switch.shell("ip link set web3 down");
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = || ask("/either/100000");
        let asked: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
        let answers = asked.into_iter().map(|asked| asked.join().unwrap());
        answers.collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, answer.size), (200, 100_000), "{answers:?}");
        assert_eq!(answer.server, "web2", "{answers:?}");
    }
    until("its peers notice", PATIENCE, || {
        lab.server(1).sees("web3").as_deref() != Some("online")
    });
    for _ in 0..5 {
        let answer = ask("/either/100000");
        assert_eq!((answer.status, answer.server.as_str()), (200, "web2"));
    }
}

#[test]
fn a_daemon_that_is_killed_spoils_no_answer() {
    let Some(mut lab) = start() else { return };
    let file = lab.server(3).dir().join("either/100000");
    let whole = lab.client.shell(&format!("sha256sum < {}", file.display()));
    // With what curl made of it: an answer of the one that is killed may break off, but curl knows.
    let script = format!(
        "for i in $(seq 60); do curl -sf --max-time 10 -o {dir}/got-$0-$i {url} && sha256sum < {dir}/got-$0-$i; done",
        dir = lab.dir().display(),
        url = url(&lab, "/either/100000")
    );
    let asked: Vec<_> = (0..4)
        .map(|number: u8| {
            let mut command = lab.client.command("sh");
            command.args(["-c", &script, &number.to_string()]);
            lab.client.spawn(move || command.output().unwrap())
        })
        .collect();
    until("connections move to web3", PATIENCE, || {
        lab.server(3).requests("of_peers") > 10
    });
    lab.server_mut(3).end_balancer(Signal::SIGKILL);
    let text: String = asked
        .into_iter()
        .map(|asked| String::from_utf8(asked.join().unwrap().stdout).unwrap())
        .collect();
    assert!(text.lines().all(|sum| sum == whole.trim_end()), "{text}");
    // Those that were at web3, one a client at most, and those that it had accepted when it was killed.
    let answered = text.lines().count();
    assert!(answered >= 240 - 8, "{answered} of 240");
    no_wrong_checksums(&lab);
}

#[test]
fn peers_that_take_no_connection_cost_no_request() {
    let Some(lab) = start() else { return };
    // It drains, and nobody else has that.
    assert_eq!(lab.server(3).ask(&["drain"]).code, Some(0));
    until("its peers notice", PATIENCE, || {
        let told = lab
            .server(1)
            .json(&["explain", "http", "GET", "http://lab:8000/3/1000"]);
        told["reason"]
            .to_string()
            .contains("no dedicated server is ready")
    });
    let file = lab.dir().join("answers");
    let told = lab.client.shell(&format!(
        "curl -s --max-time 20 -o {} -w '%{{http_code}} %{{num_connects}} %header{{x-server}}\n' '{}?[1-150]'",
        file.display(),
        url(&lab, "/3/1000")
    ));
    let mut expected = vec!["200 0 web3"; 150];
    expected[0] = "200 1 web3";
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    // It isn't asked again and again.
    let (moved, failed) = moves(&lab);
    assert!(moved == 0 && (1..20).contains(&failed), "{moved} {failed}");
    assert_eq!(lab.server(3).ask(&["undrain"]).code, Some(0));
    until("connections move there again", PATIENCE, || {
        lab.client.curl(&url(&lab, "/3/1000"), &[]);
        moves(&lab).0 > 0
    });
    no_damage(&lab);
}

#[test]
fn what_a_full_peer_has_no_room_for_is_relayed() {
    let Some(mut lab) = start() else { return };
    // Room for two connections in each of its threads.
    let count = thread::available_parallelism().unwrap().get();
    let full = fs::read_to_string(lab.dir().join("balancer.toml")).unwrap().replace(
        "backend = \"127.0.0.1:80\"\n",
        &format!("backend = \"127.0.0.1:80\"\nlimits = {{ connections = {} }}\ntimeouts = {{ header = \"2s\" }}\n", 2 * count),
    );
    let config = lab.config(&full);
    lab.server_mut(3).end_balancer(Signal::SIGTERM);
    lab.server_mut(3)
        .attach(&["--config", &config, "--mode", "native"]);
    lab.wait_for_peers();
    let held = lab.client.enter(|| {
        let open = |_| std::net::TcpStream::connect((lab.server(3).address(), 8000)).unwrap();
        (0..40).map(open).collect::<Vec<_>>()
    });
    thread::sleep(Duration::from_millis(100));
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = || lab.client.curl(&url(&lab, "/3/100000"), &[]);
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        thread::sleep(Duration::from_secs(1));
        drop(held);
        let answers = asked.into_iter().map(|asked| asked.join().unwrap());
        answers.collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, answer.size), (200, 100_000), "{answers:?}");
        assert_eq!(answer.server, "web3", "{answers:?}");
    }
    let (moved, failed) = moves(&lab);
    assert!(moved == 0 && failed > 0, "{moved} {failed}");
    no_damage(&lab);
}

#[test]
fn servers_as_clients_are_relayed() {
    let Some(lab) = start() else { return };
    let url = url(&lab, "/3/100000");
    for number in [1, 2, 3] {
        for _ in 0..2 {
            let answer = lab.server(number).host.curl(&url, &[]);
            let told = (answer.status, answer.size, answer.server.as_str());
            assert_eq!(told, (200, 100_000, "web3"), "web{number}");
        }
    }
    assert_eq!(moves(&lab), (0, 6));
    // Nobody else suffers for it.
    assert_eq!(lab.client.curl(&url, &[]).server, "web3");
    assert_eq!(moves(&lab), (1, 6));
}

#[test]
fn clients_by_an_interface_without_balancer_are_relayed() {
    let Some(lab) = start() else { return };
    let server = lab.server(1);
    // Answers go by the other one, so that the way back tells nothing.
    server.host.shell(&format!(
        "ip link add other type veth peer name other netns {}
         ip address add 10.88.0.1/24 dev other; ip link set other up
         sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.other.rp_filter=0",
        lab.client.namespace()
    ));
    lab.client.shell(&format!(
        "ip address add 10.88.0.2/24 dev other; ip link set other up
         ip route add {} via 10.88.0.1 dev other src {}",
        server.address(),
        lab.client.address()
    ));
    let told = lab.client.shell(&format!(
        "curl -s --max-time 20 -o /dev/null -o /dev/null -o /dev/null -w '%{{http_code}} %{{size_download}} %{{num_connects}} %header{{x-server}}\n' {0} {0} {0}",
        url(&lab, "/3/100000")
    ));
    let expected = [
        "200 100000 1 web3",
        "200 100000 0 web3",
        "200 100000 0 web3",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(moves(&lab), (0, 1), "it is tried once on a connection");
    no_damage(&lab);
}

#[test]
fn connections_by_ipv6_move() {
    let Some(lab) = start() else { return };
    let base = format!("http://[{}]:8000", lab.server(1).host.address_v6());
    let whole = reference(&lab);
    let sums = sums(
        &lab,
        10,
        &format!("curl -s --max-time 20 {base}/3/{LARGE} | sha256sum"),
    );
    assert_eq!(sums, BTreeMap::from([(whole, 10)]));
    all_moved(&lab, 10);
    let told = lab.client.shell(&format!(
        "curl -s --max-time 20 -w '%{{num_connects}} %header{{x-server}}\n' -o /dev/null {base}/3/1000 \
              -o /dev/null {base}/2/1000 -o /dev/null {base}/1/1000 -o /dev/null {base}/3/1000"
    ));
    assert_eq!(told, "1 web3\n0 web2\n0 web1\n0 web3\n");
    all_moved(&lab, 14);
    no_damage(&lab);
}

#[test]
fn connections_of_a_caretaker_move() {
    let Some(lab) = start() else { return };
    lab.switch.shell("ip link set web1 down");
    let mut caretaker = String::new();
    until("another one answers for web1", PATIENCE, || {
        let answer = lab.client.curl(&url(&lab, "/"), &["--max-time", "1"]);
        caretaker = answer.server;
        answer.status == 200
    });
    let before = moves(&lab);
    for number in [2, 3] {
        for _ in 0..5 {
            let answer = lab
                .client
                .curl(&url(&lab, &format!("/{number}/100000")), &[]);
            let told = (answer.status, answer.size, answer.server);
            assert_eq!(told, (200, 100_000, format!("web{number}")), "{caretaker}");
        }
    }
    let moved = moves(&lab);
    assert_eq!((moved.0 - before.0, moved.1), (5, before.1), "{caretaker}");
}

#[test]
fn requests_behind_the_one_that_moves_move_with_it() {
    let Some(lab) = start() else { return };
    let mut stream = connect(&lab, 0);
    let order = [3, 2, 2, 1, 3];
    let requests: String = order
        .map(|number| format!("GET /{number}/100000 HTTP/1.1\r\nHost: lab\r\n\r\n"))
        .concat();
    stream.write_all(requests.as_bytes()).unwrap();
    for number in order {
        let (server, body) = answer(&mut stream);
        assert_eq!(server, format!("web{number}"));
        assert!(body == content(100_000), "of web{number}");
    }
    all_moved(&lab, 4);
    no_damage(&lab);
}

#[test]
fn an_upload_that_waits_for_leave_moves() {
    let Some(lab) = start() else { return };
    let file = lab.dir().join("upload");
    fs::write(&file, content(1_000_000)).unwrap();
    let told = lab.client.shell(&format!(
        "for i in $(seq 5); do
             curl -s --max-time 20 --expect100-timeout 15 -w ' %{{time_total}}\n' --data-binary @{} -H 'Expect: 100-continue' {}
         done",
        file.display(),
        url(&lab, "/upload")
    ));
    assert_eq!(told.lines().count(), 5, "{told}");
    for line in told.lines() {
        let seconds = line.strip_prefix("stored ").map(str::parse::<f64>);
        assert!(
            matches!(seconds, Some(Ok(seconds)) if seconds < 5.0),
            "{told}"
        );
    }
    all_moved(&lab, 5);
    let files = fs::read_dir(lab.server(3).dir().join("uploads")).unwrap();
    for file in files {
        assert!(fs::read(file.unwrap().path()).unwrap() == content(1_000_000));
    }
    no_damage(&lab);
}

#[test]
fn a_transaction_moves_to_its_server() {
    let Some(lab) = start() else { return };
    let jar = lab.dir().join("jar").display().to_string();
    let ask = |path: &str| {
        let jar = ["-b", jar.as_str(), "-c", jar.as_str()];
        lab.client.curl(&url(&lab, path), &jar)
    };
    let home = ask("/bank/").server;
    assert!(["web2", "web3"].contains(&home.as_str()), "{home}");
    for _ in 0..9 {
        let answer = ask("/bank/1000");
        assert_eq!(
            (answer.size, answer.server.as_str()),
            (1_000, home.as_str())
        );
    }
    all_moved(&lab, 10);
    no_damage(&lab);
}

/// Connections that have moved, and those that couldn't, of all servers.
pub fn moves(lab: &Lab) -> (u64, u64) {
    let count = |name: &str| {
        let servers = lab.servers().iter();
        servers.map(|server| server.requests(name)).sum()
    };
    (count("handed_off"), count("handoff_failed"))
}

/// Waits until so many connections have moved, and none has failed to. On a busy machine a peer's word that one goes on there comes after
/// all that it brings.
pub fn all_moved(lab: &Lab, times: u64) {
    until("each move is counted", PATIENCE, || {
        let (moved, failed) = moves(lab);
        moved + failed >= times
    });
    assert_eq!(moves(lab), (times, 0));
}

/// What a shell command prints, run so many times in a row by the client, and how often.
pub fn sums(lab: &Lab, times: u32, command: &str) -> BTreeMap<String, usize> {
    let text = lab.client.shell(&format!(
        "for i in $(seq {times}); do {command}; echo; done"
    ));
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        *sums.entry(line.to_owned()).or_default() += 1;
    }
    sums
}

/// From now on one packet in a hundred is lost, to the client and from it.
pub fn lose(lab: &Lab) {
    lab.client.shell(
        "nft 'add table inet lossy
              add chain inet lossy in { type filter hook input priority 0; }
              add chain inet lossy out { type filter hook output priority 0; }
              add rule inet lossy in numgen random mod 100 < 1 drop
              add rule inet lossy out numgen random mod 100 < 1 drop'",
    );
}

/// What `sha256sum` says of a large answer.
pub fn reference(lab: &Lab) -> String {
    let text = lab
        .client
        .shell(&format!("sha256sum < {}/large", lab.dir().display()));
    text.trim_end().to_owned()
}

/// Bytes that no two places of have alike.
pub fn content(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    std::iter::repeat_with(|| random.u8(..))
        .take(size)
        .collect()
}

/// At the first server, whatever it is for.
fn url(lab: &Lab, path: &str) -> String {
    format!("http://{}:8000{path}", lab.server(1).address())
}

/// Bytes that a server has put on its link.
pub fn sent(server: &Server) -> u64 {
    let text = server.host.run("ip", &["-s", "-j", "link", "show", "eth0"]);
    let link: serde_json::Value = serde_json::from_str(&text).unwrap();
    link[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
}

/// No host has received a wrong checksum, and no connection of the client's a reset. A connection that is over may get one: so a
/// host answers an acknowledgement that the client sends twice.
fn no_damage(lab: &Lab) {
    no_wrong_checksums(lab);
    none_counted(&lab.client, "TcpEstabResets TcpExtTCPChallengeACK");
}

pub fn no_wrong_checksums(lab: &Lab) {
    let hosts = lab.servers().iter().map(|server| &server.host);
    for host in hosts.chain([&lab.client]) {
        none_counted(host, "TcpInCsumErrors IpInHdrErrors");
    }
}

/// None of these counters of the host's kernel has counted anything.
fn none_counted(host: &Host, counters: &str) {
    let counted = host.shell(&format!("nstat -asz {counters}"));
    let lines = counted.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(
        lines.clone().count(),
        counters.split(' ').count(),
        "{counted}"
    );
    for line in lines {
        let count = line.split_whitespace().nth(1);
        assert_eq!(count, Some("0"), "{}: {line}", host.label());
    }
}

/// A connection of the client's to the first server, from a port of its own unless that is 0.
fn connect(lab: &Lab, port: u16) -> std::net::TcpStream {
    let to = (lab.server(1).address(), 8000).into();
    let stream = lab.client.enter(|| connect_from(port, to)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Who answers, and what. With `connection: close`, waits for the end.
fn get(stream: &mut std::net::TcpStream, path: &str, connection: &str) -> (String, Vec<u8>) {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n\r\n"
    )
    .unwrap();
    let told = answer(stream);
    if connection == "close" {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    told
}

/// Who answers, and what.
fn answer(stream: &mut std::net::TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let header = |name: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("no {name} in {head}"))
            .trim()
    };
    let mut body = vec![0; header("content-length:").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (header("x-server:").to_owned(), body)
}
