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
    /// Look at two ready peers at random and take the lower one, if it is a candidate. The default: with least-load all
    /// servers bury the same peer before its next report.
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
        for step in 0..search.steps() {
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
    let Some(mut search) = Search::new(own, peers.count(), random) else {
        return Verdict::KeepNoCandidate;
    };
    peers.walk(&mut search);
    match search.found() {
        Some(peer) => Verdict::Steer(peer),
        None => Verdict::KeepNoCandidate,
    }
}

/// A walk over the peers that finds the one a policy asks for (S205 to S208).
///
/// Least-load and round-robin meet all peers, in order. The random policies draw from [`SAMPLE`] peers at the most, met in a
/// random order: each gets its share, and a flow in a cluster of 256 costs no more than in one of eight.
pub struct Search {
    policy: Policy,
    /// First index, before wrapping.
    start: u32,
    /// From one index to the next, before wrapping.
    stride: u32,
    /// Wraps indices; a stride that is odd meets each index of a power of two once.
    mask: u32,
    /// Peers still to draw from.
    looks: u32,
    /// One more than the highest index in use.
    count: u32,
    /// A candidate's load is at or below this (S206).
    limit: u32,
    /// Round-robin: candidates to pass, round after round, before the one whose turn it is. Full rounds are left out once it
    /// is known how many candidates make one.
    ahead: u32,
    /// Round-robin: candidates met in the first round.
    met: u32,
    /// Round-robin: the largest weight among the candidates; 1 before there is one.
    heaviest: u32,
    /// Random bits; each look has its own.
    dice: u64,
    /// Sum of the weights of the peers drawn from.
    drawn_from: u32,
    /// The lowest candidate, or a peer drawn at random.
    best: Pick,
    /// Another one, drawn at random from all but `best`.
    second: Pick,
}

/// A peer that the search holds on to.
#[derive(Clone, Copy)]
struct Pick {
    /// [`NONE`] before there is one.
    index: u32,
    load: u32,
    weight: u32,
}

/// Peers that a random choice draws from.
const SAMPLE: u32 = 4;

/// No peer's index.
const NONE: u32 = u32::MAX;

impl Search {
    #[inline(always)]
    fn new(own: &Own, count: u32, random: u64) -> Option<Self> {
        if count == 0 || count > MAX_PEERS {
            return None;
        }
        let nobody = Pick {
            index: NONE,
            load: u32::MAX,
            weight: 0,
        };
        let at_random = matches!(own.policy, Policy::TwoChoices | Policy::BelowLevel);
        // Four fields in a row that are zeroed would become a call of memset, which the kernel's side has not.
        Some(Self {
            policy: own.policy,
            start: if at_random { random as u32 } else { 0 },
            stride: if at_random {
                (random >> 32) as u32 | 1
            } else {
                1
            },
            mask: if at_random {
                count.next_power_of_two() - 1
            } else {
                u32::MAX
            },
            looks: SAMPLE,
            count,
            limit: limit(own)?,
            ahead: own.turn,
            met: 0,
            heaviest: 1,
            dice: random,
            drawn_from: 0,
            best: nobody,
            second: nobody,
        })
    }

    /// How many steps the walk has at the most.
    #[inline(always)]
    pub fn steps(&self) -> u32 {
        match self.policy {
            Policy::LeastLoad => self.count,
            Policy::TwoChoices | Policy::BelowLevel => self.mask + 1,
            Policy::RoundRobin => 2 * self.count,
        }
    }

    /// Looks at the peer of one step; `false` ends the walk.
    #[inline(always)]
    pub fn look<P: Peers + ?Sized>(&mut self, peers: &P, step: u32) -> bool {
        let again = step >= self.count;
        if step == self.count {
            // The divisor may be 0, and the kernel's side must not even hold the code of a panic.
            self.ahead = self.ahead.checked_rem(self.met).unwrap_or(0);
        }
        let nth = if again && self.policy == Policy::RoundRobin {
            step - self.count
        } else {
            step
        };
        let index = self.start.wrapping_add(nth.wrapping_mul(self.stride)) & self.mask;
        if index >= self.count {
            return true;
        }
        let Some(peer) = peers.candidate(index) else {
            return true;
        };
        // To two-choices, a ready peer is a choice whatever its load.
        if !peer.ready || (peer.load > self.limit && self.policy != Policy::TwoChoices) {
            return true;
        }
        let pick = Pick {
            index,
            load: peer.load,
            weight: peer.weight.clamp(1, HEAVIEST),
        };
        match self.policy {
            Policy::LeastLoad => {
                if self.best.index == NONE || pick.load < self.best.load {
                    self.best = pick;
                }
            }
            Policy::TwoChoices | Policy::BelowLevel => {
                self.draw(pick);
                self.looks -= 1;
                return self.looks != 0;
            }
            Policy::RoundRobin if again => return self.give_turn(pick),
            Policy::RoundRobin => {
                self.met += 1;
                self.heaviest = self.heaviest.max(pick.weight);
                self.draw(pick);
            }
        }
        true
    }

    /// Lets `pick` take part in drawing two different peers, each with a chance in proportion to its weight.
    ///
    /// `best` is replaced by the nth peer with that peer's share of all weights so far, as in reservoir sampling. Who is
    /// replaced was drawn from all the others by the same rule, so it makes the new `second`.
    #[inline(always)]
    fn draw(&mut self, pick: Pick) {
        let dice = self.roll();
        self.drawn_from += pick.weight;
        if hits(dice >> 32, pick.weight, self.drawn_from) {
            self.second = self.best;
            self.best = pick;
        } else if hits(
            dice & 0xffff_ffff,
            pick.weight,
            self.drawn_from - self.best.weight,
        ) {
            self.second = pick;
        }
    }

    /// Round-robin's second round: `false` when it has come to the one whose turn it is. That one leaves its turn to the
    /// peer drawn at random as often as its capacity is smaller than the heaviest's, so that all get their shares.
    #[inline(always)]
    fn give_turn(&mut self, pick: Pick) -> bool {
        if self.ahead != 0 {
            self.ahead -= 1;
            return true;
        }
        if hits(self.roll() >> 32, pick.weight, self.heaviest) {
            self.best = pick;
        }
        false
    }

    #[inline(always)]
    fn roll(&mut self) -> u64 {
        // The step of SplitMix64: no state repeats, not even 0.
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        fold(self.dice)
    }

    #[inline(always)]
    fn found(&self) -> Option<u32> {
        let found = match self.policy {
            Policy::TwoChoices if self.second.load < self.best.load => &self.second,
            _ => &self.best,
        };
        (found.index != NONE && found.load <= self.limit).then_some(found.index)
    }
}

/// [`Candidate::weight`] of the largest peer.
const HEAVIEST: u32 = 65_535;

/// The highest load that a candidate may have (S206); none if no load is low enough. A server that isn't ready gives to any
/// peer that is.
#[inline(always)]
fn limit(own: &Own) -> Option<u32> {
    if !own.ready {
        return Some(u32::MAX);
    }
    let limit = own.load.checked_sub(own.margin)?.checked_sub(1)?;
    Some(match own.policy {
        Policy::BelowLevel if own.overload < limit => own.overload,
        _ => limit,
    })
}

/// Whether 32 random bits fall into `part` of the `whole`.
#[inline(always)]
fn hits(dice: u64, part: u32, whole: u32) -> bool {
    (dice * u64::from(whole)) >> 32 < u64::from(part)
}

#[cfg(test)]
mod tests;
