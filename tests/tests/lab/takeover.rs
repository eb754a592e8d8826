//! Identities of servers that are gone: another one answers for them until their home is back.
#![expect(clippy::disallowed_methods, reason = "an outage is real time")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use balancer_tests::{Busy, Host, Lab, Process, Server, Signal, WITHOUT_CPU, adding, until};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::similar;
use crate::hostile::{count_frames, frames};

/// Bounds waits for what takes the time-out, or some reports.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest time without an answer when a host has died: a time-out of 1.5 s, and what a busy test machine adds.
const DEAD: Duration = Duration::from_secs(2);

/// The same when an identity is handed over in good order. This client has one request at a time: one whose packet comes to the new
/// holder before it knows the flow is repeated after 200 ms (Linux' `TCP_RTO_MIN`). `cargo xtask bench failover` has many clients.
const HANDED: Duration = Duration::from_millis(300);

#[test]
fn a_dead_servers_address_is_answered_by_another_and_handed_back() {
    let Some(mut lab) = Lab::new(3) else { return };
    let before = lab.server(1).dump();
    lab.start(WITHOUT_CPU, "native");
    let address = lab.server(2).address().into();
    let client = Client::start(&lab.client, address);
    client.wait_for("web2");

    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    until("another one has it", PATIENCE, || {
        client.last() != "web2" && holder(lab.server(1), address) != "web2"
    });
    let caretaker = holder(lab.server(1), address);
    assert_eq!(holder(lab.server(3), address), caretaker);
    // Others know it by a report.
    let number = if caretaker == "web1" { 1 } else { 3 };
    let peers = lab.server(number).ask(&["peers"]).output;
    let start = format!("{address} web2 {caretaker} ");
    let told = |line: &str| {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        line.starts_with(&start) && line.ends_with(" 2 the holder before died")
    };
    assert!(peers.lines().any(told), "{peers}");
    let own = lab.server(2).ask(&["status"]).output;
    assert!(own.contains("WARNING: eth0 has no carrier"), "{own}");
    client.wait_for(&caretaker);
    exposes_services_alone(&lab, number, address);
    // A new client, which has never heard of the address.
    lab.client.run("ip", &["neigh", "flush", "all"]);
    thread::sleep(Duration::from_millis(500));
    let (dead, _) = client.outage();
    println!("host dead: {dead:?} without an answer");
    assert!(dead <= DEAD, "{dead:?}");

    lab.switch.run("ip", &["link", "set", "web2", "up"]);
    until("its home has it", PATIENCE, || {
        client.last() == "web2"
            && (1..=3).all(|number| holder(lab.server(number), address) == "web2")
    });
    thread::sleep(Duration::from_millis(500));
    let (back, served) = client.outage();
    println!("hand-back: {back:?} without an answer; served by {served:?}");
    assert!(back <= HANDED, "{back:?}");
    let own = lab.server(2).ask(&["status"]).output;
    assert!(!own.contains("WARNING"), "{own}");
    client.end();
    end_all(&mut lab);
    similar(&lab.server(1).dump(), &before);
}

#[test]
fn an_identity_that_balancer_added_is_handed_over_at_the_end() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let address: IpAddr = "10.77.0.201".parse().unwrap();
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    let arguments = adding(&config, "10.77.0.201/24");
    lab.server_mut(1).attach(&arguments);
    lab.wait_for_peers();

    let client = Client::start(&lab.client, address);
    client.wait_for("web1");
    for _ in 0..3 {
        client.outage();
        lab.server_mut(1).end_balancer(Signal::SIGTERM);
        until("another one has it", PATIENCE, || client.last() != "web1");
        thread::sleep(Duration::from_millis(300));
        let (gone, _) = client.outage();
        lab.server_mut(1).attach(&arguments);
        until("its home has it", PATIENCE, || client.last() == "web1");
        thread::sleep(Duration::from_millis(300));
        let (back, _) = client.outage();
        println!("goodbye: {gone:?}, hand-back: {back:?} without an answer");
        assert!(gone <= HANDED && back <= HANDED, "{gone:?}, {back:?}");
        lab.wait_for_peers();
    }
    client.end();
}

