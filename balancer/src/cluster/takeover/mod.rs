//! Who holds which identity: takeover when a holder is gone, and hand-back when its home returns.
//!
//! What one server thinks of one identity:
//!
//! ```text
//!                          holder overdue, or gone, and it falls to this server
//!      ┌─────────┐ ────────────────────────────────────────────────> ┌────────┐
//!      │ another │      holder heard, or it falls to somebody else   │ asked  │ <─┐
//!  ──> │ server  │ <──────────────────────────────────────────────── │  who   │   │ a time-out later,
//!      │ has it  │ <──────────────────────────── somebody uses it ── │ has it │   │ if nobody was there
//!      └─────────┘                                                   └────────┘ ──┘ and it isn't free yet
//!        ^     ^                                                         │
//!        │     │ home is back, a higher claim, a mute host uses it       │ nobody uses it, and the holder is
//!        │     └──────────────────────────┐                              │ dead, has left, or has let go of it
//!        │                              ┌──────────────┐                 │ (and a majority is in sight, if
//!        │ goodbye                      │ this server  │                 │ that is required)
//!        └───────────────────────────── │ has it       │ <───────────────┘ term + 1: claimed
//!                                       └──────────────┘
//! ```
//!
//! The home of an identity has it whenever its daemon runs: it never asks. If it sees another holder it takes a higher
//! term and announces itself, and that holder lets go. Of two caretakers the one with the higher term has it, then the
//! one with the lower id; one that isn't heard, but whose host uses it, has it before one that is, since only that can let
//! go. Of two homes (a wrong configuration) neither gives in, and neither fights.

mod doubts;
mod election;
mod identity;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub use election::Require;
pub use identity::{Identity, Reason};

pub(super) use election::Sight;

use super::{
    Event, IdentityReport, MAX_IDENTITIES, Outbox, Peer, Report, ServerId, Status, Tenure,
    Timestamp, Timing,
};
use doubts::{Cause, Doubts};
use election::Standing;
use identity::Probe;

/// An identity whose home is this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The address, with the prefix length of its network.
    pub address: IpNet,
    /// The host has it without balancer, and keeps it when balancer ends.
    pub kept: bool,
}

/// An identity of another server that this one has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// The address, with the prefix length of its network.
    pub address: IpNet,
    /// The server that it belongs to when all are well.
    pub home: ServerId,
    /// The claim's term.
    pub term: u64,
}

/// What a server holds at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Estate {
    /// Its own.
    pub homes: Vec<Home>,
    /// What the daemon before this one had taken over.
    pub adopted: Vec<Assumed>,
    /// When it may take over more.
    pub require: Require,
}

/// How long a server that couldn't add an address leaves takeovers to others.
const UNABLE_TIMEOUTS: u32 = 10;

/// How long an address that somebody was found to use isn't asked for again.
const USED_TIMEOUTS: u32 = 4;

/// Probes in a row that nobody answers before an identity is taken whose holder is silent, but whose host lives: that would serve on.
const LET_GO: u32 = 2;

/// Identities that are known at one time: others are as good as not told of. So many the program's table has room for, beside the servers'
/// own addresses.
const MAX_KNOWN: usize = 8_192;

/// The identities of the cluster.
#[derive(Debug)]
pub(super) struct Takeover {
    me: ServerId,
    require: Require,
    identities: BTreeMap<IpAddr, Identity>,
    doubts: Doubts,
    /// Until when this server leaves takeovers to others.
    unable_until: Timestamp,
    next: Timestamp,
}

impl Takeover {
    pub fn new(now: Timestamp, me: ServerId, estate: &Estate) -> Self {
        let mut identities = BTreeMap::new();
        let mut enter = |address: IpNet, home, term, kept, reason| {
            let identity = Identity {
                holder: Some(me),
                since: now,
                reason,
                kept,
                ..Identity::new(address, home, term)
            };
            identities.insert(address.addr(), identity);
        };
        for one in &estate.adopted {
            enter(one.address, one.home, one.term, false, Reason::Adopted);
        }
        for one in &estate.homes {
            enter(one.address, me, 1, one.kept, Reason::Home);
        }
        Self {
            me,
            require: estate.require,
            identities,
            doubts: Doubts::default(),
            unable_until: Timestamp(0),
            next: Timestamp::NEVER,
        }
    }

