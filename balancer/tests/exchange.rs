//! Servers in network namespaces of their own, with real multicast between them.

use balancer::cluster::{Cluster, Estate, Event, FlowAt, Home, OwnState, ServerId, Status, Timing};
use balancer::exchange::{Audience, Exchange, Interface, Key, Keyring, Options, clock};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

const PERIOD: Duration = Duration::from_millis(100);

/// Servers in the largest network here, which report at the usual period. Seals take a program that isn't optimised long to open.
const CROWD: u8 = if cfg!(debug_assertions) { 16 } else { 64 };
const USUAL_PERIOD: Duration = Duration::from_millis(500);

/// Held by what takes most of a CPU and is bounded in time.
static BUSY: Mutex<()> = Mutex::new(());

#[test]
fn servers_find_each_other_by_ipv4_multicast() {
    let Some(lab) = Lab::new("v4") else { return };
    meet_and_part(&lab, "239.255.99.18:9918");
}

#[test]
fn servers_find_each_other_by_ipv6_multicast() {
    let Some(lab) = Lab::new("v6") else { return };
    meet_and_part(&lab, "[ff02::9918]:9918");
    meet_and_part(&lab, "[ff05::9918]:9918");
}

#[test]
fn servers_find_each_other_by_a_list() {
    let Some(lab) = Lab::new("list") else { return };
    let audience = Audience::Peers {
        port: 9918,
        addresses: vec![address(1), address(2)],
    };
    let (mut one, mut two) = (
        lab.server(1, audience.clone(), 7),
        lab.server(2, audience, 7),
    );
    run(&mut [&mut one, &mut two], 3);
    assert_eq!(
        (one.peer(2), two.peer(1)),
        (Some(Status::Online), Some(Status::Online))
    );
    assert!(
        one.exchange.counters().own > 0,
        "its own address is in the list"
    );
}

#[test]
fn strangers_are_counted_and_change_nothing() {
    let Some(lab) = Lab::new("bad") else { return };
    let mut one = lab.server(1, group("239.255.99.18:9918"), 7);
    let mut stranger = lab.server(2, group("239.255.99.18:9918"), 8);
    run(&mut [&mut one, &mut stranger], 3);
    assert_eq!((one.peer(2), stranger.peer(1)), (None, None));
    assert!(
        one.exchange.counters().unknown_key >= 3,
        "{:?}",
        one.exchange.counters()
    );

    let sender = lab.inside(2, || UdpSocket::bind("0.0.0.0:0").unwrap());
    let ring = keyring(7);
    let sealed = ring.seal(b"\xff sealed, but no message").unwrap();
    let mut broken = sealed.clone();
    *broken.last_mut().unwrap() ^= 1;
    let mut newer = sealed.clone();
    newer[4] = 9;
    for datagram in [&b"garbage"[..], b"", &[0; 8_973], &sealed, &broken, &newer] {
        sender.send_to(datagram, address(1)).unwrap();
    }
    run(&mut [&mut one], 2);
    let counted = one.exchange.counters();
    let expected = [
        counted.garbage,
        counted.oversized,
        counted.malformed,
        counted.bad_seal,
        counted.wrong_version,
    ];
    assert_eq!(expected, [2, 1, 1, 1, 1], "{counted:?}");
    assert_eq!(
        (counted.received, one.exchange.cluster().peers().count()),
        (0, 0)
    );
}

#[test]
fn a_second_balancer_in_a_namespace_is_told_so() {
    let Some(lab) = Lab::new("two") else { return };
    let one = lab.server(1, group("239.255.99.18:9918"), 7);
    let error = lab
        .open(1, 3, group("239.255.99.18:9918"), 7)
        .err()
        .unwrap();
    let expected =
        "UDP port 9918 is in use: perhaps another balancer runs in this network namespace.";
    assert!(error.starts_with(expected), "{error}");
    drop(one);
    lab.open(1, 3, group("239.255.99.18:9918"), 7).unwrap();
}

#[test]
fn a_link_that_fails_is_borne() {
    let Some(lab) = Lab::new("link") else { return };
    let (mut one, mut two) = (
        lab.server(1, group("239.255.99.18:9918"), 7),
        lab.server(2, group("239.255.99.18:9918"), 7),
    );
    run(&mut [&mut one, &mut two], 3);
    lab.inside(1, || ip("link set eth0 down"));
    run(&mut [&mut one, &mut two], 6);
    assert!(one.exchange.counters().send_errors > 0);
    assert!(
        one.events.contains(&Event::Probe(ServerId(2)))
            && two.events.contains(&Event::Probe(ServerId(1)))
    );
    lab.inside(1, || ip("link set eth0 up"));
    run(&mut [&mut one, &mut two], 20);
    assert_eq!(
        (one.peer(2), two.peer(1)),
        (Some(Status::Online), Some(Status::Online))
    );
}