/// A request in flight keeps its daemon for some seconds, and the address is another server's meanwhile.
#[test]
fn a_server_that_ends_announces_nothing_that_it_gave_up() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = lab.config(
        "[load]\ncpu = \"0%\"\n\n[[service]]\nname = \"www\"\nports = [\"8000/tcp\"]\ncapacity = 20\n\n\
         [[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:80\"\n",
    );
    lab.server_mut(2)
        .attach(&["--config", &config, "--mode", "native"]);
    let address: IpAddr = "10.77.0.201".parse().unwrap();
    let link = (lab.server(1).host).run("ip", &["-br", "link", "show", "dev", "eth0"]);
    let mac = link
        .split_whitespace()
        .nth(2)
        .expect("its Ethernet address");
    count_frames(
        &lab,
        &format!("arp saddr ether {mac} arp saddr ip {address}"),
    );
    lab.server_mut(1).attach(&adding(&config, "10.77.0.201/24"));
    lab.wait_for_peers();
    let body = lab.dir().join("body");
    let mut request = lab.client.command("curl");
    request
        .args(["-sN", "http://10.77.0.201:8000/hold/12", "-o"])
        .arg(&body);
    let _request = Process::start(request, &lab.dir().join("logs/request.log"));
    until("it is answered", PATIENCE, || {
        fs::metadata(&body).is_ok_and(|body| body.len() > 0)
    });
    let begun = Instant::now();
    lab.server(1).signal_balancer(Signal::SIGTERM);
    until("the other one has it", PATIENCE, || {
        holder(lab.server(2), address) == "web2"
    });
    let announced = frames(&lab);
    assert!(announced > 0, "its announcements are seen");
    assert_eq!(lab.server_mut(1).wait_for_end().code(), Some(0));
    assert!(
        begun.elapsed() > Duration::from_secs(4),
        "nothing was in flight"
    );
    assert_eq!(frames(&lab), announced);
}

/// The kernel would answer for it, and reset connections that peers have.
#[test]
fn an_identity_is_not_there_before_the_program_is() {
    let Some(mut lab) = Lab::new(1) else { return };
    let config = lab.config(WITHOUT_CPU);
    let mut look = lab.server(1).host.command("sh");
    look.args([
        "-ec",
        "until ip -4 -o address show dev eth0 | grep -q 10.77.0.201; do :; done; ip -d link show dev eth0",
    ]);
    let mut look = Process::start(look, &lab.dir().join("logs/look.log"));
    lab.server_mut(1).attach(&adding(&config, "10.77.0.201/24"));
    until("the address is there", PATIENCE, || look.ended().is_some());
    assert!(look.log().contains("prog/xdp"), "{}", look.log());
}

#[test]
fn what_could_not_be_given_back_is_tried_again_and_warned_of_until_then() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let (caretaker, address) = (lab.server(1), lab.server(2).address().into());
    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    until("another one has it", PATIENCE, || {
        holder(caretaker, address) == "web1"
    });
    // The undo journal can't be written any more.
    let draft = format!("{}.new", journal(caretaker).display());
    fs::create_dir(&draft).unwrap();
    lab.switch.run("ip", &["link", "set", "web2", "up"]);
    let warning =
        format!("WARNING: {address} is not this server's any more, but can't be given up yet: ");
    let warns = || caretaker.ask(&["status"]).output.contains(&warning);
    until("it says so", PATIENCE, warns);
    lab.wait_for_peers();
    for _ in 0..20 {
        assert!(warns(), "{}", caretaker.ask(&["status"]).output);
        thread::sleep(Duration::from_millis(100));
    }
    fs::remove_dir(&draft).unwrap();
    until("it has been given up", PATIENCE, || {
        let on_lo = caretaker.host.run("ip", &["address", "show", "dev", "lo"]);
        !warns() && on_lo.contains(&format!("{address}/32"))
    });
    assert_eq!(holder(caretaker, address), "web2");
}

/// Reports to a group of IPv6, among servers that have nothing else.
#[test]
fn servers_with_ipv6_alone_take_over_from_each_other() {
    let Some(mut lab) = Lab::new(3) else { return };
    for server in lab.servers() {
        let host = &server.host;
        host.run("ip", &["-4", "address", "flush", "dev", "eth0"]);
    }
    let group = format!("[exchange]\ngroup = \"[ff02::9918]:9918\"\n{WITHOUT_CPU}");
    lab.start(&group, "native");
    let address = lab.server(2).host.address_v6().into();
    let client = Client::start(&lab.client, address);
    client.wait_for("web2");
    client.outage();

    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    until("another one has it", PATIENCE, || {
        client.last() != "web2" && holder(lab.server(1), address) != "web2"
    });
    let number = if client.last() == "web1" { 1 } else { 3 };
    exposes_services_alone(&lab, number, address);
    thread::sleep(Duration::from_millis(500));
    let (dead, _) = client.outage();
    assert!(dead <= DEAD, "{dead:?}");
    lab.switch.run("ip", &["link", "set", "web2", "up"]);
    until("its home has it", PATIENCE, || {
        client.last() == "web2"
            && (1..=3).all(|number| holder(lab.server(number), address) == "web2")
    });
    thread::sleep(Duration::from_millis(500));
    let (back, _) = client.end();
    println!("host dead: {dead:?}, hand-back: {back:?} without an answer");
    assert!(back <= HANDED, "{back:?}");
}

