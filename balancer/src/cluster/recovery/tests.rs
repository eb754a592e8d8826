//! Servers that ask each other for flows, over a network that loses some of what they say.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use balancer_common::wire::{TCP, UDP};
use ipnet::IpNet;

use super::super::{
    Assumed, Cluster, Destination, Estate, Event, Home, MAX_IDENTITIES, Message, Options, OwnState,
    Refused, Status, Timestamp, Timing, Transmit,
};
use super::*;

const START: Timestamp = Timestamp(1_000_000_000_000);
const STEP: Duration = Duration::from_millis(1);

/// Server `n` is in place `n - 1` everywhere.
struct Network {
    now: Timestamp,
    random: fastrand::Rng,
    loss_percent: u8,
    servers: Vec<Cluster>,
    /// One that doesn't run: what is sent to it is lost.
    stopped: Option<usize>,
    /// What each of them has.
    flows: Vec<Vec<FlowAt>>,
    /// What the first one was told.
    told: Vec<FlowAt>,
    recovered: Vec<(Timestamp, IpAddr)>,
    /// All that reached the first one.
    heard: Vec<(SocketAddr, Message)>,
    transmits: usize,
    /// Times that flows were collected.
    collected: usize,
}

impl Network {
    fn new(servers: u64, loss_percent: u8) -> Self {
        let now = START;
        Self::of(
            now,
            (1..=servers).map(|id| start(now, id, 1)).collect(),
            loss_percent,
        )
    }

    fn of(now: Timestamp, servers: Vec<Cluster>, loss_percent: u8) -> Self {
        let mut network = Self {
            now,
            random: fastrand::Rng::with_seed(7),
            loss_percent,
            stopped: None,
            flows: vec![Vec::new(); servers.len()],
            servers,
            told: Vec::new(),
            recovered: Vec::new(),
            heard: Vec::new(),
            transmits: 0,
            collected: 0,
        };
        network.run(1_500);
        for _ in 0..10_000 {
            if network.all_know_all() {
                break;
            }
            network.run(1);
        }
        assert!(network.all_know_all());
        network.heard.clear();
        network
    }

    fn all_know_all(&self) -> bool {
        let all = self.servers.len() - 1;
        let online = |server: &Cluster| {
            let online = server.peers().filter(|peer| peer.status == Status::Online);
            online.count()
        };
        self.servers.iter().all(|server| online(server) == all)
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now = self.now + STEP;
            for index in (0..self.servers.len()).filter(|index| self.stopped != Some(*index)) {
                self.servers[index].handle_timeout(self.now);
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        loop {
            let mut sent = Vec::new();
            for index in 0..self.servers.len() {
                while let Some(event) = self.servers[index].poll_event() {
                    self.act(index, event);
                }
                while let Some(transmit) = self.servers[index].poll_transmit() {
                    sent.push((index, transmit));
                }
            }
            if sent.is_empty() {
                return;
            }
            self.transmits += sent.len();
            for (from, Transmit { to, message }) in sent {
                for index in (0..self.servers.len()).filter(|index| *index != from) {
                    let meant = to == Destination::Group || to == Destination::Unicast(at(index));
                    let runs = self.stopped != Some(index);
                    if meant && runs && self.random.u8(..100) >= self.loss_percent {
                        self.deliver(from, index, &message);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: &Message) {
        let bytes = message.encode().unwrap();
        assert!(bytes.len() < 1_400, "{} bytes", bytes.len());
        if to == 0 {
            self.heard.push((at(from), message.clone()));
        }
        // What is refused has its own tests.
        let _ = self.servers[to].handle(self.now, at(from), Message::decode(&bytes).unwrap());
    }

    fn act(&mut self, index: usize, event: Event) {
        match event {
            Event::FlowsWanted { by, session, .. } => {
                self.collected += 1;
                let flows = self.flows[index].clone();
                self.servers[index].tell_flows(by, session, &flows, true);
            }
            Event::Recover { identity, of, .. } => {
                self.servers[index].recover(self.now, &[identity], of);
            }
            Event::Flows(flows) if index == 0 => self.told.extend(flows),
            Event::Recovered { identity, .. } if index == 0 => {
                self.recovered.push((self.now, identity));
            }
            _ => {}
        }
    }

    fn recover(&mut self, identities: &[IpAddr]) {
        self.told.clear();
        self.recovered.clear();
        self.servers[0].recover(self.now, identities, None);
    }
}

/// The first server is the home of the first identity.
fn start(now: Timestamp, id: u64, boot: u64) -> Cluster {
    start_with(now, id, boot, Vec::new())
}

fn start_with(now: Timestamp, id: u64, boot: u64, adopted: Vec<Assumed>) -> Cluster {
    let home = Home {
        address: IpNet::new(identity(1), 24).unwrap(),
        kept: true,
    };
    let estate = Estate {
        homes: (id == 1).then_some(home).into_iter().collect(),
        adopted,
        ..Estate::default()
    };
    let options = Options {
        me: ServerId(id),
        boot: boot << 32 | id << 16,
        name: format!("web{id}"),
        period: Duration::from_millis(500),
        timeout_periods: 3,
        estate,
    };
    let mut cluster = Cluster::new(now, options);
    cluster.set_own(now, OwnState::default()).unwrap();
    cluster
}

fn at(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + index as u8], 9918))
}

fn identity(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 1, number])
}