/// However long the caller was busy with other things.
#[test]
fn a_busy_daemon_accuses_nobody() {
    let Some(lab) = Lab::new("busy") else { return };
    let (mut one, mut two) = (
        lab.server(1, group("239.255.99.18:9918"), 7),
        lab.server(2, group("239.255.99.18:9918"), 7),
    );
    run(&mut [&mut one, &mut two], 3);
    run(&mut [&mut two], 10);
    run(&mut [&mut one, &mut two], 5);
    assert!(
        !one.events.contains(&Event::Probe(ServerId(2))),
        "{:?}",
        one.events
    );
}

/// Each is judged by its own period, which may change at any time.
#[test]
fn servers_of_different_periods_accuse_nobody() {
    let Some(lab) = Lab::new("periods") else {
        return;
    };
    let (mut one, mut two) = (
        lab.server(1, group("239.255.99.18:9918"), 7),
        lab.server(2, group("239.255.99.18:9918"), 7),
    );
    run(&mut [&mut one, &mut two], 3);
    // From here on the first one reports fifty times as often as the second.
    for (server, period) in [(&mut one, PERIOD / 5), (&mut two, PERIOD * 10)] {
        server.exchange.set_timing(Timing::new(period, 3));
    }
    let heard = |server: &Server| server.exchange.counters().received;
    let before = (heard(&one), heard(&two));
    run(&mut [&mut one, &mut two], 25);
    for server in [&one, &two] {
        let accused = |event: &&Event| matches!(event, Event::Probe(_) | Event::Changed { .. });
        assert_eq!(server.events.iter().find(accused), None);
    }
    assert!(heard(&one) - before.0 < 10, "the second is slow");
    assert!(heard(&two) - before.1 > 50, "the first is quick");

    // The quick one falls silent: that shows after its own three periods.
    drop(one);
    run(&mut [&mut two], 2);
    assert_eq!(two.peer(1), Some(Status::Suspect));
}

/// Nothing is lost on the way from one of many servers to another, in their sockets or after them.
#[test]
fn each_of_many_servers_hears_each_report_of_each_other() {
    let _alone = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = Lab::crowd("crowd", CROWD) else {
        return;
    };
    let runtime = runtime();
    let open = |side| {
        let audience = group("239.255.99.18:9918");
        lab.exchange(&runtime, side, side.into(), audience, 7, USUAL_PERIOD)
    };
    let exchanges: Vec<_> = (1..=CROWD).map(|side| open(side).unwrap()).collect();
    let heard = runtime.block_on(async {
        let mut listening = tokio::task::JoinSet::new();
        for exchange in exchanges {
            listening.spawn(listen(exchange));
        }
        listening.join_all().await
    });
    for Heard {
        reports,
        accused,
        dropped,
    } in heard
    {
        assert_eq!((accused, dropped), (Vec::new(), 0));
        assert_eq!(reports.len(), usize::from(CROWD) - 1);
        for (id, (heard, sent)) in reports {
            assert_eq!(heard, sent, "of {id}");
            assert!(sent >= 15, "{id} has sent {sent} in 8 s");
        }
    }
}

/// What one of many servers has heard for some time.
struct Heard {
    /// Reports of each other server: how many, and by how much their numbers grew.
    reports: BTreeMap<ServerId, (u64, u64)>,
    /// What it thought of others that isn't well.
    accused: Vec<Event>,
    /// Datagrams that it didn't accept.
    dropped: u64,
}

