//! Live hand-off with real web servers and unmodified clients: the connection moves, the client doesn't notice.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use balancer_tests::{Lab, Server, Signal, until, until_some};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);

/// What is below `/NUMBER/` is for the server of that number, what is below `/either/` for the last two. The web server behind the module is the lab's nginx, which names
/// itself in each answer.
const RULES: &str = r#"
[load]
cpu = "0%"
run_queue = "0%"
memory_pressure = "0%"

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
    let mut rules = RULES.to_owned();
    for number in 1..=3 {
        rules += &rule(&number.to_string(), &format!("[\"web{number}\"]"));
    }
    rules += &rule("either", "[\"web2\", \"web3\"]");
    for server in lab.servers() {
        for name in ["1", "2", "3", "either"] {
            let dir = server.dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            for size in [1_000, 100_000, 1_000_000, LARGE] {
                fs::write(dir.join(size.to_string()), content(size)).unwrap();
            }
        }
    }
    // Another copy of the file is what the client compares with.
    fs::write(lab.dir().join("large"), content(LARGE)).unwrap();
    lab.client.shell(
        "nft 'add table inet resets
              add chain inet resets in { type filter hook input priority 0; }
              add rule inet resets in tcp sport 8000 tcp flags & rst == rst counter'",
    );
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
    // The client's acknowledgements: each is sent on.
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
        for number in servers {
            command.args(["-o", "/dev/null", &url(&lab, &format!("/{number}/{size}"))]);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let expected: Vec<_> = (0..)
            .zip(servers)
            .map(|(turn, number)| format!("200 {} {size} web{number}", u8::from(turn == 0)))
            .collect();
        assert_eq!(told.lines().collect::<Vec<_>>(), expected, "round {round}");
    }
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
    no_damage(&lab);
}

#[test]
fn uploads_move_while_they_arrive() {
    let Some(lab) = start() else { return };
    let (file, url) = (lab.dir().join("upload"), url(&lab, "/upload"));
    fs::write(&file, content(4_000_000)).unwrap();
    let stored = sums(
        &lab,
        20,
        &format!(
            "curl -s --max-time 20 --data-binary @{} -H Expect: {url}",
            file.display()
        ),
    );
    assert_eq!(stored, BTreeMap::from([("stored".to_owned(), 20)]));
    // Whole, and there, not here.
    let uploads = |number| {
        let dir = lab.server(number).dir().join("uploads");
        let files = fs::read_dir(dir).into_iter().flatten();
        files
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(uploads(3).len(), 20);
    assert!(uploads(3).iter().all(|bytes| *bytes == content(4_000_000)));
    assert!(uploads(1).is_empty());
    no_damage(&lab);
}

#[test]
fn a_lossy_way_loses_nothing() {
    let Some(lab) = start() else { return };
    lab.client.shell(
        "nft 'add table inet lossy
              add chain inet lossy in { type filter hook input priority 0; }
              add chain inet lossy out { type filter hook output priority 0; }
              add rule inet lossy in numgen random mod 100 < 1 drop
              add rule inet lossy out numgen random mod 100 < 1 drop'",
    );
    let url = url(&lab, "/3/1000000");
    let sums = sums(
        &lab,
        30,
        &format!("curl -s --max-time 20 {url} | sha256sum"),
    );
    assert_eq!(sums.into_values().collect::<Vec<_>>(), [30]);
}

#[test]
fn a_port_that_is_used_again_is_a_new_connection() {
    let Some(lab) = start() else { return };
    for turn in 0..60 {
        let number = 1 + turn % 3;
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

    // Dead: what both could answer the other one does.
    lab.switch.shell("ip link set web3 down");
    until("its peers notice", PATIENCE, || {
        lab.server(1).sees("web3").as_deref() != Some("online")
    });
    for _ in 0..5 {
        let answer = ask("/either/100000");
        assert_eq!((answer.status, answer.server.as_str()), (200, "web2"));
    }
}

/// What a shell command prints, run so many times in a row by the client, and how often.
fn sums(lab: &Lab, times: u32, command: &str) -> BTreeMap<String, usize> {
    let text = lab.client.shell(&format!(
        "for i in $(seq {times}); do {command}; echo; done"
    ));
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        *sums.entry(line.to_owned()).or_default() += 1;
    }
    sums
}

/// What `sha256sum` says of a large answer.
fn reference(lab: &Lab) -> String {
    let text = lab
        .client
        .shell(&format!("sha256sum < {}/large", lab.dir().display()));
    text.trim_end().to_owned()
}

/// Bytes that no two places of have alike.
fn content(size: usize) -> Vec<u8> {
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
fn sent(server: &Server) -> u64 {
    let text = server.host.run("ip", &["-s", "-j", "link", "show", "eth0"]);
    let link: serde_json::Value = serde_json::from_str(&text).unwrap();
    link[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
}

/// No host has received a wrong checksum, and the client no reset.
fn no_damage(lab: &Lab) {
    let hosts = lab.servers().iter().map(|server| &server.host);
    for host in hosts.chain([&lab.client]) {
        let counters = host.shell("nstat -asz TcpInCsumErrors IpInHdrErrors");
        for line in counters.lines().filter(|line| !line.starts_with('#')) {
            let count = line.split_whitespace().nth(1);
            assert_eq!(count, Some("0"), "{}: {line}", host.label());
        }
    }
    let resets = lab.client.shell("nft list chain inet resets in");
    assert!(resets.contains("counter packets 0 "), "{resets}");
}

/// A connection of the client's to the first server, from a port of its own unless that is 0.
fn connect(lab: &Lab, port: u16) -> std::net::TcpStream {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        socket.bind(&from.into())?;
        let to = SocketAddr::from((lab.server(1).address(), 8000));
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket)
    };
    // The connection before may not be quite over.
    let socket = until_some("a connection", Duration::from_secs(2), || {
        match lab.client.enter(open) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => None,
            socket => Some(socket.unwrap()),
        }
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Who answers, and what. With `connection: close`, waits for the end.
fn get(stream: &mut std::net::TcpStream, path: &str, connection: &str) -> (String, Vec<u8>) {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n\r\n"
    )
    .unwrap();
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
    if connection == "close" {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    (header("x-server:").to_owned(), body)
}
