//! What must hold at every moment, whatever happens.

use balancer::cluster::{Cluster, Require, ServerId, Timestamp};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::world::{State, World, address_of, id_of};

/// How long two hosts that hear each other may both answer for an address.
const BOTH: Duration = Duration::from_secs(5);
/// The same where no datagram is lost: a report's time, and the moment in which a restarted server is asked.
const BOTH_WITHOUT_LOSS: Duration = Duration::from_millis(700);

/// How long a caretaker may answer beside a host whose daemon isn't heard: it looks each 5 s, and the other one must be known to be silent.
const BOTH_MUTE: Duration = Duration::from_secs(8);
/// The same where frames are lost, and a daemon that is stopped is asked for a report again.
const BOTH_MUTE_WITH_LOSS: Duration = Duration::from_secs(15);

/// How long a holder may not know where a connection ends, whose server it hears.
const ASTRAY: Duration = Duration::from_secs(5);
/// The same where no datagram is lost: clients of unknown flows aren't answered for so long (`GRACE`), after a report that tells of a peer
/// that wasn't there.
const ASTRAY_WITHOUT_LOSS: Duration = Duration::from_secs(1);

/// How long an address of a dead home may be without a holder: at the worst it was asked for while its host still lived.
const NOBODY: Duration = Duration::from_secs(12);

/// Watches a world.
#[derive(Default)]
pub struct Checks {
    /// Since when two hosts both answer for an address.
    both: BTreeMap<(IpAddr, usize, usize), Timestamp>,
    /// Since when a caretaker answers beside a host whose daemon doesn't run.
    mute: BTreeMap<(IpAddr, usize, usize), Timestamp>,
    /// Since when nobody answers for an address.
    nobody: BTreeMap<IpAddr, Timestamp>,
    /// The highest term that a start of a daemon knew of an address.
    terms: BTreeMap<(usize, u64, IpAddr), u64>,
    claims: usize,
    /// Since when a holder sends a client's packets elsewhere than to its connection's server.
    astray: BTreeMap<(SocketAddr, usize), Timestamp>,
    /// The flows as they were looked at last.
    flow_changes: Option<u64>,
    pub longest_astray: Duration,
    pub longest_both: Duration,
    pub longest_nobody: Duration,
}

impl Checks {
    /// The world has been changed from outside: what was on its way to be put right begins anew.
    pub fn disturbed(&mut self, world: &World) {
        self.both.clear();
        self.mute.clear();
        self.nobody.clear();
        self.astray.clear();
        self.flow_changes = None;
        // A daemon that was restarted may have forgotten.
        let runs = |by: usize, boot| world.hosts[by].boot == boot;
        self.terms.retain(|(by, boot, _), _| runs(*by, *boot));
    }

    /// Looks at a moment.
    pub fn look(&mut self, world: &World) {
        self.claims_grow(world);
        self.terms_grow(world);
        for index in 0..world.hosts.len() {
            let address = address_of(index);
            let holders = world.holders(address);
            self.not_two(world, address, &holders);
            self.not_beside_mute(world, index, address, &holders);
            self.not_nobody(world, index, address, &holders);
        }
        self.not_two_owners(world);
    }

    /// Whoever answers for an identity has each flow's packets answered by the one server that has its connection, if they hear each
    /// other: else two would answer them.
    fn not_two_owners(&mut self, world: &World) {
        if self.flow_changes != Some(world.flow_changes) {
            self.flow_changes = Some(world.flow_changes);
            let mut astray = BTreeMap::new();
            for (client, holder) in misdirected(world) {
                let key = (client, holder);
                let since = self.astray.get(&key).copied().unwrap_or(world.now);
                astray.insert(key, since);
            }
            self.astray = astray;
        }
        let bound = if world.faults.loss_percent == 0 {
            ASTRAY_WITHOUT_LOSS
        } else {
            ASTRAY
        };
        for ((client, holder), since) in &self.astray {
            let time = world.now.since(*since);
            self.longest_astray = self.longest_astray.max(time);
            assert!(
                time <= bound,
                "{:?}: host {holder} has sent the packets of {client} astray for {time:?}",
                world.now
            );
        }
    }

    fn claims_grow(&mut self, world: &World) {
        for (when, by, claim) in &world.claims[self.claims..] {
            let boot = world.hosts[*by].boot;
            let known = self.terms.get(&(*by, boot, claim.address.addr()));
            assert!(
                known.is_none_or(|term| claim.term > *term),
                "{when:?}: host {by} claimed {claim:?}, and knew of {known:?}"
            );
        }
        self.claims = world.claims.len();
    }

    fn terms_grow(&mut self, world: &World) {
        for (by, host) in world.hosts.iter().enumerate() {
            for identity in host.daemon.iter().flat_map(Cluster::identities) {
                let of = (by, host.boot, identity.address.addr());
                let term = self.terms.entry(of).or_default();
                assert!(
                    identity.term >= *term,
                    "{:?}: host {by} knows {identity:?}, and knew of term {term}",
                    world.now
                );
                *term = identity.term;
            }
        }
    }

    fn not_two(&mut self, world: &World, address: IpAddr, holders: &[usize]) {
        let bound = if world.faults.loss_percent == 0 {
            BOTH_WITHOUT_LOSS
        } else {
            BOTH
        };
        let runs = |index: usize| world.hosts[index].state == State::Runs;
        let is_pair = |a: usize, b: usize| {
            runs(a)
                && runs(b)
                && holders.contains(&a)
                && holders.contains(&b)
                && world.connected(a, b)
        };
        self.both
            .retain(|(of, a, b), _| *of != address || is_pair(*a, *b));
        for (place, &a) in holders.iter().enumerate() {
            for &b in &holders[place + 1..] {
                if is_pair(a, b) {
                    let since = *self.both.entry((address, a, b)).or_insert(world.now);
                    let time = world.now.since(since);
                    self.longest_both = self.longest_both.max(time);
                    assert!(
                        time <= bound,
                        "{:?}: {a} and {b} have {address} for {time:?}",
                        world.now
                    );
                }
            }
        }
    }