    pub fn set_require(&mut self, require: Require) {
        self.require = require;
    }

    /// All that is known.
    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        self.identities.values()
    }

    /// What this server reports to hold, and not to hold: any more, or under a term that its home doesn't know of.
    pub fn reports(&self) -> Vec<IdentityReport> {
        let held = self.held().map(|identity| identity.report(Tenure::Held));
        held.chain(self.untold()).take(MAX_IDENTITIES).collect()
    }

    /// What it reports in its goodbye: of that the addresses that stay with its host are held.
    pub fn last_reports(&self) -> Vec<IdentityReport> {
        let tenure = |kept| if kept { Tenure::Held } else { Tenure::Freed };
        let last = |identity: &Identity| identity.report(tenure(identity.kept));
        let held = self.held().map(last);
        held.chain(self.untold()).take(MAX_IDENTITIES).collect()
    }

    fn untold(&self) -> impl Iterator<Item = IdentityReport> {
        let untold = self.iter().filter(|identity| identity.is_untold());
        untold.map(|identity| identity.report(Tenure::Past))
    }

    /// This host keeps `address` when its daemon ends.
    pub fn keep(&mut self, address: IpAddr) {
        if let Some(identity) = self.identities.get_mut(&address) {
            identity.kept = true;
        }
    }

    /// Whether this server can take over anything now.
    pub fn is_able(&self, now: Timestamp) -> bool {
        now >= self.unable_until
    }

    /// Whether this server has this identity.
    pub fn holds(&self, address: &IpAddr) -> bool {
        let identity = self.identities.get(address);
        identity.is_some_and(|identity| identity.is_held_by(self.me))
    }

    /// Whether this server would need a majority to take over anything, and has none.
    pub fn lacks_majority(&self, sight: &Sight) -> bool {
        self.require == Require::Majority && !sight.has_majority()
    }

    fn held(&self) -> impl Iterator<Item = &Identity> {
        self.identities
            .values()
            .filter(|identity| identity.is_held_by(self.me))
    }

    /// Takes in what a peer's accepted report says; `last`: what the one before it said, if the peer was in sight.
    pub fn handle_report(
        &mut self,
        now: Timestamp,
        report: &Report,
        last: Option<&[IdentityReport]>,
        sight: &Sight,
        timing: Timing,
        out: &mut Outbox,
    ) {
        let from = report.server;
        for claim in &report.identities {
            if claim.is_held() {
                self.handle_claim(now, from, claim, sight, timing, out);
            } else {
                self.handle_disclaimer(now, report, last, claim, timing, out);
            }
        }
        self.forget_unsaid(now, report, out);
    }

    /// The link is told again who has what is this server's own.
    pub fn defend_homes(&mut self, now: Timestamp, timing: Timing, out: &mut Outbox) {
        let me = self.me;
        for identity in self.identities.values_mut() {
            if identity.is_held_by(me) && identity.home == me {
                defend(now, identity, timing, out);
            }
        }
    }

    /// Server `peer` can be asked from now on: it may have flows on what this one holds. What that took over the peer may have had
    /// before, and have let go of unheard.
    pub fn meet(&mut self, now: Timestamp, peer: ServerId, timing: Timing, out: &mut Outbox) {
        let me = self.me;
        let of = |identity: &Identity| {
            let cause = if identity.home == me {
                Cause::Met(peer)
            } else {
                Cause::Elsewhere(peer)
            };
            (identity.address.addr(), cause)
        };
        let held: Vec<_> = self.held().map(of).collect();
        for (identity, cause) in held {
            self.doubts.raise(now, identity, cause, timing, out);
        }
    }

    /// This server didn't run, or had no network, for so long that others may have had what it holds.
    pub fn wake(&self, out: &mut Outbox) {
        for identity in self.held() {
            out.events.push_back(Event::Recover {
                identity: identity.address.addr(),
                of: None,
                got: true,
                grace: true,
            });
        }
    }

    /// Somebody says that it holds an identity.
    fn handle_claim(
        &mut self,
        now: Timestamp,
        from: ServerId,
        claim: &IdentityReport,
        sight: &Sight,
        timing: Timing,
        out: &mut Outbox,
    ) {
        let me = self.me;
        let address = claim.address.addr();
        if from != claim.home && !self.may_be_claimed(address, claim.home, sight) {
            return;
        }
        if self.identities.len() >= MAX_KNOWN && !self.identities.contains_key(&address) {
            return;
        }
        let identity = self
            .identities
            .entry(address)
            .or_insert_with(|| Identity::new(claim.address, claim.home, claim.term));
        let is_home = from == claim.home;
        if is_home && identity.home != from && sight.standing(identity.home) == Standing::Present {
            // Two homes: warned of by the driver. Neither gives in, and there is nothing to win.
            return;
        }
        if is_home {
            identity.behind = claim.term < identity.term;
            identity.let_go = match identity.let_go {
                // Its term may have grown for another reason before it could be told.
                Some(heard) if now.since(heard) > timing.gap() && claim.term > identity.term => {
                    None
                }
                let_go => let_go.map(|heard| heard.min(now)),
            };
        }
        let rank = |term, id| (term, Reverse(id));
        match identity.holder {
            Some(holder) if holder == me && identity.home == me => {
                identity.term = identity.term.max(claim.term.saturating_add(1));
                reclaim(
                    now,
                    identity,
                    Cause::Claim(from),
                    &mut self.doubts,
                    timing,
                    out,
                );
            }
            Some(holder) if holder == me => {
                if is_home || rank(claim.term, from) > rank(identity.term, me) {
                    let reason = if is_home {
                        Reason::Home
                    } else {
                        Reason::Reported
                    };
                    identity.term = identity.term.max(claim.term);
                    release(now, identity, Some(from), reason, out);
                    if is_home {
                        identity.let_go = Some(now);
                    }
                } else {
                    reclaim(
                        now,
                        identity,
                        Cause::Claim(from),
                        &mut self.doubts,
                        timing,
                        out,
                    );
                }
            }
            Some(holder) if holder == from => identity.term = identity.term.max(claim.term),
            holder => {
                let stands = holder.is_some_and(|holder| {
                    sight.standing(holder) == Standing::Present
                        && !is_home
                        && (holder == identity.home
                            || rank(identity.term, holder) > rank(claim.term, from))
                });
                if !stands {
                    let reason = if is_home {
                        Reason::Home
                    } else {
                        Reason::Reported
                    };
                    pass(now, identity, Some(from), reason, out);
                }
                identity.term = identity.term.max(claim.term);
            }
        }
        if is_home {
            identity.home = from;
        }
    }

    /// Somebody says that it hasn't an identity, which it knows of under a term.
    fn handle_disclaimer(
        &mut self,
        now: Timestamp,
        report: &Report,
        last: Option<&[IdentityReport]>,
        claim: &IdentityReport,
        timing: Timing,
        out: &mut Outbox,
    ) {
        let (me, from) = (self.me, report.server);
        let had = |last: &[IdentityReport]| {
            let mut held = last.iter().filter(|one| one.is_held());
            held.any(|one| one.address == claim.address)
        };
        let Some(identity) = self.identities.get_mut(&claim.address.addr()) else {
            return;
        };
        if identity.is_held_by(from) {
            identity.term = identity.term.max(claim.term);
            pass(now, identity, None, Reason::HolderLeft, out);
            if claim.tenure == Tenure::Freed {
                // It says so when it has removed the address: nobody need be asked.
                identity.answered(now, false);
            }
        } else if [identity.home, claim.home] == [me; 2]
            && (claim.term >= identity.term || last.is_none_or(had))
        {
            // A caretaker let go when it heard this server or saw it, or before this one was started. Of one under a higher term nothing
            // was heard at all.
            let cause = if claim.term > identity.term {
                Cause::Claim(from)
            } else {
                Cause::Elsewhere(from)
            };
            identity.term = identity.term.max(claim.term.saturating_add(1));
            reclaim(now, identity, cause, &mut self.doubts, timing, out);
        }
    }

    /// Whether a server other than its home may have an identity: a home that is there and doesn't name it has none. One that nobody
    /// has heard of may well have one: its caretaker may be all that is left after a restart of the whole cluster.
    fn may_be_claimed(&self, address: IpAddr, home: ServerId, sight: &Sight) -> bool {
        if home == self.me {
            return self
                .identities
                .get(&address)
                .is_some_and(|identity| identity.home == home);
        }
        let names = |report: &Report| {
            let mut named = report.identities.iter();
            named.any(|identity| identity.address.addr() == address)
        };
        match sight.membership.peer(home) {
            Some(peer) if sight.standing(home) == Standing::Present => names(&peer.report),
            _ => true,
        }
    }

    /// What the sender of `report` had and doesn't name any more it has let go of. What it is the home of and doesn't name
    /// is no identity any more.
    fn forget_unsaid(&mut self, now: Timestamp, report: &Report, out: &mut Outbox) {
        let from = report.server;
        let named = |address: &IpAddr| {
            let mut named = report.identities.iter();
            named.any(|identity| identity.address.addr() == *address)
        };
        let me = self.me;
        self.identities.retain(|address, identity| {
            if named(address) {
                return true;
            }
            if identity.home == from {
                if identity.is_held_by(me) {
                    release(now, identity, None, Reason::HolderLeft, out);
                }
                return false;
            }
            if identity.is_held_by(from) {
                pass(now, identity, None, Reason::HolderLeft, out);
            }
            true
        });
    }

    /// A frame has shown that another host uses `address`: `by`, if it is one that is known.
    pub fn handle_conflict(
        &mut self,
        now: Timestamp,
        address: IpAddr,
        by: Option<&Peer>,
        timing: Timing,
        out: &mut Outbox,
    ) {
        let me = self.me;
        let Some(identity) = self.identities.get_mut(&address) else {
            return;
        };
        if !identity.is_held_by(me) {
            return;
        }
        let is_home_too = |peer: &Peer| {
            let mut named = peer.report.identities.iter();
            named.any(|named| named.address.addr() == address && named.home == peer.report.server)
        };
        if identity.home == me {
            // A stranger's host would go on, and so would another home: that is for the operator, whom the driver warns.
            if by.is_some_and(|peer| !is_home_too(peer)) {
                reclaim(now, identity, Cause::Frame, &mut self.doubts, timing, out);
            }
            return;
        }
        let reason = match by {
            Some(peer) if peer.report.server == identity.home => Reason::Home,
            // Of two caretakers the reports decide.
            Some(peer) if peer.status == Status::Online => return,
            // One whose daemon has ended doesn't let go. While both answer, a client's packets go now to the one, now to the other,
            // and its connections break; its kernel serves on alone, as that of any silent host does.
            Some(_) | None => Reason::SeenElsewhere,
        };
        let by = by.map(|peer| peer.report.server);
        release(now, identity, by, reason, out);
        identity.answered(now, true);
    }

    /// What the probe that [`Event::ProbeIdentity`] asked for gave.
    pub fn handle_probe(&mut self, now: Timestamp, address: IpAddr, used: bool) {
        if let Some(identity) = self.identities.get_mut(&address)
            && let Probe::Asked(_) = identity.probe
        {
            identity.answered(now, used);
        }
    }

    /// This host couldn't take `address`: somebody else may.
    pub fn renounce(&mut self, now: Timestamp, address: IpAddr, timing: Timing, out: &mut Outbox) {
        let me = self.me;
        if let Some(identity) = self.identities.get_mut(&address)
            && identity.is_held_by(me)
            && identity.home != me
        {
            pass(now, identity, None, Reason::NotAdded, out);
            out.forget_flows(address);
            self.unable_until = now + timing.timeout() * UNABLE_TIMEOUTS;
        }
    }

    /// What was found out before is not to be trusted: this server didn't run for a while.
    pub fn distrust(&mut self) {
        for identity in self.identities.values_mut() {
            identity.forget_probes();
        }
    }

    /// Asks and claims what is due.
    pub fn settle(&mut self, now: Timestamp, sight: &Sight, timing: Timing, out: &mut Outbox) {
        let me = self.me;
        let lacks_majority = self.lacks_majority(sight);
        let identities = &self.identities;
        let is_held = |address: &IpAddr| {
            let identity = identities.get(address);
            identity.is_some_and(|identity| identity.is_held_by(me))
        };
        self.doubts.handle_timeout(now, is_held, timing, out);
        let mut held = self.held().count();
        self.next = if self.is_able(now) {
            Timestamp::NEVER
        } else {
            self.unable_until
        };
        let mut next = self.next;
        for (address, identity) in &mut self.identities {
            if identity.is_held_by(me) {
                continue;
            }
            let standing = identity.holder.map(|holder| sight.standing(holder));
            // How many probes in a row that nobody answers make it free.
            let enough = match standing {
                Some(Standing::Present) => None,
                // It may report yet.
                Some(Standing::Overdue) => Some(u32::MAX),
                // Its daemon was killed, and somebody has taken the addresses away after that.
                Some(Standing::Silent) => Some(LET_GO),
                Some(Standing::Left | Standing::Gone) | None => Some(1),
            };
            // A home that is there takes what is its own.
            let enough = enough.filter(|_| sight.standing(identity.home) != Standing::Present);
            // The rank takes a look at every peer: it is for those few that may be free.
            let search = enough.and_then(|enough| Some((enough, sight.rank(*address)?)));
            let Some((enough, rank)) = search else {
                identity.forget_search();
                continue;
            };
            // Whom it falls to may not have heard of it, or fail: then it's the next one's turn.
            let since = *identity.free_since.get_or_insert(now);
            let turn = since + timing.timeout() * rank;
            if now < turn {
                identity.forget_probes();
                next = next.min(turn);
                continue;
            }
            // Who is there is asked again after a while: it may have left in good order, and die later.
            let again = |at: Timestamp| match identity.probe {
                Probe::Used(_) => at + timing.probing() * USED_TIMEOUTS,
                _ => at + timing.probing(),
            };
            let fresh = |at| now < again(at);
            let free = identity.unanswered >= enough;
            match identity.probe {
                Probe::Unused(at) if fresh(at) && free && held < MAX_IDENTITIES => {
                    if lacks_majority {
                        next = next.min(again(at));
                        continue;
                    }
                    let reason = match standing {
                        Some(Standing::Left | Standing::Gone) => Reason::HolderDied,
                        _ => Reason::HolderLeft,
                    };
                    claim(now, identity, me, reason, out);
                    held += 1;
                }
                Probe::Asked(at) | Probe::Used(at) | Probe::Unused(at) if fresh(at) => {
                    next = next.min(again(at));
                }
                _ => {
                    identity.probe = Probe::Asked(now);
                    next = next.min(now + timing.probing());
                    out.events.push_back(Event::ProbeIdentity(*address));
                }
            }
        }
        self.next = next.min(self.doubts.next_timeout(timing));
    }

    /// When [`Self::settle`] has something to do.
    pub fn next_timeout(&self) -> Timestamp {
        self.next
    }
}

