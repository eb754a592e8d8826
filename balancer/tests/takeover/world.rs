//! Hosts with daemons, on a network that loses, delays, repeats and reorders.

use balancer::cluster::{
    Assumed, Cluster, Destination, Estate, Event, FlowAt, Home, Link, Message, Options, OwnState,
    Require, ServerId, Status, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

pub const PERIOD: Duration = Duration::from_millis(500);
const START: Timestamp = Timestamp(3_600_000_000_000);

/// How long the driver asks before it takes silence for an answer.
const PROBE: Duration = Duration::from_millis(200);

/// How often a daemon looks whether another host has what it has.
const DOUBT: Duration = Duration::from_secs(5);

/// How often a probe asks.
const TRIES: u32 = 3;

/// When a new holder announces itself, after it has become that.
const ANNOUNCEMENTS: [u64; 5] = [0, 20, 200, 1_000, 5_000];

#[derive(Clone, Copy)]
pub struct Faults {
    pub loss_percent: u8,
    /// Of the questions and answers of probes: no router queues these.
    pub frame_loss_percent: u8,
    pub repeat_percent: u8,
    pub delay: Duration,
}

pub const GOOD: Faults = Faults {
    loss_percent: 0,
    frame_loss_percent: 0,
    repeat_percent: 0,
    delay: Duration::from_millis(1),
};

/// What kind of address an identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Balancer adds it to its home, beside the host's own address.
    Added,
    /// The host has it beside its own, whether a daemon runs or not.
    Kept,
    /// It is the host's own address: what peers probe. Its caretaker answers for it.
    Own,
}

/// The side of a host whose cable is out: this and its number.
const APART: u8 = 100;

/// What becomes of a host's power and its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All is well.
    Runs,
    /// The daemon is stopped (SIGSTOP): it reads what waits when it goes on.
    Stopped,
    /// The daemon has ended; the host lives.
    Ended,
    /// The whole host is suspended, since then.
    Frozen(Timestamp),
    /// The host has no power.
    Off,
}

pub struct Host {
    pub state: State,
    pub daemon: Option<Cluster>,
    /// Which start of its daemon this is.
    pub boot: u64,
    /// Those on its interface. Its kernel answers for them as long as the host lives.
    pub addresses: BTreeSet<IpAddr>,
    /// What the undo journal says of those that were taken over.
    pub journal: BTreeMap<IpAddr, Assumed>,
    /// Its identity is the host's, whether a daemon runs or not.
    pub kept: bool,
    /// How far its clock is ahead, in nanoseconds.
    pub ahead: i64,
    /// The connections that end here.
    pub flows: Vec<FlowAt>,
    /// Where its program sends the packets of others, by their clients, and the identities that these are to.
    pub steered: BTreeMap<SocketAddr, (ServerId, IpAddr)>,
    waiting: Vec<Packet>,
    due: Timestamp,
}

#[derive(Clone)]
enum Packet {
    Datagram {
        from: usize,
        message: Message,
    },
    /// An ARP frame that shows `from` to use the address.
    Frame {
        from: usize,
        address: IpAddr,
    },
    /// The end of a probe of another host.
    HostProbed {
        whom: usize,
    },
    /// The end of a probe of an address.
    AddressProbed {
        address: IpAddr,
    },
    /// The time to announce an address.
    Announce {
        address: IpAddr,
    },
    /// The time for this start of the daemon to look whether another host has its addresses.
    Doubt {
        boot: u64,
    },
}