/// Flow `number` of server `owner`.
fn flow(owner: u64, identity: IpAddr, number: u32) -> FlowAt {
    let [a, b, c, d] = number.to_be_bytes();
    FlowAt {
        protocol: if number.is_multiple_of(7) { UDP } else { TCP },
        client: SocketAddr::from(([192, a, b, c], 1_024 + u16::from(d))),
        identity: SocketAddr::new(identity, 80),
        owner: ServerId(owner),
        sure: !number.is_multiple_of(3),
    }
}

fn clients(flows: &[FlowAt]) -> BTreeSet<SocketAddr> {
    flows.iter().map(|flow| flow.client).collect()
}

#[test]
fn all_flows_of_all_peers_are_told_whatever_is_lost() {
    for loss_percent in [0, 5, 30] {
        let mut network = Network::new(4, loss_percent);
        let (wanted, other) = (identity(1), identity(2));
        for owner in 2..=4 {
            let flows =
                (0..2_000).map(|number| flow(owner, wanted, owner as u32 * 10_000 + number));
            let others = (0..10).map(|number| flow(owner, other, number));
            network.flows[owner as usize - 1] = flows.chain(others).collect();
        }
        network.recover(&[wanted]);
        // Whoever is out of sight and comes back is asked once more.
        let mut millis = 0;
        while network.recovered.is_empty() && millis < 2_900 {
            network.run(1);
            millis += 1;
        }
        let mut expected: Vec<_> = network.flows.concat();
        expected.retain(|flow| flow.identity.ip() == wanted);
        assert_eq!(network.told.len(), 6_000, "{loss_percent} % lost");
        assert_eq!(clients(&network.told), clients(&expected));
        for told in &network.told {
            assert!(expected.contains(told), "{told:?}");
        }
        let [(_, recovered)] = network.recovered[..] else {
            panic!("{:?}", network.recovered)
        };
        assert_eq!(recovered, wanted);
    }
}

#[test]
fn a_hundred_thousand_flows_take_no_more_rounds_than_windows() {
    let mut network = Network::new(2, 0);
    let wanted = identity(1);
    network.flows[1] = (0..100_000).map(|number| flow(2, wanted, number)).collect();
    let before = network.transmits;
    network.recover(&[wanted]);
    network.flush();
    assert_eq!(network.told.len(), 100_000);
    let parts = network.transmits - before;
    assert!(parts < 1_400, "{parts} datagrams");
}

#[test]
fn nobody_there_means_that_all_is_known_after_a_moment() {
    let mut network = Network::new(1, 0);
    network.recover(&[identity(1)]);
    network.run(1);
    assert_eq!(network.recovered.len(), 1, "long after the start");

    network.servers[0] = start(network.now, 1, 2);
    network.recover(&[identity(1)]);
    let begun = network.now;
    network.run(1_000);
    let [(when, _)] = network.recovered[..] else {
        panic!("{:?}", network.recovered)
    };
    assert!((LISTENING..LISTENING + STEP * 2).contains(&when.since(begun)));
}

#[test]
fn a_server_that_has_just_started_asks_those_whom_it_hears_of() {
    let mut network = Network::new(3, 0);
    let wanted = identity(1);
    network.flows[2] = vec![flow(3, wanted, 1)];
    network.servers[0].leave();
    network.flush();
    network.servers[0] = start(network.now, 1, 2);
    network.recover(&[wanted]);
    network.run(300);
    assert_eq!(network.told, network.flows[2]);
    assert_eq!(network.recovered.len(), 1);
}