/// Listens for 8 s, when all have had 2 s to find each other.
async fn listen(mut exchange: Exchange) -> Heard {
    let until = async |exchange: &mut Exchange, seconds| {
        let mut events = Vec::new();
        let listen = async {
            loop {
                match exchange.next().await {
                    Event::FlowsWanted { by, session, .. } => {
                        exchange.tell_flows(by, session, &[], true);
                    }
                    event => events.push(event),
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(seconds), listen).await;
        events
    };
    let numbers = |exchange: &Exchange| -> BTreeMap<_, _> {
        let peers = exchange.cluster().peers();
        peers
            .map(|peer| (peer.report.server, peer.report.sequence))
            .collect()
    };
    let dropped = |exchange: &Exchange| -> u64 {
        let counted = exchange.counters().named();
        let dropped = counted.filter(|(name, _)| !["received", "sent"].contains(name));
        dropped.map(|(_, count)| count).sum()
    };
    until(&mut exchange, 2).await;
    let before = (numbers(&exchange), dropped(&exchange));
    let events = until(&mut exchange, 8).await;
    let heard = |of| {
        let is_it = |event: &&Event| **event == Event::PeerUpdated(of);
        events.iter().filter(is_it).count() as u64
    };
    let grown = numbers(&exchange)
        .into_iter()
        .map(|(id, number)| (id, (heard(id), number - before.0.get(&id).unwrap_or(&0))))
        .collect();
    Heard {
        reports: grown,
        accused: events
            .into_iter()
            .filter(|event| !matches!(event, Event::PeerUpdated(_)))
            .collect(),
        dropped: dropped(&exchange) - before.1,
    }
}

/// Each server has an identity.
fn estate(id: u64) -> Estate {
    Estate {
        homes: vec![Home {
            address: format!("10.99.19.{id}/24").parse().unwrap(),
            kept: true,
        }],
        ..Estate::default()
    }
}

/// Both run on their own, as daemons do, and without a pause of their clients' making.
#[test]
fn a_hundred_thousand_flows_are_told_within_a_second() {
    const FLOWS: usize = 100_000;
    let _alone = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(lab) = Lab::new("flows") else { return };
    let (mut one, mut two) = (
        lab.server(1, group("239.255.99.18:9918"), 7),
        lab.server(2, group("239.255.99.18:9918"), 7),
    );
    run(&mut [&mut one, &mut two], 3);
    let identity = SocketAddr::new(estate(1).homes[0].address.addr(), 80);
    let flow = |number: usize| FlowAt {
        protocol: 6,
        client: SocketAddr::from((
            [192, 0, (number >> 14) as u8, 1],
            1_024 + (number & 16_383) as u16,
        )),
        identity,
        owner: ServerId(2),
        sure: true,
    };
    let flows: Vec<_> = (0..FLOWS).map(flow).collect();
    let bound = Duration::from_secs(if cfg!(debug_assertions) { 3 } else { 1 });
    let (told, time) = std::thread::scope(|scope| {
        let teller = scope.spawn(|| {
            let tell = async {
                loop {
                    let event = two.exchange.next().await;
                    if let Event::FlowsWanted { by, session, .. } = event {
                        two.exchange.tell_flows(by, session, &flows, true);
                    }
                }
            };
            let bounded = async { tokio::time::timeout(bound, tell).await };
            let _ = two.runtime.block_on(bounded);
        });
        let start = clock::monotonic();
        one.exchange.recover(&[identity.ip()], None);
        let mut told = Vec::new();
        let ask = async {
            loop {
                match one.exchange.next().await {
                    Event::Flows(flows) => told.extend(flows),
                    Event::Recovered { .. } => break,
                    _ => {}
                }
            }
        };
        let bounded = async { tokio::time::timeout(bound, ask).await };
        let in_time = one.runtime.block_on(bounded).is_ok();
        let time = clock::monotonic().since(start);
        teller.join().unwrap();
        assert!(in_time, "only {} in {bound:?}", told.len());
        (told, time)
    });
    println!("{FLOWS} flows in {time:?}");
    assert!(told == flows, "{} told", told.len());
}

fn meet_and_part(lab: &Lab, address: &str) {
    let (mut one, mut two) = (
        lab.server(1, group(address), 7),
        lab.server(2, group(address), 7),
    );
    run(&mut [&mut one, &mut two], 3);
    assert_eq!(
        (one.peer(2), two.peer(1)),
        (Some(Status::Online), Some(Status::Online)),
        "{address}"
    );
    assert_eq!(
        one.events[..2],
        [Event::Joined(ServerId(2)), Event::PeerUpdated(ServerId(2))]
    );
    assert_eq!(one.exchange.counters().own, 0, "a group doesn't loop back");

    let Server {
        runtime,
        mut exchange,
        ..
    } = two;
    runtime.block_on(exchange.goodbye());
    run(&mut [&mut one], 1);
    assert_eq!(one.peer(2), Some(Status::Left), "{address}");
}

struct Server {
    runtime: Runtime,
    exchange: Exchange,
    events: Vec<Event>,
}

impl Server {
    fn peer(&self, id: u64) -> Option<Status> {
        self.exchange
            .cluster()
            .peer(ServerId(id))
            .map(|peer| peer.status)
    }
}

/// Lets servers run for some periods, in turns of a few milliseconds.
fn run(servers: &mut [&mut Server], periods: u32) {
    let start = clock::monotonic();
    while clock::monotonic().since(start) < PERIOD * periods {
        for server in &mut *servers {
            let Server {
                runtime,
                exchange,
                events,
            } = &mut **server;
            runtime.block_on(async {
                let turn = async {
                    loop {
                        events.push(exchange.next().await);
                    }
                };
                let _ = tokio::time::timeout(Duration::from_millis(3), turn).await;
            });
        }
    }
}

/// Network namespaces, their `eth0` connected.
struct Lab {
    names: Vec<String>,
}

impl Lab {
    /// Two, with a cable between them. `None`, with the reason printed, where that isn't allowed.
    fn new(name: &str) -> Option<Self> {
        let lab = Self::apart(name, 2)?;
        let [one, two] = &lab.names[..] else {
            return None;
        };
        ip(&format!(
            "-n {one} link add eth0 type veth peer name eth0 netns {two}"
        ));
        for (side, name) in (1..).zip(&lab.names) {
            ip(&format!("-n {name} addr add 10.99.18.{side}/24 dev eth0"));
            ip(&format!(
                "-n {name} addr add fd99:18::{side}/64 dev eth0 nodad"
            ));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 addrgenmode none up"));
            ip(&format!(
                "-n {name} addr add fe80::{side}/64 dev eth0 nodad"
            ));
        }
        Some(lab)
    }

    /// Many, with a switch between them.
    fn crowd(name: &str, servers: u8) -> Option<Self> {
        // The last one is the switch.
        let lab = Self::apart(name, servers + 1)?;
        let (switch, servers) = lab.names.split_last()?;
        ip(&format!(
            "-n {switch} link add bridge type bridge stp_state 0 mcast_snooping 0"
        ));
        ip(&format!("-n {switch} link set bridge up"));
        for (side, name) in (1..).zip(servers) {
            ip(&format!(
                "-n {switch} link add port{side} type veth peer name eth0 netns {name}"
            ));
            ip(&format!("-n {switch} link set port{side} master bridge up"));
            ip(&format!("-n {name} addr add 10.99.18.{side}/24 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        Some(lab)
    }

    fn apart(name: &str, count: u8) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("BALANCER_REQUIRE_ROOT").is_none(),
                "this test needs root"
            );
            eprintln!("skipped: making network namespaces needs root");
            return None;
        }
        let name = |side| format!("bx-{}-{name}-{side}", std::process::id());
        let names = (1..=count).map(name).collect();
        let lab = Self { names };
        for name in &lab.names {
            ip(&format!("netns add {name}"));
        }
        Some(lab)
    }

    fn server(&self, side: u8, audience: Audience, key: u8) -> Server {
        self.open(side, u64::from(side), audience, key).unwrap()
    }

    fn open(&self, side: u8, id: u64, audience: Audience, key: u8) -> Result<Server, String> {
        let runtime = runtime();
        let exchange = self.exchange(&runtime, side, id, audience, key, PERIOD)?;
        Ok(Server {
            runtime,
            exchange,
            events: Vec::new(),
        })
    }

    fn exchange(
        &self,
        runtime: &Runtime,
        side: u8,
        id: u64,
        audience: Audience,
        key: u8,
        period: Duration,
    ) -> Result<Exchange, String> {
        self.inside(side, || {
            let index = nix::net::if_::if_nametoindex("eth0").unwrap();
            let interface = Interface {
                name: "eth0".into(),
                index,
            };
            let options = balancer::cluster::Options {
                me: ServerId(id),
                boot: id,
                name: format!("web{id}"),
                period,
                timeout_periods: 3,
                estate: estate(id),
            };
            let cluster = Cluster::new(clock::monotonic(), options);
            let _inside = runtime.enter();
            let options = Options {
                interface,
                audience,
                keyring: keyring(key),
            };
            let mut exchange =
                Exchange::open(options, cluster).map_err(|error| error.to_string())?;
            exchange.set_own(OwnState::default()).unwrap();
            Ok(exchange)
        })
    }

    /// Runs `work` on a thread of its own in one of the namespaces.
    fn inside<T: Send>(&self, side: u8, work: impl FnOnce() -> T + Send) -> T {
        let namespace =
            File::open(format!("/run/netns/{}", self.names[usize::from(side) - 1])).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

fn keyring(key: u8) -> Keyring {
    Keyring::new(&Key::from([key; 32]), &[])
}

fn group(address: &str) -> Audience {
    Audience::Group(address.parse().unwrap())
}

fn address(side: u8) -> SocketAddr {
    SocketAddr::from(([10, 99, 18, side], 9918))
}