pub struct World {
    pub now: Timestamp,
    pub random: fastrand::Rng,
    pub faults: Faults,
    pub hosts: Vec<Host>,
    /// Hosts with different sides don't hear each other.
    pub side: Vec<u8>,
    /// Nothing gets from the first to the second, whatever gets back.
    pub cut: BTreeSet<(usize, usize)>,
    kind: Kind,
    pub require: Require,
    /// What was taken over: when, by whom.
    pub claims: Vec<(Timestamp, usize, Assumed)>,
    /// Datagrams that were refused.
    pub refused: u64,
    /// How often flows were collected for another server.
    pub collected: usize,
    /// Grows whenever something happens to flows, or to who directs them.
    pub flow_changes: u64,
    /// The most datagrams that one host had to read at one time.
    pub most_waiting: usize,
    /// Connections that were opened.
    pub clients: u32,
    boots: u64,
    order: u64,
    network: BTreeMap<(Timestamp, u64), (usize, Packet)>,
}

impl World {
    /// Hosts whose daemons have all just started.
    pub fn new(hosts: usize, seed: u64, faults: Faults, require: Require) -> Self {
        let kinds = [Kind::Added, Kind::Kept, Kind::Own];
        let kind = kinds[fastrand::Rng::with_seed(seed).usize(..3)];
        Self::of(kind, hosts, seed, faults, require)
    }