#[test]
fn who_dies_meanwhile_is_not_waited_for() {
    let mut network = Network::new(3, 0);
    network.flows[2] = vec![flow(3, identity(1), 1)];
    let dead = network.servers.remove(1);
    network.servers.insert(1, start(network.now, 99, 1));
    network.recover(&[identity(1)]);
    network.run(100);
    assert_eq!(network.told.len(), 1);
    assert_eq!(network.recovered, [], "it is still thought to be there");
    network.run(2_000);
    assert_eq!(network.recovered.len(), 1);
    drop(dead);
}

/// As on a busy machine: the time-out of quick reports is over, and its host answers.
#[test]
fn who_is_late_is_waited_for_as_long_as_the_grace_lasts() {
    for (late, waited_for) in [(Duration::from_millis(300), true), (GRACE, false)] {
        let mut network = Network::new(2, 0);
        let now = network.now;
        for server in &mut network.servers {
            server.set_timing(now, Timing::new(Duration::from_millis(10), 3));
        }
        network.run(1_000);
        network.flows[1] = vec![flow(2, identity(1), 1)];
        network.stopped = Some(1);
        network.run(60);
        network.servers[0].handle_probe(network.now, ServerId(2), true);
        let status = network.servers[0].peer(ServerId(2)).unwrap().status;
        assert_eq!(status, Status::Silent);
        network.recover(&[identity(1)]);
        network.run(late.as_millis() as u64);
        assert_eq!(network.recovered.is_empty(), waited_for, "{late:?}");
        if waited_for {
            network.stopped = None;
            network.run(40);
            assert_eq!(clients(&network.told), clients(&network.flows[1]));
            assert_eq!(network.recovered.len(), 1);
        }
    }
}

#[test]
fn what_was_recorded_is_refused() {
    let mut network = Network::new(2, 0);
    let wanted = identity(1);
    network.flows[1] = vec![flow(2, wanted, 1)];
    network.recover(&[wanted]);
    network.run(50);
    let parts: Vec<_> = network
        .heard
        .iter()
        .filter(|(_, message)| matches!(message, Message::Flows(_)))
        .cloned()
        .collect();
    assert_eq!(parts.len(), 1);
    let now = network.now;
    for (from, part) in parts.clone() {
        let refused = network.servers[0].handle(now, from, part);
        assert_eq!(refused, Err(Refused::Unasked));
    }
    // Not even while something else is being asked.
    network.servers[0].recover(now, &[wanted], None);
    let query = std::iter::from_fn(|| network.servers[0].poll_transmit())
        .find(|transmit| matches!(transmit.message, Message::FlowsQuery(_)))
        .unwrap();
    for (from, part) in parts {
        let refused = network.servers[0].handle(now, from, part);
        assert_eq!(refused, Err(Refused::Unasked));
    }
    let mut ask = |from| network.servers[1].handle(now, from, query.message.clone());
    assert_eq!(ask(at(0)), Ok(()));
    assert_eq!(ask(at(0)), Err(Refused::Replayed));
    let stranger = SocketAddr::from((Ipv4Addr::new(10, 9, 9, 9), 9918));
    assert_eq!(ask(stranger), Err(Refused::Unproven));
}

/// One that didn't run meanwhile goes on where it was: what it has is of another collection than what it would get.
#[test]
fn who_asks_on_when_all_is_forgotten_is_told_that_it_lacks_some() {
    let mut network = Network::new(2, 0);
    let first = query(&network, 0, 1, 7, 1_000);
    let now = network.now;
    network.servers[1].handle(now, at(0), first).unwrap();
    network.run(LINGER.as_millis() as u64 + 1);
    let Message::FlowsQuery(mut next) = query(&network, 0, 1, 7, 1_001) else {
        panic!("no query")
    };
    next.part = WINDOW;
    let (now, teller) = (network.now, &mut network.servers[1]);
    let next = Message::FlowsQuery(next);
    teller.handle(now, at(0), next.clone()).unwrap();
    assert_eq!(wanted(teller), []);
    let answer = FlowsPart {
        server: ServerId(2),
        session: 7,
        part: WINDOW,
        last: true,
        complete: false,
        flows: Vec::new(),
    };
    let answer = Message::Flows(Box::new(answer));
    assert_eq!(
        teller.poll_transmit().map(|sent| sent.message),
        Some(answer)
    );
    assert_eq!(teller.handle(now, at(0), next), Err(Refused::Replayed));
}

