//! A model of the kernel for tests, which crashes on demand and checks at every step what must always hold.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr};

use anyhow::{bail, ensure};
use ipnet::IpNet;

use super::kernel::{Family, Kernel, LOOPBACK, Rule, UNREACHABLE_PREFERENCE};

/// An interface that is not `lo`.
pub(super) const CARD: u32 = 2;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) rules: BTreeSet<Rule>,
    /// Those on `lo`.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Those on [`CARD`].
    pub(super) card: BTreeSet<IpAddr>,
    pub(super) identities: BTreeSet<(u32, IpNet)>,
}

/// The daemon dies in the call after `calls` changes, when that change is `applied` or just before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crash {
    pub(super) calls: usize,
    pub(super) applied: bool,
}

#[derive(Default)]
pub(super) struct Model {
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    original: State,
    state: State,
    crash: Option<Crash>,
    dead: bool,
    stubborn: bool,
    full: bool,
    kept: Option<IpAddr>,
}

impl Model {
    pub(super) fn new(original: State) -> Self {
        Self {
            inner: RefCell::new(Inner {
                state: original.clone(),
                original,
                ..Inner::default()
            }),
        }
    }

    pub(super) fn state(&self) -> State {
        self.inner.borrow().state.clone()
    }

    pub(super) fn crash_after(&self, crash: Crash) {
        self.inner.borrow_mut().crash = Some(crash);
    }

    /// From now on an address is on [`CARD`].
    pub(super) fn give_card(&self, address: IpAddr) {
        self.inner.borrow_mut().state.card.insert(address);
    }

    /// From now on rules that are deleted stay, or are put back at once by others.
    pub(super) fn keep_rules(&self) {
        self.inner.borrow_mut().stubborn = true;
    }

    /// From now on no identity can be added.
    pub(super) fn refuse_identities(&self) {
        self.inner.borrow_mut().full = true;
    }

    /// From now on this identity can't be removed.
    pub(super) fn keep_identity(&self, identity: IpAddr) {
        self.inner.borrow_mut().kept = Some(identity);
    }

    /// From now on it hasn't any identity.
    pub(super) fn lose_identities(&self) {
        self.inner.borrow_mut().state.identities.clear();
    }

    /// A new daemon on the same host.
    pub(super) fn survive(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.crash = None;
        inner.dead = false;
    }

    fn change(&self, change: impl FnOnce(&mut State) -> bool) -> anyhow::Result<()> {
        let mut inner = self.inner.borrow_mut();
        ensure!(!inner.dead, "dead");
        if let Some(crash) = &mut inner.crash {
            let applied = crash.applied;
            if crash.calls == 0 {
                inner.dead = true;
                if applied {
                    change(&mut inner.state);
                    inner.check();
                }
                bail!("killed");
            }
            crash.calls -= 1;
        }
        change(&mut inner.state);
        inner.check();
        Ok(())
    }
}

impl Inner {
    fn check(&self) {
        let Self {
            original, state, ..
        } = self;
        for &address in state.addresses.difference(&original.addresses) {
            for rule in [Rule::Foreign(address), Rule::Unreachable(address)] {
                assert!(
                    state.rules.contains(&rule),
                    "own traffic for {address} stays: {state:?}"
                );
            }
            let early = |rule: &&Rule| {
                matches!(rule, Rule::Local { family, preference, .. }
                    if *family == Family::of(address) && *preference <= UNREACHABLE_PREFERENCE)
            };
            assert_eq!(
                state.rules.iter().find(early),
                None,
                "own traffic for {address} stays: {state:?}"
            );
        }
        for rule in state.rules.difference(&original.rules) {
            if let Rule::Foreign(address) | Rule::Unreachable(address) = rule {
                assert!(
                    !original.addresses.contains(address) && !original.card.contains(address),
                    "own traffic for this host's {address} leaves: {state:?}"
                );
            }
        }
        for wanted in [Family::V4, Family::V6] {
            let local =
                |rule: &Rule| matches!(rule, Rule::Local { family, .. } if *family == wanted);
            assert!(
                state.rules.iter().any(local) || !original.rules.iter().any(local),
                "no local rule: {state:?}"
            );
        }
    }
}

impl Kernel for Model {
    async fn rules(&self, family: Family) -> anyhow::Result<Vec<Rule>> {
        ensure!(!self.inner.borrow().dead, "dead");
        Ok(self
            .state()
            .rules
            .into_iter()
            .filter(|rule| rule.family() == family)
            .collect())
    }

    async fn add_rule(&self, rule: Rule) -> anyhow::Result<()> {
        // As far as the kernel is concerned, who made a rule does not make it another one.
        let place = |rule: &Rule| match *rule {
            Rule::Local {
                family, preference, ..
            } => Rule::Local {
                family,
                preference,
                protocol: 0,
            },
            other => other,
        };
        self.change(|state| {
            let there = state.rules.iter().any(|other| place(other) == place(&rule));
            !there && state.rules.insert(rule)
        })
    }

    async fn delete_rule(&self, rule: Rule) -> anyhow::Result<()> {
        let stubborn = self.inner.borrow().stubborn;
        self.change(|state| !stubborn && state.rules.remove(&rule))
    }

    async fn addresses(&self) -> anyhow::Result<BTreeSet<(IpAddr, u32)>> {
        ensure!(!self.inner.borrow().dead, "dead");
        let State {
            addresses,
            card,
            identities,
            ..
        } = self.state();
        let identities = identities
            .into_iter()
            .map(|(interface, identity)| (identity.addr(), interface));
        let on_lo = addresses.into_iter().map(|address| (address, LOOPBACK));
        Ok(on_lo
            .chain(card.into_iter().map(|address| (address, CARD)))
            .chain(identities)
            .collect())
    }

    async fn add_address(&self, address: IpAddr) -> anyhow::Result<()> {
        self.change(|state| state.addresses.insert(address))
    }

    async fn delete_address(&self, address: IpAddr) -> anyhow::Result<()> {
        self.change(|state| state.addresses.remove(&address))
    }

    async fn has_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<bool> {
        Ok(self.state().identities.contains(&(interface, identity)))
    }

    async fn add_assumed(&self, interface: u32, address: IpAddr) -> anyhow::Result<()> {
        self.add_identity(interface, address.into()).await
    }

    async fn add_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()> {
        ensure!(!self.inner.borrow().full, "no buffer space");
        self.change(|state| state.identities.insert((interface, identity)))
    }

    async fn delete_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()> {
        let kept = self.inner.borrow().kept == Some(identity.addr());
        ensure!(!kept, "{} stays", identity.addr());
        self.change(|state| state.identities.remove(&(interface, identity)))
    }
}