#[test]
fn a_living_host_keeps_its_address_whatever_becomes_of_its_daemon() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let killed = lab.server(2).address().into();
    let client = Client::start(&lab.client, killed);
    client.wait_for("web2");
    lab.server_mut(2).end_balancer(Signal::SIGKILL);
    lab.server(3).signal_balancer(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(5));
    for number in [2, 3] {
        let address = lab.server(number).address().into();
        assert_eq!(holder(lab.server(1), address), format!("web{number}"));
    }
    lab.server(3).signal_balancer(Signal::SIGCONT);
    // A daemon that hardly runs: it is heard, if at all, just before its peers take it for silent, and after that.
    for silence in [1_400, 1_750, 2_500] {
        thread::sleep(Duration::from_millis(250));
        lab.server(3).signal_balancer(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(silence));
        lab.server(3).signal_balancer(Signal::SIGCONT);
    }
    lab.server_mut(2)
        .attach(&["--config", &config, "--mode", "native"]);
    lab.wait_for_peers();
    let (longest, served) = client.end();
    assert_eq!(served, ["web2"]);
    assert!(longest <= HANDED, "{longest:?}");
    for server in lab.servers() {
        let status = server.status();
        let moved = |change: &&Value| {
            change["text"]
                .as_str()
                .is_some_and(|text| text.contains("has it now"))
        };
        let changes = status["changes"].as_array().unwrap();
        assert_eq!(changes.iter().filter(moved).count(), 0, "{changes:?}");
    }
}

#[test]
fn what_a_killed_daemon_left_and_detach_removed_is_taken_over() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let address: IpAddr = "10.77.0.201".parse().unwrap();
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    let arguments = adding(&config, "10.77.0.201/24");
    lab.server_mut(1).attach(&arguments);
    lab.wait_for_peers();
    let client = Client::start(&lab.client, address);
    client.wait_for("web1");

    lab.server_mut(1).end_balancer(Signal::SIGKILL);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(client.last(), "web1", "its host serves on");
    assert_eq!(holder(lab.server(2), address), "web1");
    assert_eq!(lab.server(1).ask(&["detach", "eth0"]).code, Some(0));
    until("another one has it", PATIENCE, || {
        ["web2", "web3"].contains(&client.last().as_str())
    });
    assert_ne!(holder(lab.server(2), address), "web1");

    lab.server_mut(1).attach(&arguments);
    client.wait_for("web1");
    client.end();
}

/// Its kernel asks whether anybody has its address, hears the caretaker, and doesn't use it (RFC 4862, section 5.4).
#[test]
fn a_home_that_boots_uses_its_ipv6_address_again() {
    let Some(mut lab) = Lab::new(3) else { return };
    let before = lab.server(1).dump();
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let home = &lab.server(1).host;
    let address = home.address_v6();
    let configured = format!("{address}/64");
    lab.switch.run("ip", &["link", "set", "web1", "down"]);
    until("another one has it", PATIENCE, || {
        ["web2", "web3"].contains(&holder(lab.server(2), address.into()).as_str())
    });
    lab.server_mut(1).end_balancer(Signal::SIGTERM);
    let home = &lab.server(1).host;
    let unusable = || home.run("ip", &["-6", "address", "show", "dev", "eth0", "dadfailed"]);
    home.run("sysctl", &["-qw", "net.ipv6.conf.eth0.accept_dad=1"]);
    home.run("ip", &["address", "delete", &configured, "dev", "eth0"]);
    lab.switch.run("ip", &["link", "set", "web1", "up"]);
    home.run("ip", &["address", "add", &configured, "dev", "eth0"]);
    until("its kernel doesn't use it", PATIENCE, || {
        unusable().contains(&configured)
    });

    let client = Client::start(&lab.client, address.into());
    lab.server_mut(1)
        .attach(&["--config", &config, "--mode", "native"]);
    client.wait_for("web1");
    let (longest, _) = client.end();
    println!("hand-back: {longest:?} without an answer");
    let home = &lab.server(1).host;
    let all = home.run("ip", &["-6", "address", "show", "dev", "eth0"]);
    assert!(
        all.contains(&configured) && !all.contains("dadfailed") && !all.contains("tentative"),
        "{all}"
    );
    home.run("sysctl", &["-qw", "net.ipv6.conf.eth0.accept_dad=0"]);
    end_all(&mut lab);
    similar(&lab.server(1).dump(), &before);
}