    /// The same, with identities of this kind.
    pub fn of(kind: Kind, hosts: usize, seed: u64, faults: Faults, require: Require) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let kept = kind != Kind::Added;
        let host = |_| Host {
            state: State::Off,
            daemon: None,
            boot: 0,
            addresses: BTreeSet::new(),
            journal: BTreeMap::new(),
            kept,
            ahead: 0,
            flows: Vec::new(),
            steered: BTreeMap::new(),
            waiting: Vec::new(),
            due: START,
        };
        let mut world = Self {
            now: START,
            faults,
            hosts: (0..hosts).map(host).collect(),
            side: vec![0; hosts],
            cut: BTreeSet::new(),
            kind,
            require,
            claims: Vec::new(),
            clients: 0,
            refused: 0,
            collected: 0,
            flow_changes: 0,
            most_waiting: 0,
            boots: random.u64(..) >> 8,
            order: 0,
            network: BTreeMap::new(),
            random,
        };
        for index in 0..hosts {
            world.power_on(index);
            world.start_daemon(index);
        }
        world
    }

    /// Lets time pass; `look` is called after each moment at which something happened.
    pub fn run(&mut self, time: Duration, mut look: impl FnMut(&Self)) {
        let end = self.now + time;
        loop {
            let next = self.next_event();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.deliver();
            for index in 0..self.hosts.len() {
                self.work(index);
            }
            look(self);
        }
    }

    pub fn power_on(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.state = State::Ended;
        if host.kept {
            host.addresses.insert(address_of(index));
        }
    }

    pub fn power_off(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.state = State::Off;
        host.daemon = None;
        host.addresses.clear();
        host.journal.clear();
        host.flows.clear();
        host.waiting.clear();
    }

    /// Takes its cable out.
    pub fn unplug(&mut self, index: usize) {
        self.side[index] = APART + index as u8;
    }

    /// Puts it in again, if it was out. A daemon that runs notices.
    pub fn plug_in(&mut self, index: usize) {
        if self.side[index] < APART {
            return;
        }
        self.side[index] = 0;
        let host = &mut self.hosts[index];
        let local = host.time(self.now);
        if let (State::Runs, Some(cluster)) = (host.state, &mut host.daemon) {
            cluster.handle_link_up(local);
            self.work_now(index);
        }
    }

    pub fn start_daemon(&mut self, index: usize) {
        self.boots += 1;
        let now = self.now;
        let host = &mut self.hosts[index];
        let estate = Estate {
            homes: vec![Home {
                address: net_of(index),
                kept: host.kept,
            }],
            adopted: host.journal.values().copied().collect(),
            require: self.require,
        };
        let options = Options {
            me: id_of(index),
            boot: self.boots << 32,
            name: format!("web{index}"),
            period: PERIOD,
            timeout_periods: 3,
            estate,
        };
        let local = host.time(now);
        let mut cluster = Cluster::new(local, options);
        let own = OwnState {
            links: vec![Link {
                mac: mac_of(index),
                addresses: vec![match self.kind {
                    Kind::Own => net_of(index),
                    Kind::Added | Kind::Kept => host_net_of(index),
                }],
            }],
            caretaker: true,
            ..OwnState::default()
        };
        cluster.set_own(local, own).unwrap();
        let assumed = host.journal.keys().copied();
        let held: Vec<_> = assumed.chain([address_of(index)]).collect();
        cluster.recover(local, &held, None);
        // As if its pins were lost.
        host.steered.clear();
        host.daemon = Some(cluster);
        host.boot = self.boots;
        host.state = State::Runs;
        host.waiting.clear();
        // What the daemon before it had to do is none of this one's.
        host.due = now;
        host.addresses.insert(address_of(index));
        self.announce(index, address_of(index));
        let boot = self.boots;
        self.post(now + DOUBT, index, Packet::Doubt { boot });
        self.work(index);
    }

    /// SIGKILL.
    pub fn kill_daemon(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.daemon = None;
        host.state = State::Ended;
        host.waiting.clear();
    }

    /// `balancer detach`, after the daemon was killed.
    pub fn detach(&mut self, index: usize) {
        self.strip(index);
    }

    /// SIGTERM: in the daemon's order.
    pub fn end_daemon(&mut self, index: usize) {
        self.strip(index);
        for _ in 0..3 {
            if let Some(cluster) = &mut self.hosts[index].daemon {
                cluster.leave();
            }
            self.flush(index);
        }
        self.kill_daemon(index);
    }

    /// Takes the addresses away that its daemon has added.
    fn strip(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        for address in std::mem::take(&mut host.journal).into_keys() {
            host.addresses.remove(&address);
        }
        if !host.kept {
            host.addresses.remove(&address_of(index));
        }
        // It leaves the host without the addresses that it added, its peers' on `lo` among them.
        let own = address_of(index);
        host.flows
            .retain(|flow| host.kept && flow.identity.ip() == own);
        self.flow_changes += 1;
    }

    /// Whether frames get from one host to the other, and back.
    pub fn connected(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        let alive = self.lives(from) && self.lives(to);
        alive && self.side[from] == self.side[to] && !self.cut.contains(&(from, to))
    }

    /// Whether its kernel runs.
    pub fn lives(&self, index: usize) -> bool {
        !matches!(self.hosts[index].state, State::Off | State::Frozen(_))
    }

    /// The hosts that answer for an address.
    pub fn holders(&self, address: IpAddr) -> Vec<usize> {
        let has =
            |index: &usize| self.lives(*index) && self.hosts[*index].addresses.contains(&address);
        (0..self.hosts.len()).filter(has).collect()
    }

    fn next_event(&self) -> Timestamp {
        let running = self.hosts.iter().filter(|host| host.state == State::Runs);
        let arrival = self.network.keys().next().map(|(at, _)| *at);
        let due = running.map(|host| {
            if host.waiting.is_empty() {
                host.due
            } else {
                self.now
            }
        });
        due.chain(arrival).min().unwrap_or(Timestamp::NEVER)
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (to, packet) = entry.remove();
            if let Packet::Doubt { boot } = packet
                && boot == self.hosts[to].boot
            {
                self.post(self.now + DOUBT, to, packet.clone());
            }
            let host = &mut self.hosts[to];
            if let Packet::Announce { address } = packet {
                if self.holders(address).contains(&to) {
                    self.broadcast(to, &Packet::Frame { from: to, address });
                }
            } else if matches!(host.state, State::Runs | State::Stopped) {
                host.waiting.push(packet);
            }
        }
    }

    /// Reads what waits, then does what is due, if there is anything.
    fn work(&mut self, index: usize) {
        let host = &self.hosts[index];
        if host.state == State::Runs && !(host.waiting.is_empty() && host.due > self.now) {
            self.work_now(index);
        }
    }

    fn work_now(&mut self, index: usize) {
        let now = self.now;
        let waiting = std::mem::take(&mut self.hosts[index].waiting);
        self.most_waiting = self.most_waiting.max(waiting.len());
        for packet in waiting {
            self.read(index, packet);
            self.flush(index);
        }
        let host = &mut self.hosts[index];
        let local = host.time(now);
        if let Some(cluster) = &mut host.daemon {
            cluster.handle_timeout(local);
        }
        self.flush(index);
    }

    fn read(&mut self, index: usize, packet: Packet) {
        let is_probe = matches!(
            packet,
            Packet::HostProbed { .. } | Packet::AddressProbed { .. }
        );
        if is_probe && self.side[index] >= APART {
            // Without a carrier nobody could answer, and the driver doesn't ask.
            return;
        }
        let used = match packet {
            Packet::HostProbed { whom } => self.host_answers(index, whom),
            Packet::AddressProbed { address } => {
                let holders = self.holders(address);
                self.answers(index, &holders)
            }
            Packet::Doubt { boot } if boot == self.hosts[index].boot => {
                self.doubt(index);
                return;
            }
            _ => false,
        };
        let host = &mut self.hosts[index];
        let local = host.time(self.now);
        let Some(cluster) = &mut host.daemon else {
            return;
        };
        match packet {
            // Repeated, overtaken and unproven reports are refused, and that's right.
            Packet::Datagram { from, message } => {
                let taken = cluster.handle(local, socket_of(from), message);
                self.refused += u64::from(taken.is_err());
            }
            Packet::Frame { from, address } => {
                if host.addresses.contains(&address) {
                    cluster.handle_conflict(local, address, mac_of(from));
                }
            }
            Packet::HostProbed { whom } => cluster.handle_probe(local, id_of(whom), used),
            Packet::AddressProbed { address } => {
                cluster.handle_identity_probe(local, address, used);
            }
            Packet::Announce { .. } | Packet::Doubt { .. } => {}
        }
    }

    /// Whether the prober takes it that host `whom` lives.
    fn host_answers(&mut self, prober: usize, whom: usize) -> bool {
        let mut users = match self.kind {
            Kind::Own => self.holders(address_of(whom)),
            Kind::Added | Kind::Kept => vec![whom],
        };
        if let Some(cluster) = &self.hosts[prober].daemon {
            let others = cluster.macs_of_others(id_of(whom));
            users.retain(|user| !others.contains(&mac_of(*user)));
        }
        self.answers(prober, &users)
    }

    /// Whether one of `users` answers a probe.
    fn answers(&mut self, prober: usize, users: &[usize]) -> bool {
        let (random, loss) = (&mut self.random, self.faults.frame_loss_percent);
        let mut passes = || random.u8(..100) >= loss;
        let heard: Vec<bool> = (0..TRIES).map(|_| passes() && passes()).collect();
        let mut others = users.iter().filter(|user| **user != prober);
        heard.contains(&true) && others.any(|user| self.connected(prober, *user))
    }

    /// Looks who else has its addresses: their answers are seen on the link.
    fn doubt(&mut self, index: usize) {
        for address in self.hosts[index].addresses.clone() {
            for user in self.holders(address) {
                let seen = self.answers(index, &[user]);
                let host = &mut self.hosts[index];
                let local = host.time(self.now);
                if let Some(cluster) = host.daemon.as_mut().filter(|_| seen) {
                    cluster.handle_conflict(local, address, mac_of(user));
                }
            }
        }
    }

    /// What the daemon's driver does.
    fn flush(&mut self, index: usize) {
        loop {
            let Some(cluster) = &mut self.hosts[index].daemon else {
                return;
            };
            if let Some(event) = cluster.poll_event() {
                self.act(index, &event);
            } else if let Some(transmit) = cluster.poll_transmit() {
                let packet = Packet::Datagram {
                    from: index,
                    message: transmit.message,
                };
                match transmit.to {
                    Destination::Group => self.broadcast(index, &packet),
                    Destination::Unicast(to) => self.send(index, index_at(to), &packet),
                }
            } else {
                let next = cluster.next_timeout();
                let host = &mut self.hosts[index];
                host.due = Timestamp(next.0.saturating_add_signed(-host.ahead));
                return;
            }
        }
    }

    fn act(&mut self, index: usize, event: &Event) {
        let probe = self.now + PROBE;
        self.flow_changes += u64::from(matches!(
            event,
            Event::Assume(_) | Event::Release(_) | Event::Flows(_)
        ));
        match *event {
            Event::Probe(id) => {
                let whom = index_of(id);
                self.post(probe, index, Packet::HostProbed { whom });
            }
            Event::ProbeIdentity(address) => {
                self.post(probe, index, Packet::AddressProbed { address });
            }
            Event::Assume(assumed) => {
                let address = assumed.address.addr();
                self.hosts[index].addresses.insert(address);
                self.hosts[index].journal.insert(address, assumed);
                self.claims.push((self.now, index, assumed));
                self.announce(index, address);
                self.recover(index, address, None);
            }
            Event::Recover { identity, of, .. } => self.recover(index, identity, of),
            Event::FlowsWanted {
                by,
                session,
                ref identities,
            } => {
                let flows = self.flows_on(index, identities);
                self.collected += 1;
                if let Some(cluster) = &mut self.hosts[index].daemon {
                    cluster.tell_flows(by, session, &flows, true);
                }
            }
            Event::Flows(ref flows) => {
                for flow in flows {
                    self.enter(index, flow);
                }
            }
            Event::Release(address) => {
                self.hosts[index].addresses.remove(&address);
                self.hosts[index].journal.remove(&address);
            }
            Event::Announce(address) => self.announce(index, address),
            Event::Joined(_)
            | Event::PeerUpdated(_)
            | Event::Changed { .. }
            | Event::NameConflict { .. }
            | Event::Moved(_)
            | Event::Recovered { .. }
            | Event::Forgotten(_) => {}
        }
    }

    /// What a host's sockets tell, and of those whose daemons are silent what it steered to them.
    fn flows_on(&self, index: usize, identities: &[IpAddr]) -> Vec<FlowAt> {
        let host = &self.hosts[index];
        let silent = |id: &ServerId| {
            let peer = host.daemon.as_ref().and_then(|cluster| cluster.peer(*id));
            peer.is_some_and(|peer| peer.status != Status::Online)
        };
        let steered = host.steered.iter().filter(|(_, (owner, _))| silent(owner));
        let steered = steered.map(|(client, (owner, identity))| FlowAt {
            protocol: 6,
            client: *client,
            identity: SocketAddr::new(*identity, 80),
            owner: *owner,
            sure: false,
        });
        let all = host.flows.iter().copied().chain(steered);
        all.filter(|flow| identities.contains(&flow.identity.ip()))
            .collect()
    }

    /// As the daemon enters what peers tell.
    fn enter(&mut self, index: usize, flow: &FlowAt) {
        let identity = flow.identity.ip();
        let host = &mut self.hosts[index];
        assert!(
            host.addresses.contains(&identity),
            "host {index} is told of flows on {identity}, which it hasn't"
        );
        let own = host.flows.iter().any(|own| own.client == flow.client);
        if !own && (flow.sure || !host.steered.contains_key(&flow.client)) {
            let to = (flow.owner, identity);
            host.steered.insert(flow.client, to);
        }
    }

    /// A new client's connection to the identity of `home`, which ends at host `owner`: directed by whoever answers for the
    /// identity there, if anybody does.
    pub fn connect(&mut self, home: usize, owner: usize) {
        let identity = address_of(home);
        let can_direct = |index: &usize| {
            *index == owner
                || self.hosts[*index].state == State::Runs && self.connected(*index, owner)
        };
        let director = self.holders(identity).into_iter().find(can_direct);
        if let Some(director) = director.filter(|_| self.lives(owner)) {
            self.direct(director, home, owner);
        }
    }

    /// A new client's connection to the identity of `home`, which `director` steers to `owner`.
    pub fn direct(&mut self, director: usize, home: usize, owner: usize) {
        let identity = address_of(home);
        self.clients += 1;
        let client = Ipv4Addr::from_bits(0xc000_0000 + self.clients);
        let client = SocketAddr::from((client, 1_024));
        self.hosts[owner].flows.push(FlowAt {
            protocol: 6,
            client,
            identity: SocketAddr::new(identity, 80),
            owner: id_of(owner),
            sure: true,
        });
        if director != owner {
            let to = (id_of(owner), identity);
            self.hosts[director].steered.insert(client, to);
        }
        self.flow_changes += 1;
    }

    /// [`Self::connect`], where all are well and one host answers for the identity: of what a second one directs meanwhile, out of its
    /// sight, the first can't know.
    pub fn connect_if_clear(&mut self, home: usize, owner: usize) {
        let [holder] = self.holders(address_of(home))[..] else {
            return;
        };
        let runs = |index: usize| self.hosts[index].state == State::Runs;
        if runs(holder) && runs(owner) && self.connected(holder, owner) {
            self.connect(home, owner);
        }
    }

    fn recover(&mut self, index: usize, identity: IpAddr, of: Option<ServerId>) {
        let host = &mut self.hosts[index];
        let local = host.time(self.now);
        if let Some(cluster) = &mut host.daemon {
            cluster.recover(local, &[identity], of);
        }
    }

    fn announce(&mut self, index: usize, address: IpAddr) {
        for millis in ANNOUNCEMENTS {
            self.post(self.now + ms(millis), index, Packet::Announce { address });
        }
    }

    fn broadcast(&mut self, from: usize, packet: &Packet) {
        for to in 0..self.hosts.len() {
            self.send(from, to, packet);
        }
    }

    fn send(&mut self, from: usize, to: usize, packet: &Packet) {
        if from == to || !self.reaches(from, to) {
            return;
        }
        let copies = 1 + u8::from(self.random.u8(..100) < self.faults.repeat_percent);
        for _ in 0..copies {
            if self.random.u8(..100) >= self.faults.loss_percent {
                let delay = self.random.u64(..self.faults.delay.as_nanos() as u64);
                self.post(self.now + Duration::from_nanos(delay), to, packet.clone());
            }
        }
    }

    fn post(&mut self, at: Timestamp, to: usize, packet: Packet) {
        self.order += 1;
        self.network.insert((at, self.order), (to, packet));
    }
}

impl Host {
    fn time(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_add_signed(self.ahead))
    }
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn id_of(index: usize) -> ServerId {
    ServerId(index as u64 + 1)
}

/// The identity whose home a host is.
pub fn address_of(index: usize) -> IpAddr {
    net_of(index).addr()
}

fn index_of(id: ServerId) -> usize {
    id.0 as usize - 1
}

fn net_of(index: usize) -> ipnet::IpNet {
    format!("10.0.{}.{}/16", 100 + index / 200, 1 + index % 200)
        .parse()
        .unwrap()
}

fn host_net_of(index: usize) -> ipnet::IpNet {
    format!("10.0.{}.{}/16", index / 200, 1 + index % 200)
        .parse()
        .unwrap()
}

fn mac_of(index: usize) -> [u8; 6] {
    [2, 0, 0, 0, (index >> 8) as u8, index as u8]
}

fn socket_of(index: usize) -> SocketAddr {
    SocketAddr::new(host_net_of(index).addr(), 9918)
}

fn index_at(address: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = address else {
        panic!("{address} is not of this world")
    };
    let [_, _, high, low] = v4.ip().octets();
    usize::from(high) * 200 + usize::from(low) - 1
}
