//! The decision on the first packet of a flow: steps S202 to S209 of WO 99/18534 as one pure function.
//!
//! The XDP program, `balancer explain`, the simulator and the tests all call [`decide`].

use crate::hash::fold;
use crate::types::{Connections, MAX_PEERS, OFFERED, PeerLoad, READY, Service, load_of};

/// How a peer is chosen among the candidates (S208). Set for each service.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The patent's rule to the letter: the candidate with the smallest load; of equals, the one known first.
    LeastLoad = 0,
    /// Look at two peers at random and take the lower one, if it is a candidate. The default: with least-load all servers
    /// bury the same peer before its next report.
    #[default]
    TwoChoices = 1,
    /// A random candidate whose load is at or below the overload level.
    BelowLevel = 2,
    /// Each candidate in turn.
    RoundRobin = 3,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 4] = [
        Self::LeastLoad,
        Self::TwoChoices,
        Self::BelowLevel,
        Self::RoundRobin,
    ];

    /// The policy's name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastLoad => "least-load",
            Self::TwoChoices => "two-choices",
            Self::BelowLevel => "below-level",
            Self::RoundRobin => "round-robin",
        }
    }

    /// The policy with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// The policy with this number in a map; [`Policy::TwoChoices`] for a number that is none.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::LeastLoad,
            2 => Self::BelowLevel,
            3 => Self::RoundRobin,
            _ => Self::TwoChoices,
        }
    }
}

/// What this server knows of itself and of the service. Loads and levels are in basis points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Own load at this moment (S202).
    pub load: u32,
    /// The local service is healthy and not draining.
    pub ready: bool,
    /// Overload level (S203).
    pub overload: u32,
    /// Margin (S206).
    pub margin: u32,
    /// How a candidate is chosen (S208).
    pub policy: Policy,
    /// How many flows of the service have been steered before: whose turn it is.
    pub turn: u32,
}

impl Own {
    /// What the maps say of this server and the service.
    #[inline(always)]
    pub fn from_maps(service: &Service, connections: &Connections) -> Self {
        Self {
            load: connections.load(service),
            ready: service.ready != 0,
            overload: service.overload,
            margin: service.margin,
            policy: Policy::from_number(service.policy),
            turn: connections.steered as u32,
        }
    }
}

/// A peer that is on-line and offers the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its load: its last report, and what has been steered to it since. Basis points.
    pub load: u32,
    /// Its capacity relative to the largest peer's, 65,535 being the same.
    pub weight: u32,
    /// The service is healthy there and it isn't draining.
    pub ready: bool,
}

impl Candidate {
    /// What a peer's report and the flows steered to it since then amount to.
    #[inline(always)]
    pub fn from_report(report: &PeerLoad) -> Option<Self> {
        (report.flags & OFFERED != 0).then(|| Self {
            load: report
                .load
                .saturating_add(load_of(report.sent.into(), report.cost)),
            weight: report.weight,
            ready: report.flags & READY != 0,
        })
    }
}

/// The peers as the decision sees them.
pub trait Peers {
    /// One more than the highest index in use.
    fn count(&self) -> u32;

    /// The peer at `index`, unless there is none, it is off-line (S207) or it doesn't offer the service.
    fn candidate(&self, index: u32) -> Option<Candidate>;

    /// Lets `search` look at one peer after another. The XDP program does it by a loop of the kernel's: the verifier can't
    /// follow one of its own that has so many ways through it.
    #[inline(always)]
    fn walk(&self, search: &mut Search) {
        for step in 0..search.span {
            if !search.look(self, step) {
                break;
            }
        }
    }
}

/// What becomes of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Kept: own load is at or below the overload level (S203, S204).
    KeepBelowLevel,
    /// Kept: no peer that was looked at is lower by more than the margin, or none is fit at all (S206, S204).
    KeepNoCandidate,
    /// Steered to the peer at this index (S209).
    Steer(u32),
}

