//! What must hold at every moment, whatever happens.

use balancer::cluster::{Cluster, Require, ServerId, Timestamp};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::world::{State, World, address_of, id_of};

/// How long two hosts that hear each other may both answer for an address.
const BOTH: Duration = Duration::from_secs(5);
/// The same where no datagram is lost: a report's time, and the moment in which a restarted server is asked.
const BOTH_WITHOUT_LOSS: Duration = Duration::from_millis(700);

/// How long an address of a dead home may be without a holder: at the worst it was asked for while its host still lived.
const NOBODY: Duration = Duration::from_secs(12);

/// Watches a world.
#[derive(Default)]
pub struct Checks {
    /// Since when two hosts both answer for an address.
    both: BTreeMap<(IpAddr, usize, usize), Timestamp>,
    /// Since when nobody answers for an address.
    nobody: BTreeMap<IpAddr, Timestamp>,
    /// The highest term that a start of a daemon knew of an address.
    terms: BTreeMap<(usize, u64, IpAddr), u64>,
    claims: usize,
    pub longest_both: Duration,
    pub longest_nobody: Duration,
}

impl Checks {
    /// The world has been changed from outside: what was on its way to be put right begins anew.
    pub fn disturbed(&mut self, world: &World) {
        self.both.clear();
        self.nobody.clear();
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
            self.not_nobody(world, index, address, &holders);
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

    /// Where most live and hear each other, an address is held, wherever its home is.
    fn not_nobody(&mut self, world: &World, home: usize, address: IpAddr, holders: &[usize]) {
        let count = world.hosts.len();
        let run_on = |side: u8| {
            (0..count).filter(move |&index| {
                world.hosts[index].state == State::Runs && world.side[index] == side
            })
        };
        let side = (0..=u8::MAX).find(|side| 2 * run_on(*side).count() > count);
        let Some(side) = side.filter(|_| !world.lives(home)) else {
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
            }
        }
    }

    /// Whoever has an identity sends each connection's packets to the one host that has its socket.
    pub fn all_are_directed(world: &World) {
        for (owner, host) in world.hosts.iter().enumerate() {
            for flow in &host.flows {
                for holder in world.holders(flow.identity.ip()) {
                    let to = world.hosts[holder].steered.get(&flow.client);
                    let expected = (holder != owner).then_some(&flow.owner);
                    assert_eq!(to, expected, "host {holder} directs {flow:?}");
                }
            }
        }
    }
}

/// What random worlds require of a takeover.
pub const REQUIRES: [Require; 2] = [Require::Any, Require::Majority];

/// Long enough for all to come to rest.
pub const REST: Duration = Duration::from_secs(20);
