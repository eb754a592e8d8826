//! Many servers in virtual time, over a network that loses, delays, repeats and reorders.

use balancer::cluster::{
    Cluster, Destination, Estate, Event, Home, IdentityReport, Message, Options, OwnState,
    ServerId, Status, Timestamp,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(500);
const START: Timestamp = Timestamp(3_600_000_000_000);

#[derive(Clone, Copy)]
struct Faults {
    loss_percent: u64,
    repeat_percent: u64,
    delay: Duration,
}

const GOOD: Faults = Faults {
    loss_percent: 0,
    repeat_percent: 0,
    delay: Duration::from_millis(1),
};
const BAD: Faults = Faults {
    loss_percent: 20,
    repeat_percent: 10,
    delay: Duration::from_millis(120),
};

#[derive(Clone, Copy, PartialEq)]
enum Host {
    Runs,
    /// The host lives, its daemon doesn't run.
    Suspended,
    /// Neither does.
    Down,
}

struct Server {
    cluster: Cluster,
    host: Host,
    /// Unread datagrams, with their sender.
    waiting: Vec<(usize, Vec<u8>)>,
    /// When it has something to do.
    due: Timestamp,
    /// What it thought of whom, and when that began.
    history: Vec<(Duration, usize, Status)>,
}

/// A datagram under way: arrival, order, from, to, bytes.
type Datagram = (Timestamp, u64, usize, usize, Vec<u8>);

struct Simulation {
    now: Timestamp,
    random: Random,
    faults: Faults,
    servers: Vec<Server>,
    network: BinaryHeap<Reverse<Datagram>>,
    /// Probes under way: end, prober, probed.
    probes: Vec<(Timestamp, usize, usize)>,
    /// Servers with different sides don't hear each other.
    side: Vec<u8>,
    /// Whom a switch that snoops has pruned from the group: nothing that is sent to all reaches it.
    pruned: Option<usize>,
    order: u64,
}

#[test]
fn all_find_each_other() {
    for servers in [2, 3, 16, 64] {
        let mut simulation = Simulation::new(servers, 1, GOOD);
        // A period, and the moment in which a new server is asked and answers.
        simulation.run(ms(600));
        simulation.assert_all_online();
        simulation.run(ms(5_000));
        simulation.assert_all_online();
        assert_eq!(simulation.ever(Status::Suspect), []);
    }
}

#[test]
fn on_a_bad_network_no_living_host_is_called_dead() {
    let (mut suspected, mut arrived) = (0, 0);
    for seed in 0..100 {
        let mut simulation = Simulation::new(5, seed, BAD);
        simulation.run(ms(60_000));
        assert_eq!(simulation.ever(Status::Dead), [], "seed {seed}");
        suspected += simulation.ever(Status::Suspect).len();
        arrived += simulation.order;
        for by in 0..5 {
            assert_eq!(simulation.view(by).len(), 4, "seed {seed}");
        }
    }
    println!("{suspected} suspicions, {arrived} datagrams arrived");
    // Of 240,000 reports: two or three in a row late or lost, and the query or its answer, too.
    assert!(
        suspected < 1_300,
        "{suspected} suspicions of living daemons"
    );
}

#[test]
fn a_dead_host_is_called_dead_by_all_in_time() {
    for seed in 0..50 {
        let mut simulation = Simulation::new(5, seed, BAD);
        simulation.run(ms(10_000));
        simulation.servers[2].host = Host::Down;
        let died = simulation.now.since(START);
        simulation.run(ms(2_500));
        for by in [0, 1, 3, 4] {
            assert_eq!(
                simulation.view(by)[&2],
                Status::Dead,
                "seed {seed}, server {by}"
            );
        }
        for (by, when, whom) in simulation.ever(Status::Dead) {
            assert_eq!(whom, 2, "seed {seed}, server {by}");
            assert!(
                when > died,
                "seed {seed}: server {by} knew it {:?} before",
                died.saturating_sub(when)
            );
        }
    }
}

#[test]
fn a_daemon_that_is_killed_leaves_a_silent_host() {
    let mut simulation = Simulation::new(3, 7, GOOD);
    simulation.run(ms(5_000));
    simulation.servers[0].host = Host::Suspended;
    simulation.run(ms(60_000));
    assert_eq!(simulation.view(1)[&0], Status::Silent);
    assert_eq!(
        simulation.ever(Status::Silent).len(),
        2,
        "one alarm each, however often it is probed"
    );
    assert_eq!(simulation.ever(Status::Dead), []);
}

#[test]
fn a_partition_heals() {
    for seed in 0..50 {
        let mut simulation = Simulation::new(6, seed, BAD);
        simulation.run(ms(10_000));
        simulation.side = vec![0, 0, 0, 1, 1, 1];
        simulation.run(ms(5_000));
        for by in 0..6 {
            for (whom, status) in simulation.view(by) {
                let near = simulation.side[by] == simulation.side[whom];
                assert_eq!(
                    status != Status::Dead,
                    near,
                    "seed {seed}: server {by} of {whom}: {status:?}"
                );
            }
        }
        simulation.side = vec![0; 6];
        simulation.faults = GOOD;
        simulation.run(ms(1_000));
        simulation.assert_all_online();
    }
}

#[test]
fn a_server_that_was_paused_accuses_nobody() {
    // With what was sent meanwhile still in its socket, as after SIGSTOP, and without, as after a machine's suspension.
    for (seed, pause) in [300, 700, 1_200, 1_700, 2_600, 10_000, 100_000]
        .into_iter()
        .enumerate()
    {
        for kept in [0, 1, usize::MAX] {
            let mut simulation = Simulation::new(5, seed as u64, GOOD);
            simulation.run(ms(5_000 + 37 * seed as u64));
            simulation.servers[0].host = Host::Suspended;
            simulation.run(ms(pause));
            simulation.servers[0].waiting.truncate(kept);
            simulation.servers[0].host = Host::Runs;
            simulation.run(ms(2_000));
            assert_eq!(
                simulation.servers[0].history,
                [],
                "after {pause} ms with {kept} datagrams kept"
            );
            simulation.assert_all_online();
        }
    }
}

#[test]
fn a_server_that_a_switch_has_pruned_asks_and_stays_on_line() {
    let mut simulation = Simulation::new(5, 11, GOOD);
    simulation.run(ms(5_000));
    simulation.pruned = Some(0);
    simulation.run(ms(60_000));
    simulation.assert_all_online();
    assert_eq!(simulation.ever(Status::Suspect), []);
}

#[test]
fn a_goodbye_is_no_silence() {
    let mut simulation = Simulation::new(4, 3, GOOD);
    simulation.run(ms(3_000));
    simulation.servers[1].cluster.leave();
    simulation.flush();
    simulation.servers[1].host = Host::Down;
    simulation.run(ms(30_000));
    assert_eq!(simulation.ever(Status::Suspect), []);
    assert_eq!(simulation.ever(Status::Left).len(), 3);
}

/// An address that could not be removed is answered for by its host, whatever its daemon does.
#[test]
fn a_goodbye_calls_nothing_free_that_stays() {
    let addresses = ["10.0.0.1/24", "10.0.0.2/24"].map(|text| text.parse().unwrap());
    let home = |address| Home {
        address,
        kept: false,
    };
    let options = Options {
        me: ServerId(1),
        boot: 1,
        name: "web1".into(),
        period: PERIOD,
        timeout_periods: 3,
        estate: Estate {
            homes: addresses.map(home).to_vec(),
            ..Estate::default()
        },
    };
    let mut cluster = Cluster::new(START, options);
    cluster.set_own(START, OwnState::default()).unwrap();
    cluster.keep(addresses[1].addr());
    cluster.leave();
    let mut sent = std::iter::from_fn(|| cluster.poll_transmit());
    let last = sent.find_map(|sent| match sent.message {
        Message::Report(report) if report.leaving => Some(report),
        _ => None,
    });
    let held: Vec<_> = last
        .unwrap()
        .identities
        .iter()
        .map(IdentityReport::is_held)
        .collect();
    assert_eq!(held, [false, true]);
}

#[test]
fn a_run_can_be_repeated() {
    let run = || {
        let mut simulation = Simulation::new(6, 42, BAD);
        simulation.run(ms(120_000));
        let histories: Vec<_> = simulation
            .servers
            .into_iter()
            .map(|server| server.history)
            .collect();
        (simulation.order, histories)
    };
    assert_eq!(run(), run());
}

impl Simulation {
    fn new(servers: usize, seed: u64, faults: Faults) -> Self {
        let mut random = Random(seed);
        let server = |index| {
            let options = Options {
                me: id_of(index),
                boot: (index as u64) << 32,
                name: format!("web{index}"),
                period: PERIOD,
                timeout_periods: 3,
                estate: Estate::default(),
            };
            let mut cluster = Cluster::new(START, options);
            // Somewhere in the first period, as if each had been started by hand.
            let start = START + Duration::from_millis(random.below(500));
            cluster.set_own(start, OwnState::default()).unwrap();
            let (waiting, history) = (Vec::new(), Vec::new());
            Server {
                due: cluster.next_timeout(),
                cluster,
                host: Host::Runs,
                waiting,
                history,
            }
        };
        let servers: Vec<_> = (0..servers).map(server).collect();
        let side = vec![0; servers.len()];
        let (network, probes) = (BinaryHeap::new(), Vec::new());
        Self {
            now: START,
            random,
            faults,
            servers,
            network,
            probes,
            side,
            pruned: None,
            order: 0,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.flush();
            let next = self.next_event();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.deliver();
            self.finish_probes();
            for server in self
                .servers
                .iter_mut()
                .filter(|server| server.host == Host::Runs)
            {
                server.work(self.now);
            }
        }
    }

    fn next_event(&self) -> Timestamp {
        let running = self
            .servers
            .iter()
            .filter(|server| server.host == Host::Runs);
        let arrival = self.network.peek().map(|Reverse(packet)| packet.0);
        let probe = self.probes.iter().map(|probe| probe.0).min();
        running
            .map(Server::due)
            .chain(arrival)
            .chain(probe)
            .min()
            .unwrap()
    }

    fn deliver(&mut self) {
        while self
            .network
            .peek()
            .is_some_and(|Reverse(packet)| packet.0 <= self.now)
        {
            let Some(Reverse((_, _, from, to, bytes))) = self.network.pop() else {
                return;
            };
            if self.servers[to].host != Host::Down {
                self.servers[to].waiting.push((from, bytes));
            }
        }
    }

    /// A host answers a probe, truthfully, if it is there and within reach.
    fn finish_probes(&mut self) {
        let now = self.now;
        let (done, open) = std::mem::take(&mut self.probes)
            .into_iter()
            .partition(|probe| probe.0 <= now);
        self.probes = open;
        for (_, prober, probed) in done {
            let answered =
                self.servers[probed].host != Host::Down && self.side[prober] == self.side[probed];
            if self.servers[prober].host == Host::Runs {
                self.servers[prober]
                    .cluster
                    .handle_probe(now, id_of(probed), answered);
                self.servers[prober].due = now;
            }
        }
    }

    fn flush(&mut self) {
        for index in 0..self.servers.len() {
            while let Some(event) = self.servers[index].cluster.poll_event() {
                match event {
                    Event::Probe(id) => self.probes.push((self.now + ms(50), index, index_of(id))),
                    Event::Changed { id, to, .. } => {
                        let time = self.now.since(START);
                        self.servers[index].history.push((time, index_of(id), to));
                    }
                    Event::Joined(_)
                    | Event::PeerUpdated(_)
                    | Event::ProbeIdentity(_)
                    | Event::Assume(_)
                    | Event::Release(_)
                    | Event::Announce(_)
                    | Event::Moved(_)
                    | Event::NameConflict { .. }
                    | Event::Recover { .. }
                    | Event::FlowsWanted { .. }
                    | Event::Flows(_)
                    | Event::Recovered { .. }
                    | Event::Forgotten(_) => {}
                }
            }
            while let Some(transmit) = self.servers[index].cluster.poll_transmit() {
                let bytes = transmit.message.encode().unwrap();
                match transmit.to {
                    Destination::Group => {
                        for to in 0..self.servers.len() {
                            if self.pruned != Some(to) {
                                self.send(index, to, &bytes);
                            }
                        }
                    }
                    Destination::Unicast(to) => self.send(index, index_at(to), &bytes),
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if from == to || self.side[from] != self.side[to] {
            return;
        }
        let copies = 1 + u64::from(self.random.below(100) < self.faults.repeat_percent);
        for _ in 0..copies {
            if self.random.below(100) >= self.faults.loss_percent {
                let delay =
                    Duration::from_nanos(self.random.below(self.faults.delay.as_nanos() as u64));
                self.order += 1;
                self.network.push(Reverse((
                    self.now + delay,
                    self.order,
                    from,
                    to,
                    bytes.to_vec(),
                )));
            }
        }
    }

    /// What `by` thinks of all that it knows.
    fn view(&self, by: usize) -> BTreeMap<usize, Status> {
        let peers = self.servers[by].cluster.peers();
        peers
            .map(|peer| (index_of(peer.report.server), peer.status))
            .collect()
    }

    fn assert_all_online(&self) {
        for by in 0..self.servers.len() {
            let view = self.view(by);
            assert_eq!(
                view.len(),
                self.servers.len() - 1,
                "server {by} knows {view:?}"
            );
            assert!(
                view.values().all(|status| *status == Status::Online),
                "server {by} sees {view:?}"
            );
        }
    }

    /// Who called whom that, and when.
    fn ever(&self, status: Status) -> Vec<(usize, Duration, usize)> {
        let servers = self.servers.iter().enumerate();
        let all =
            servers.flat_map(|(by, server)| server.history.iter().map(move |change| (by, *change)));
        all.filter(|(_, change)| change.2 == status)
            .map(|(by, change)| (by, change.0, change.1))
            .collect()
    }
}

impl Server {
    fn due(&self) -> Timestamp {
        if self.waiting.is_empty() {
            self.due
        } else {
            START
        }
    }

    /// Reads what waits, then does what is due.
    fn work(&mut self, now: Timestamp) {
        if self.due() > now {
            return;
        }
        for (from, bytes) in std::mem::take(&mut self.waiting) {
            // Repeated and overtaken datagrams are refused, and that's right.
            let _ = self
                .cluster
                .handle(now, address_of(from), Message::decode(&bytes).unwrap());
        }
        self.cluster.handle_timeout(now);
        self.due = self.cluster.next_timeout();
    }
}

/// `SplitMix64`: the same seed gives the same network.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % limit
    }
}

fn id_of(index: usize) -> ServerId {
    ServerId(index as u64 + 1)
}

fn index_of(id: ServerId) -> usize {
    id.0 as usize - 1
}

fn address_of(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8], 9918))
}

fn index_at(address: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = address else {
        panic!("{address} is not of this simulation")
    };
    usize::from(v4.ip().octets()[3])
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