/// Another holder from now on.
fn pass(
    now: Timestamp,
    identity: &mut Identity,
    holder: Option<ServerId>,
    reason: Reason,
    out: &mut Outbox,
) {
    // That a server which has just become known has what is its own is no news.
    let news = identity.since != Timestamp(0) || holder != Some(identity.home);
    identity.holder = holder;
    identity.since = now;
    identity.reason = reason;
    identity.forget_search();
    let moved = Event::Moved(identity.address.addr());
    if news && !out.events.contains(&moved) {
        out.events.push_back(moved);
    }
}

fn claim(now: Timestamp, identity: &mut Identity, me: ServerId, reason: Reason, out: &mut Outbox) {
    identity.term = identity.term.saturating_add(1);
    pass(now, identity, Some(me), reason, out);
    out.moves.push_back(Event::Assume(Assumed {
        address: identity.address,
        home: identity.home,
        term: identity.term,
    }));
}

fn release(
    now: Timestamp,
    identity: &mut Identity,
    holder: Option<ServerId>,
    reason: Reason,
    out: &mut Outbox,
) {
    pass(now, identity, holder, reason, out);
    // Nobody else can tell its home that flows may have been sent elsewhere until now.
    // Its home has yet to be heard.
    identity.let_go = Some(Timestamp::NEVER);
    out.forget_flows(identity.address.addr());
    out.moves.push_back(Event::Release(identity.address.addr()));
}

/// Says again on the link who has the identity, but not at each frame: the other one may do the same.
fn defend(now: Timestamp, identity: &mut Identity, timing: Timing, out: &mut Outbox) {
    if now.since(identity.defended) >= timing.gap() {
        identity.defended = now;
        out.events
            .push_back(Event::Announce(identity.address.addr()));
    }
}

/// As [`defend`], against another holder, who has got flows on it that this server doesn't know of.
fn reclaim(
    now: Timestamp,
    identity: &mut Identity,
    cause: Cause,
    doubts: &mut Doubts,
    timing: Timing,
    out: &mut Outbox,
) {
    defend(now, identity, timing, out);
    doubts.raise(now, identity.address.addr(), cause, timing, out);
}
