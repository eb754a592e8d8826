//! A model of the kernel for tests, which crashes on demand and checks at every step what must always hold.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr};

use anyhow::{bail, ensure};
use ipnet::IpNet;

use super::kernel::{FOREIGN_PREFERENCE, Family, Kernel, Rule};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) rules: BTreeSet<Rule>,
    pub(super) addresses: BTreeSet<IpAddr>,
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
            assert!(
                state.rules.contains(&Rule::Foreign(address)),
                "own traffic for {address} stays: {state:?}"
            );
            let early = |rule: &&Rule| {
                matches!(rule, Rule::Local { family, preference }
                    if *family == Family::of(address) && *preference < FOREIGN_PREFERENCE)
            };
            assert_eq!(
                state.rules.iter().find(early),
                None,
                "own traffic for {address} stays: {state:?}"
            );
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
    async fn rules(&self, family: Family) -> anyhow::Result<BTreeSet<Rule>> {
        ensure!(!self.inner.borrow().dead, "dead");
        Ok(self
            .state()
            .rules
            .into_iter()
            .filter(|rule| rule.family() == family)
            .collect())
    }

    async fn add_rule(&self, rule: Rule) -> anyhow::Result<()> {
        self.change(|state| state.rules.insert(rule))
    }

    async fn delete_rule(&self, rule: Rule) -> anyhow::Result<()> {
        self.change(|state| state.rules.remove(&rule))
    }

    async fn addresses(&self) -> anyhow::Result<BTreeSet<IpAddr>> {
        ensure!(!self.inner.borrow().dead, "dead");
        Ok(self.state().addresses)
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

    async fn add_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()> {
        self.change(|state| state.identities.insert((interface, identity)))
    }

    async fn delete_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()> {
        self.change(|state| state.identities.remove(&(interface, identity)))
    }
}