#[test]
fn a_question_that_comes_again_and_again_is_answered() {
    let mut network = Network::new(2, 0);
    network.collected = 0;
    network.flows[1] = (0..100)
        .map(|number| flow(2, identity(1), number))
        .collect();
    network.recover(&[identity(1)]);
    for _ in 0..9 {
        let now = network.now;
        network.servers[0].recover(now, &[identity(1)], None);
    }
    network.flush();
    // What was running has gone on, and then all the others were one.
    assert_eq!(network.collected, 2);
    assert_eq!(network.told.len(), 200);
    assert_eq!(network.recovered.len(), 1);
}

#[test]
fn what_a_peer_tells_of_an_identity_that_was_released_is_not_told_on() {
    let wanted = identity(2);
    let assumed = Assumed {
        address: IpNet::new(wanted, 24).unwrap(),
        home: ServerId(1_000),
        term: 2,
    };
    for told_before in [false, true] {
        let caretaker = start_with(START, 1, 1, vec![assumed]);
        let mut network = Network::of(START, vec![caretaker, start(START, 2, 1)], 0);
        network.collected = 0;
        let now = network.now;
        network.flows[1] = vec![flow(2, wanted, 1)];
        network.recover(&[wanted]);
        let release = |network: &mut Network| {
            // A host that nobody knows uses it.
            network.servers[0].handle_conflict(now, wanted, [2; 6]);
        };
        if !told_before {
            release(&mut network);
        }
        while let Some(Transmit { message, .. }) = network.servers[0].poll_transmit() {
            network.deliver(0, 1, &message);
        }
        while let Some(event) = network.servers[1].poll_event() {
            network.act(1, event);
        }
        while let Some(Transmit { message, .. }) = network.servers[1].poll_transmit() {
            network.deliver(1, 0, &message);
        }
        if told_before {
            release(&mut network);
        }
        network.run(100);
        assert_eq!(network.collected, 1);
        assert_eq!(network.told, []);
        assert_eq!(network.recovered, []);
        // Nor is it asked about.
        network.recover(&[wanted]);
        network.run(100);
        assert_eq!(network.collected, 1);
    }
}

#[test]
fn no_query_is_longer_than_peers_accept() {
    let mut network = Network::new(2, 0);
    let all: Vec<_> = (0..=MAX_IDENTITIES as u8).map(identity).collect();
    let now = network.now;
    (network.collected, network.recovered) = (0, Vec::new());
    let Cluster {
        asker,
        reporter,
        membership,
        out,
        ..
    } = &mut network.servers[0];
    let me = reporter.options();
    for identities in all.chunks(MAX_IDENTITIES) {
        asker.recover(now, identities, None, me, membership, out);
    }
    asker.recover(now, &all, None, me, membership, out);
    network.flush();
    assert_eq!(network.collected, 3);
    assert_eq!(network.recovered.len(), all.len());
}

/// A query of one server for another one's flows on the first identity.
fn query(network: &Network, by: usize, of: usize, session: u64, sequence: u64) -> Message {
    let id = |index| ServerId(index as u64 + 1);
    let boot_of = |index: usize| {
        let mut others = (0..network.servers.len()).filter(|other| *other != index);
        let other = others.next().unwrap();
        network.servers[other].peer(id(index)).unwrap().report.boot
    };
    let heard = &network.servers[by].peer(id(of)).unwrap().report;
    Message::FlowsQuery(Box::new(FlowsQuery {
        server: id(by),
        boot: boot_of(by),
        sequence,
        heard: (heard.boot, heard.sequence),
        session,
        identities: vec![identity(1)],
        part: 0,
    }))
}

fn wanted(server: &mut Cluster) -> Vec<(ServerId, u64)> {
    let events = std::iter::from_fn(|| server.poll_event());
    let wanted = events.filter_map(|event| match event {
        Event::FlowsWanted { by, session, .. } => Some((by, session)),
        _ => None,
    });
    wanted.collect()
}

