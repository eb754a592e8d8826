//! What own load is made of, beside connections: it is seen, and new connections go where there is less.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use balancer_tests::{Held, Lab, Server, WITHOUT_CPU, until};
use nix::sys::socket::{Backlog, listen};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn the_users_measure_counts_and_its_failures_do_no_harm() {
    let Some(mut lab) = Lab::new(2) else { return };
    let probe = lab.dir().join("probe");
    let set = |script: &str| {
        let new = probe.with_extension("new");
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &probe).unwrap();
    };
    set("echo 0");
    let with_probe = WITHOUT_CPU.replace(
        "[load]\n",
        &format!(
            "[load]\nprobe = {{ command = [\"{}\"], every = \"100ms\", weight = \"50%\" }}\n",
            probe.display()
        ),
    );
    let (with_probe, config) = (lab.dir().join("with.toml"), {
        fs::write(lab.dir().join("with.toml"), with_probe).unwrap();
        lab.config(WITHOUT_CPU)
    });
    lab.server_mut(1)
        .attach(&["--config", with_probe.to_str().unwrap(), "--mode", "native"]);
    lab.server_mut(2)
        .attach(&["--config", &config, "--mode", "native"]);
    lab.wait_for_peers();
    let url = format!("http://{}/", lab.server(1).address());
    assert_eq!(lab.client.curl(&url, &[]).server, "web1");

    // Half of it is 110 %.
    set("echo 220.5 %");
    until("the probe counts", PATIENCE, || {
        load(lab.server(1)) == 11_025
    });
    assert_eq!(lab.client.curl(&url, &[]).server, "web2");
    let text = lab.server(1).ask(&["status"]).output;
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("probe"));
    let words: Vec<_> = line.unwrap_or(&text).split_whitespace().collect();
    assert_eq!(words.join(" "), "probe 220.5 % 50.0 % 110.2 %");

    for (script, warning) in [
        (
            "echo busy",
            "the probe of [load]: said \"busy\": wanted is a number",
        ),
        (
            "sleep 98764 & wait",
            "the probe of [load]: took longer than 500 ms",
        ),
        ("yes", "the probe of [load]: said more than 64 KiB"),
        ("exit 1", "the probe of [load]: ended with 1"),
    ] {
        set(script);
        until(warning, PATIENCE, || {
            warnings(lab.server(1)).contains(warning)
        });
        assert_eq!(load(lab.server(1)), 11_025, "what it said last stands");
    }
    set("echo 0");
    until("it is heard again", PATIENCE, || {
        load(lab.server(1)) < 1_000
    });
    assert_eq!(warnings(lab.server(1)), "");
    assert_eq!(lab.client.curl(&url, &[]).server, "web1");
}

#[test]
fn a_full_accept_queue_is_overload() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = WITHOUT_CPU
        .replace("80/tcp", "81/tcp")
        .replace("capacity = 20", "capacity = 1000");
    // A program that is stuck: it takes no connections.
    let stuck = lab.server(1).host.enter(|| listener(3));
    let works = lab.server(2).host.enter(|| listener(100));
    lab.start(&config, "native");
    let connect = |lab: &Lab| {
        let address = (lab.server(1).address(), 81).into();
        lab.client
            .enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))
    };

    // Room for three, and the kernel lets one more wait.
    let waiting: Vec<_> = (0..2).map(|_| connect(&lab).unwrap()).collect();
    until("its queue is seen", PATIENCE, || {
        queue(lab.server(1)) == 6_666
    });
    works.set_nonblocking(true).unwrap();
    let steered = connect(&lab).unwrap();
    until("the next one is web2's", PATIENCE, || {
        works.accept().is_ok()
    });
    assert_eq!(lab.server(1).steered(), 1);

    for _ in 0..2 {
        stuck.accept().unwrap();
    }
    until("its queue is empty", PATIENCE, || queue(lab.server(1)) == 0);
    let kept = connect(&lab).unwrap();
    assert_eq!(
        works.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    stuck.accept().unwrap();

    // Of those that are its own, which nobody steers, the last finds no room. That counts, though the queue is empty when it
    // is looked at.
    lab.server(1).host.enter(|| {
        let address = (Ipv4Addr::LOCALHOST, 81).into();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let own: Vec<_> = (0..4).map(|_| connect().unwrap()).collect();
        assert!(connect().is_err());
        for _ in &own {
            stuck.accept().unwrap();
        }
    });
    until("it has overflowed", PATIENCE, || {
        queue(lab.server(1)) == 10_000
    });
    let overflow = connect(&lab).unwrap();
    until("the next one is web2's", PATIENCE, || {
        works.accept().is_ok()
    });
    until("that is over", PATIENCE, || queue(lab.server(1)) == 0);
    drop((waiting, steered, kept, overflow));
}

