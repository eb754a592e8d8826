//! Identities of servers that are gone: another one answers for them until their home is back.
#![expect(clippy::disallowed_methods, reason = "an outage is real time")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use balancer_tests::{Host, Lab, Server, Signal, WITHOUT_CPU, adding, until};
use serde_json::Value;

use crate::host::similar;

/// Bounds waits for what takes the time-out, or some reports.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest time without an answer when a host has died: a time-out of 1.5 s, and what a busy test machine adds.
const DEAD: Duration = Duration::from_secs(2);

/// The same when an identity is handed over in good order: a repeated packet of a client's takes 200 ms and more.
const HANDED: Duration = Duration::from_millis(150);

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
    client.wait_for(&caretaker);
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

fn end_all(lab: &mut Lab) {
    for number in 1..=lab.servers().len() {
        let ended = lab.server_mut(number).end_balancer(Signal::SIGTERM);
        assert_eq!(ended.code(), Some(0));
    }
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
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
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
        let stop = Arc::new(AtomicBool::new(false));
        let (seen_inside, stop_inside) = (seen.clone(), stop.clone());
        let thread = host.spawn(move || {
            while !stop_inside.load(Ordering::Relaxed) {
                if let Some(server) = ask((address, 80).into()) {
                    seen_inside.lock().unwrap().answered(server);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { seen, stop, thread }
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
        self.stop.store(true, Ordering::Relaxed);
        let result = self.outage();
        self.thread.join().expect("the client's thread");
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