#[test]
fn a_caretaker_that_is_killed_goes_on_and_gives_back_after_its_restart() {
    let Some(mut lab) = Lab::new(2) else { return };
    let before = lab.server(1).dump();
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let address = lab.server(2).address().into();
    let client = Client::start(&lab.client, address);
    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    client.wait_for("web1");
    let both = [address, lab.server(2).host.address_v6().into()];
    until("it has both addresses", PATIENCE, || {
        both.iter()
            .all(|&address| holder(lab.server(1), address) == "web1")
    });
    client.outage();
    lab.server_mut(1).end_balancer(Signal::SIGKILL);
    thread::sleep(Duration::from_secs(1));
    lab.server_mut(1)
        .attach(&["--config", &config, "--mode", "native"]);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(
        both.map(|address| holder(lab.server(1), address)),
        ["web1"; 2]
    );
    let (longest, served) = client.outage();
    assert!(
        served == ["web1"] && longest <= HANDED,
        "{longest:?}, {served:?}"
    );

    lab.switch.run("ip", &["link", "set", "web2", "up"]);
    until("its home has it", PATIENCE, || client.last() == "web2");
    client.end();
    end_all(&mut lab);
    similar(&lab.server(1).dump(), &before);
}

#[test]
fn a_home_says_who_has_its_address_as_well() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let config = lab.config(WITHOUT_CPU);
    let address = lab.server(2).address().into();
    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    until("another one has it", PATIENCE, || {
        holder(lab.server(1), address) == "web1"
    });
    lab.server_mut(1).end_balancer(Signal::SIGKILL);
    lab.switch.run("ip", &["link", "set", "web2", "up"]);
    let warns = || {
        let status = lab.server(2).status();
        let expected = format!("{address} is back here, and web1, whose balancer isn't heard");
        let mut warnings = status["warnings"].as_array().unwrap().iter();
        warnings.any(|warning| warning.as_str().unwrap().starts_with(&expected))
    };
    until("it says so", PATIENCE, warns);
    // A client hears of its home again and again, whoever answered it.
    let client = Client::start(&lab.client, address);
    client.wait_for("web2");
    let url = format!("http://{address}/");
    assert_eq!(lab.client.curl(&url, &[]).status, 200);

    lab.server_mut(1)
        .attach(&["--config", &config, "--mode", "native"]);
    let answered = || {
        lab.server(2).status()["warnings"]
            .as_array()
            .unwrap()
            .is_empty()
    };
    until("it is undisputed", PATIENCE, answered);
    assert_eq!(holder(lab.server(1), address), "web2");
    client.end();
}

#[test]
fn a_caretaker_gives_in_to_a_host_that_it_does_not_know() {
    let Some(mut lab) = Lab::new(3) else { return };
    lab.start(WITHOUT_CPU, "native");
    let dead = lab.server(2).address();
    lab.switch.run("ip", &["link", "set", "web2", "down"]);
    let has = |number| holder(lab.server(number), dead.into());
    until("another one has it", PATIENCE, || has(1) != "web2");
    let caretaker = if has(1) == "web1" { 1 } else { 3 };
    let on_link = || {
        let addresses = (lab.server(caretaker).host).run("ip", &["address", "show", "dev", "eth0"]);
        addresses.contains(&format!("{dead}/"))
    };
    until("the caretaker has it", PATIENCE, on_link);
    // Somebody has configured the dead server's address on another host, which asks for a third one's.
    lab.client.shell(&format!(
        "ip address add {dead}/24 dev eth0; ip neighbour flush dev eth0"
    ));
    let third = lab.server(if caretaker == 1 { 3 } else { 1 }).address();
    let sent = (lab.client).enter(|| UdpSocket::bind((dead, 0))?.send_to(b"?", (third, 9)));
    sent.expect("a datagram");
    until("no server has it", PATIENCE, || {
        [1, 3].map(has) == ["nobody", "nobody"]
    });
    until("the caretaker lets go of it", PATIENCE, || !on_link());
    // Nor does one take it again, as its user answers.
    thread::sleep(Duration::from_secs(5));
    assert_eq!([1, 3].map(has), ["nobody", "nobody"]);
    assert!(!on_link());
}