/// The kernel counts their resets among what the listening socket drops, as it does with what finds no room.
#[test]
fn connections_reset_in_the_making_fill_no_accept_queue() {
    let Some(mut lab) = Lab::new(2) else { return };
    let config = WITHOUT_CPU
        .replace("80/tcp", "81/tcp")
        .replace("capacity = 20", "capacity = 1000");
    let _listening = lab.server(1).host.enter(|| listener(3));
    lab.start(&config, "native");
    let drops = || -> u32 {
        let sockets = lab.server(1).host.run("ss", &["-Hltnm", "sport = :81"]);
        let memory = sockets.split_once(",d").unwrap().1;
        memory.split_once(')').unwrap().0.parse().unwrap()
    };
    let address = SocketAddr::from((lab.server(1).address(), 81));
    // A SYN, and a reset for what answers it: for more than a second, some before each sample.
    for _ in 0..75 {
        lab.client.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_tcp_quickack(false).unwrap();
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            socket.connect(&address.into()).unwrap();
        });
        assert_eq!(queue(lab.server(1)), 0);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(drops() >= 75, "{} dropped", drops());
    assert_eq!(lab.server(1).steered(), 0);
}

#[test]
fn new_connections_a_second_are_load_where_they_are_to_be() {
    let Some(mut lab) = Lab::new(2) else { return };
    // One connection is next to nothing.
    let config = WITHOUT_CPU.replace("capacity = 20", "capacity = 100000");
    lab.start(&config, "native");
    let service = |lab: &Lab| lab.server(1).status()["services"][0].clone();
    let address = (lab.server(1).address(), 80);
    // Some 200 a second.
    let connect = |lab: &Lab, count: u32| {
        lab.client.enter(|| {
            for _ in 0..count {
                drop(TcpStream::connect(address).unwrap());
                thread::sleep(Duration::from_millis(5));
            }
        });
    };
    connect(&lab, 1_000);
    let rate = service(&lab)["connections_per_second"].as_f64().unwrap();
    assert!((20.0..=200.0).contains(&rate), "{rate} a second");
    assert_eq!(service(&lab)["load_rate"], serde_json::Value::Null);
    assert_eq!(lab.server(1).steered(), 0);

    // A tenth of it is now as much as the server can take.
    let set = format!("www.capacity_rate={}", (rate / 10.0).ceil());
    assert_eq!(lab.server(1).ask(&["set", &set]).code, Some(0));
    until("it is load", PATIENCE, || load(lab.server(1)) > 5_000);
    let shown = service(&lab);
    assert_eq!(shown["load"], shown["load_rate"]);
    connect(&lab, 20);
    assert!(lab.server(1).steered() > 0, "{:#}", service(&lab));
    until("it is over", PATIENCE, || load(lab.server(1)) == 0);
    assert_eq!(service(&lab)["connections_per_second"], 0.0);
}

/// No level is too low or too high: each decides as it says.
#[test]
fn levels_at_their_ends() {
    let Some(mut lab) = Lab::new(2) else { return };
    lab.start(WITHOUT_CPU, "native");
    let (server, client) = (lab.server(1), &lab.client);
    let url = format!("http://{}/", server.address());
    let set = |settings: [&str; 2]| {
        let ended = server.ask(&["set", settings[0], settings[1]]);
        assert_eq!(ended.code, Some(0), "{}", ended.error);
    };
    let who = || client.curl(&url, &[]).server;

    // Whoever has nothing to do keeps what comes; with one connection, 5 %, it goes to who has none.
    set(["overload=0%", "margin=0%"]);
    assert_eq!(who(), "web1");
    let one = Held::open(client, server.address(), 1, 3);
    assert_eq!(one.served_by("web1"), 1);
    assert_eq!(who(), "web2");
    one.finish();

    // All full is not above the level, and a margin of 100 points takes more than that.
    set(["overload=100%", "margin=100%"]);
    until("both are idle", PATIENCE, || {
        let status = server.status();
        load(server) == 0 && status["peers"][0]["services"][0]["load"] == 0
    });
    let full = Held::open(client, server.address(), 21, 6);
    assert_eq!(full.served_by("web1"), 21);
    assert_eq!(who(), "web2");

    // Nothing is above this.
    set(["overload=1000%", "margin=0%"]);
    let more = Held::open(client, server.address(), 20, 3);
    assert_eq!(more.served_by("web1"), 20);
    more.finish();
    full.finish();
}

fn listener(room: i32) -> TcpListener {
    let listener = TcpListener::bind(("0.0.0.0", 81)).unwrap();
    listen(&listener, Backlog::new(room).unwrap()).unwrap();
    listener
}

fn load(server: &Server) -> u64 {
    server.status()["services"][0]["load"].as_u64().unwrap()
}

fn queue(server: &Server) -> u64 {
    server.status()["services"][0]["load_accept_queue"]
        .as_u64()
        .unwrap()
}

fn warnings(server: &Server) -> String {
    let status = server.status();
    let warnings = status["warnings"].as_array().unwrap();
    warnings.iter().map(|text| text.as_str().unwrap()).collect()
}