    /// A caretaker yields to a host whose daemon can't.
    fn not_beside_mute(&mut self, world: &World, home: usize, address: IpAddr, holders: &[usize]) {
        let bound = if world.faults.loss_percent == 0 {
            BOTH_MUTE
        } else {
            BOTH_MUTE_WITH_LOSS
        };
        let runs = |index: usize| world.hosts[index].state == State::Runs;
        let is_pair = |heard: usize, mute: usize| {
            heard != home
                && runs(heard)
                && !runs(mute)
                && holders.contains(&heard)
                && holders.contains(&mute)
                && world.connected(heard, mute)
        };
        self.mute
            .retain(|(of, heard, mute), _| *of != address || is_pair(*heard, *mute));
        for &heard in holders {
            for &mute in holders.iter().filter(|mute| is_pair(heard, **mute)) {
                let since = *self.mute.entry((address, heard, mute)).or_insert(world.now);
                let time = world.now.since(since);
                assert!(
                    time <= bound,
                    "{:?}: {heard} has {address} beside {mute}, which isn't heard, for {time:?}",
                    world.now
                );
            }
        }
    }

    /// Where most live and hear each other, an address is held, wherever its home is.
    fn not_nobody(&mut self, world: &World, home: usize, address: IpAddr, holders: &[usize]) {
        let count = world.hosts.len();
        let run_on = |side: u8| {
            (0..count).filter(move |&index| {
                world.hosts[index].state == State::Runs && world.side[index] == side
            })
        };
        let side = (0..=u8::MAX).find(|side| 2 * run_on(*side).count() > count);
        // A daemon that was killed says nothing of what was taken from its host after that.
        let has_let_go = world.hosts[home].state == State::Ended
            && !world.hosts[home].addresses.contains(&address);
        let lost = !world.lives(home) || has_let_go;
        let Some(side) = side.filter(|_| lost && world.cut.is_empty()) else {
            self.nobody.remove(&address);
            return;
        };
        let known = |index: usize| {
            let mut known = world.hosts[index]
                .daemon
                .iter()
                .flat_map(Cluster::identities);
            known.any(|identity| identity.address.addr() == address)
        };
        let held = holders.iter().any(|&holder| world.side[holder] == side);
        // What was never told of can't be taken over.
        if held || !run_on(side).any(known) {
            self.nobody.remove(&address);
            return;
        }
        let since = *self.nobody.entry(address).or_insert(world.now);
        let time = world.now.since(since);
        self.longest_nobody = self.longest_nobody.max(time);
        assert!(
            time <= NOBODY,
            "{:?}: nobody has {address} for {time:?}",
            world.now
        );
    }

    /// After a long time in which all is well.
    pub fn at_rest(world: &World) {
        for index in 0..world.hosts.len() {
            let address = address_of(index);
            assert_eq!(world.holders(address), [index], "{address}");
            for host in &world.hosts {
                let mut known = host.daemon.iter().flat_map(Cluster::identities);
                let identity = known.find(|identity| identity.address.addr() == address);
                let holder: Option<ServerId> = identity.and_then(|identity| identity.holder);
                assert_eq!(holder, Some(id_of(index)), "{address}");
                let at_home = term(world, index, address);
                let known = identity.map(|identity| identity.term);
                assert!(known <= at_home, "{address}: {known:?}, {at_home:?}");
            }
        }
    }

    /// Whoever has an identity sends each connection's packets to the one host that has its socket.
    pub fn all_are_directed(world: &World) {
        for (owner, host) in world.hosts.iter().enumerate() {
            for flow in &host.flows {
                for holder in world.holders(flow.identity.ip()) {
                    let to = world.hosts[holder].steered.get(&flow.client);
                    let to = to.map(|(owner, _)| owner);
                    let expected = (holder != owner).then_some(&flow.owner);
                    assert_eq!(to, expected, "host {holder} directs {flow:?}");
                }
            }
        }
    }
}

/// The term of an identity that a host knows of.
fn term(world: &World, host: usize, address: IpAddr) -> Option<u64> {
    let daemon = world.hosts[host].daemon.as_ref()?;
    let mut known = daemon.identities();
    let identity = known.find(|identity| identity.address.addr() == address)?;
    Some(identity.term)
}

/// Clients, and the holders that send their packets elsewhere than to their connections' servers.
fn misdirected(world: &World) -> Vec<(SocketAddr, usize)> {
    let runs = |index: usize| world.hosts[index].state == State::Runs;
    let holders: BTreeMap<_, _> = (0..world.hosts.len())
        .map(|home| (address_of(home), world.holders(address_of(home))))
        .collect();
    let mut found = Vec::new();
    for (owner, host) in world.hosts.iter().enumerate() {
        for flow in host.flows.iter().filter(|_| runs(owner)) {
            for &holder in &holders[&flow.identity.ip()] {
                let to = world.hosts[holder].steered.get(&flow.client);
                let right = if holder == owner {
                    to.is_none()
                } else {
                    to.is_some_and(|(to, _)| *to == flow.owner)
                };
                if !right && runs(holder) && (holder == owner || world.connected(holder, owner)) {
                    found.push((flow.client, holder));
                }
            }
        }
    }
    found
}

/// What random worlds require of a takeover.
pub const REQUIRES: [Require; 2] = [Require::Any, Require::Majority];

/// Long enough for all to come to rest.
pub const REST: Duration = Duration::from_secs(20);