/// Decides on a new flow. `random` is the flow's hash: the same flow and the same loads give the same answer.
#[inline(always)]
pub fn decide(own: &Own, peers: &impl Peers, random: u64) -> Verdict {
    if own.ready && own.load <= own.overload {
        return Verdict::KeepBelowLevel;
    }
    // S206: a candidate's load is below this. A server that isn't ready gives to any peer that is.
    let limit = if own.ready {
        own.load.saturating_sub(own.margin)
    } else {
        u32::MAX
    };
    let Some(mut search) = Search::new(own, peers.count(), random, limit) else {
        return Verdict::KeepNoCandidate;
    };
    peers.walk(&mut search);
    match search.found() {
        Some(peer) => Verdict::Steer(peer),
        None => Verdict::KeepNoCandidate,
    }
}

/// A walk over the peers, in the order and to the end that a policy asks for (S205 to S208).
pub struct Search {
    /// First index.
    start: u32,
    /// From one index to the next.
    stride: u32,
    /// Indices wrap here. With a power of two and an odd stride, a walk of this many steps meets each index once.
    span: u32,
    /// Ready peers still to look at.
    looks: u32,
    /// 1: the first candidate ends the walk; 0: the lowest one is wanted.
    first: u32,
    /// A candidate's load is at or below this.
    level: u32,
    /// A candidate's load is below this.
    lowest: u32,
    /// The candidate so far; [`NONE`] before there is one.
    best: u32,
    /// A candidate that was passed over for its small capacity, lest none be left; [`NONE`] before there is one.
    spare: u32,
    /// Random bits to pass peers over with, in proportion to what their capacity lacks to the largest; 0: pass none over.
    dice: u64,
}

/// No peer's index.
const NONE: u32 = u32::MAX;

impl Search {
    #[inline(always)]
    fn new(own: &Own, count: u32, random: u64, limit: u32) -> Option<Self> {
        if count == 0 || count > MAX_PEERS {
            return None;
        }
        let in_order = Self {
            start: 0,
            stride: 1,
            span: count,
            looks: MAX_PEERS,
            first: 1,
            level: u32::MAX,
            lowest: limit,
            best: NONE,
            spare: NONE,
            dice: 0,
        };
        let at_random = Self {
            start: random as u32,
            stride: (random >> 32) as u32 | 1,
            span: count.next_power_of_two(),
            dice: random | 1,
            ..in_order
        };
        Some(match own.policy {
            Policy::LeastLoad => Self {
                first: 0,
                ..in_order
            },
            Policy::TwoChoices => Self {
                looks: 2,
                first: 0,
                ..at_random
            },
            Policy::BelowLevel if own.ready => Self {
                level: own.overload,
                ..at_random
            },
            Policy::BelowLevel => at_random,
            Policy::RoundRobin => Self {
                start: own.turn,
                dice: random | 1,
                ..in_order
            },
        })
    }

    /// How many steps the walk has at the most.
    #[inline(always)]
    pub fn steps(&self) -> u32 {
        self.span
    }

    /// Looks at the peer of one step; `false` ends the walk.
    #[inline(always)]
    pub fn look<P: Peers + ?Sized>(&mut self, peers: &P, step: u32) -> bool {
        let nth = self.start.wrapping_add(step.wrapping_mul(self.stride));
        // `span` is never 0, but the kernel's side must not even hold the code of a panic.
        let Some(index) = nth.checked_rem(self.span) else {
            return false;
        };
        let Some(peer) = peers.candidate(index) else {
            return true;
        };
        if !peer.ready {
            return true;
        }
        let fit = peer.load < self.lowest && peer.load <= self.level;
        if self.passes_over(peer.weight) {
            if fit && self.spare == NONE {
                self.spare = index;
            }
            return true;
        }
        if fit {
            self.best = index;
            self.lowest = peer.load;
            if self.first != 0 {
                return false;
            }
        }
        self.looks -= 1;
        self.looks != 0
    }

    #[inline(always)]
    fn passes_over(&mut self, weight: u32) -> bool {
        if self.dice == 0 {
            return false;
        }
        self.dice = fold(self.dice) | 1;
        (self.dice >> 32) as u32 & 0xffff > weight
    }

    #[inline(always)]
    fn found(&self) -> Option<u32> {
        let found = if self.best == NONE {
            self.spare
        } else {
            self.best
        };
        (found != NONE).then_some(found)
    }
}