/// Of a caretaker's ports only those of its services are open at an address that it took over. It answers pings there.
fn exposes_services_alone(lab: &Lab, caretaker: usize, address: IpAddr) {
    let host = &lab.server(caretaker).host;
    let listener = host
        .enter(|| TcpListener::bind("[::]:2222"))
        .expect("a port");
    let is_open = |address: IpAddr| {
        let connect = || TcpStream::connect_timeout(&(address, 2_222).into(), DEAD);
        lab.client.enter(connect).is_ok()
    };
    let own: IpAddr = match address {
        IpAddr::V4(_) => host.address().into(),
        IpAddr::V6(_) => host.address_v6().into(),
    };
    assert!(is_open(own), "{own}");
    assert!(!is_open(address), "{address}");
    assert!(answers_pings(&lab.client, address), "{address}");
    drop(listener);
}

/// Whether an ICMP echo request from `host` is answered (RFC 792, RFC 4443). The kernel fills in what is 0.
fn answers_pings(host: &Host, address: IpAddr) -> bool {
    host.shell("sysctl -qw net.ipv4.ping_group_range='0 0'");
    let (protocol, kind) = match address {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128),
    };
    let ping = || {
        let address = SocketAddr::new(address, 0);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(DEAD))?;
        socket.send_to(&[kind, 0, 0, 0, 0, 0, 0, 1], &address.into())?;
        (&socket).read(&mut [0; 8])
    };
    host.enter(ping).is_ok_and(|length| length == 8)
}

fn end_all(lab: &mut Lab) {
    for number in 1..=lab.servers().len() {
        let ended = lab.server_mut(number).end_balancer(Signal::SIGTERM);
        assert_eq!(ended.code(), Some(0));
    }
}

/// Where a server's daemon has its undo journal.
fn journal(server: &Server) -> PathBuf {
    // The daemon writes `/` as `-`, and `-` as `%2d`.
    let dir = server.pin_dir().display().to_string();
    let name = dir.replace('-', "%2d").replace('/', "-");
    PathBuf::from(format!("/run/balancer/{}.undo", &name[1..]))
}

/// Who has an address, as a server sees it.
fn holder(server: &Server, address: IpAddr) -> String {
    let status = server.status();
    let holders = status["holders"].as_array().expect("the holders");
    let is_it = |holder: &&Value| holder["address"] == address.to_string();
    let found = holders.iter().find(is_it);
    let name = found.and_then(|holder| holder["holder"].as_str());
    name.unwrap_or("nobody").to_owned()
}

/// Asks an address for a page again and again.
struct Client {
    seen: Arc<std::sync::Mutex<Seen>>,
    asking: Busy<()>,
}

struct Seen {
    last_answer: Instant,
    last_server: String,
    longest: Duration,
    servers: Vec<String>,
}

impl Client {
    fn start(host: &Host, address: IpAddr) -> Self {
        let seen = Arc::new(std::sync::Mutex::new(Seen {
            last_answer: Instant::now(),
            last_server: String::new(),
            longest: Duration::ZERO,
            servers: Vec::new(),
        }));
        let seen_inside = seen.clone();
        let asking = Busy::new(host, move |go_on| {
            while go_on() {
                if let Some(server) = ask((address, 80).into()) {
                    seen_inside.lock().unwrap().answered(server);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { seen, asking }
    }

    /// The server that answered last.
    fn last(&self) -> String {
        self.seen.lock().unwrap().last_server.clone()
    }

    fn wait_for(&self, server: &str) {
        until(&format!("{server} answers"), PATIENCE, || {
            self.last() == server
        });
    }

    /// The longest time without an answer since this was asked last, and who answered since.
    fn outage(&self) -> (Duration, Vec<String>) {
        let mut seen = self.seen.lock().unwrap();
        let longest = seen.longest.max(seen.last_answer.elapsed());
        seen.longest = Duration::ZERO;
        (longest, std::mem::take(&mut seen.servers))
    }

    fn end(self) -> (Duration, Vec<String>) {
        let result = self.outage();
        self.asking.end();
        result
    }
}

impl Seen {
    fn answered(&mut self, server: String) {
        self.longest = self.longest.max(self.last_answer.elapsed());
        self.last_answer = Instant::now();
        if !self.servers.contains(&server) {
            self.servers.push(server.clone());
        }
        self.last_server = server;
    }
}

/// The server that answers one request, if one does soon.
fn ask(address: SocketAddr) -> Option<String> {
    let soon = Duration::from_millis(15);
    let mut stream = TcpStream::connect_timeout(&address, soon).ok()?;
    stream.set_read_timeout(Some(soon)).ok()?;
    stream
        .write_all(b"GET / HTTP/1.0\r\nHost: lab\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let server = answer
        .lines()
        .find_map(|line| line.strip_prefix("X-Server: "))?;
    Some(server.to_owned())
}