#[test]
fn many_askers_take_no_more_memory_than_one() {
    let mut network = Network::new(5, 0);
    let now = network.now;
    let asked: Vec<_> = [0, 2, 3, 4]
        .map(|by| (by, query(&network, by, 1, by as u64, 1_000)))
        .to_vec();
    let teller = &mut network.servers[1];
    for (by, query) in asked {
        teller.handle(now, at(by), query).unwrap();
    }
    let flows: Vec<_> = (0..20_000)
        .map(|number| flow(2, identity(1), number))
        .collect();
    for by in [0, 2, 3, 4] {
        let id = ServerId(by + 1);
        assert_eq!(wanted(teller), [(id, by)], "one after another");
        teller.tell_flows(id, by, &flows, true);
    }
    // However often one asks before anything could be sent, it is sent once.
    for sequence in 1_001..1_100 {
        let again = query(&network, 0, 1, 0, sequence);
        let teller = &mut network.servers[1];
        teller.handle(now, at(0), again).unwrap();
    }
    let teller = &mut network.servers[1];
    let sent = std::iter::from_fn(|| teller.poll_transmit()).count();
    assert_eq!(sent, 4 * WINDOW as usize);
}

#[test]
fn a_query_that_was_recorded_before_a_restart_is_refused() {
    let mut network = Network::new(3, 0);
    let before = query(&network, 0, 1, 7, 1_000);
    // The one who is asked has forgotten all that it was asked.
    network.servers[1].leave();
    network.flush();
    network.servers[1] = start(network.now, 2, 2);
    network.run(1_000);
    let now = network.now;
    let replayed = network.servers[1].handle(now, at(0), before);
    assert_eq!(replayed, Err(Refused::Replayed));

    // The one who asked has another start since, and is gone.
    let before = query(&network, 0, 1, 7, 1_000);
    let mut still = network.servers[1].handle(now, at(0), before.clone());
    assert_eq!(still, Ok(()), "as long as it is new");
    network.servers[0].leave();
    network.flush();
    network.servers[0] = start(now, 1, 2);
    network.run(4_000);
    let later = query(&network, 0, 1, 8, 1_000);
    let now = network.now;
    assert_eq!(network.servers[1].handle(now, at(0), later), Ok(()));
    network.servers[0].leave();
    network.flush();
    network.now = now + Duration::from_secs(1);
    still = network.servers[1].handle(network.now, at(0), before);
    assert_eq!(still, Err(Refused::Replayed));
}

#[test]
fn who_could_not_tell_all_is_named() {
    for complete in [true, false] {
        let mut network = Network::new(3, 0);
        let now = network.now;
        network.recover(&[identity(1)]);
        let queries: Vec<_> = std::iter::from_fn(|| network.servers[0].poll_transmit()).collect();
        for query in queries {
            for teller in [1, 2] {
                if query.to == Destination::Unicast(at(teller)) {
                    network.deliver(0, teller, &query.message);
                }
            }
        }
        for teller in [1, 2] {
            for (by, session) in wanted(&mut network.servers[teller]) {
                let all = teller == 1 || complete;
                network.servers[teller].tell_flows(by, session, &[], all);
            }
            while let Some(Transmit { message, .. }) = network.servers[teller].poll_transmit() {
                network.deliver(teller, 0, &message);
            }
        }
        network.servers[0].handle_timeout(now);
        let mut events = std::iter::from_fn(|| network.servers[0].poll_event());
        let recovered = events.find_map(|event| match event {
            Event::Recovered { lacking, .. } => Some(lacking),
            _ => None,
        });
        let lacking = if complete { vec![] } else { vec![ServerId(3)] };
        assert_eq!(recovered, Some(lacking));
    }
}

#[test]
fn nobody_speaks_for_identities_that_were_not_asked_for_nor_is_sure_of_others_flows() {
    let report = FlowReport {
        protocol: TCP,
        client: SocketAddr::from(([192, 0, 2, 1], 1_024)),
        identity: 1,
        port: 80,
        sure: true,
        at: Some(ServerId(9)),
    };
    assert_eq!(report.read(ServerId(2), &[identity(1)]), None);
    let read = report
        .read(ServerId(2), &[identity(1), identity(2)])
        .unwrap();
    assert_eq!((read.owner, read.sure), (ServerId(9), false));
    let bad = |change: fn(&mut FlowReport)| {
        let mut flow = report;
        change(&mut flow);
        let part = FlowsPart {
            server: ServerId(2),
            session: 1,
            part: 0,
            last: true,
            complete: true,
            flows: vec![flow],
        };
        Message::decode(&Message::Flows(Box::new(part)).encode().unwrap()).is_err()
    };
    assert!(!bad(|_| {}));
    assert!(bad(|flow| flow.protocol = 1));
    assert!(bad(|flow| flow.port = 0));
    assert!(bad(|flow| flow.client.set_port(0)));
    assert!(bad(|flow| flow.client.set_ip([239, 0, 0, 1].into())));
}
