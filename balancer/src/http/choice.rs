//! Which of the dedicated servers answers a request (S403 to S405, and S203 to S208 among them).

use std::net::IpAddr;

use balancer_common::decide::{Candidate, Own, Peers, Policy, Verdict, decide};
use balancer_common::hash::fold;

use super::rules::Group;
use super::view::{Server, View};

/// Who answers, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// `None`: this server. Else the index of a peer.
    pub peer: Option<usize>,
    /// Why.
    pub why: Why,
}

/// Why a server answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This server is dedicated to it and at or below its overload level (S403, S404).
    BelowLevel,
    /// This server is dedicated to it and above its level, and no other one is lower by more than the margin (S206).
    NoCandidate,
    /// This server is above its level, and that one is dedicated to it, too, and lower by more than the margin (S405).
    Lower,
    /// This server isn't ready, and that one is.
    NotReady,
    /// This server isn't dedicated to it, and that one is (S405).
    Dedicated,
    /// No dedicated server is ready, and this one drains or is down less than the others.
    LastResort,
    /// Its transaction is there.
    Transaction,
    /// The client's address says so.
    ByAddress,
    /// A peer has chosen already.
    Relayed,
    /// The client was sent here.
    SentHere,
}

/// Chooses among the servers of `group`, whoever has what the request needs. `None`: none of them is on-line.
pub fn choose(view: &View, group: Group<'_>, turn: u32, random: u64) -> Option<Choice> {
    let (own, dedicated) = (&view.own, group.has(&view.own));
    let to = |peer: u32, why| {
        Some(Choice {
            peer: Some(peer as usize),
            why,
        })
    };
    let here = |why| Some(Choice { peer: None, why });
    let sheet = |ready| Own {
        load: own.load(),
        ready,
        overload: view.overload,
        margin: view.margin,
        policy: view.policy,
        turn,
    };
    if dedicated && own.is_ready() {
        let peers = Candidates::new(view, group, u32::MAX);
        return match decide(&sheet(true), &peers, random) {
            Verdict::KeepBelowLevel => here(Why::BelowLevel),
            Verdict::KeepNoCandidate => here(Why::NoCandidate),
            Verdict::Steer(peer) => to(peer, Why::Lower),
        };
    }
    let why = if dedicated {
        Why::NotReady
    } else {
        Why::Dedicated
    };
    // One that is below its level, if there is one: the third embodiment.
    for limit in [view.overload, u32::MAX] {
        let peers = Candidates::new(view, group, limit);
        if let Verdict::Steer(peer) = decide(&sheet(false), &peers, random) {
            return to(peer, why);
        }
    }
    if dedicated && own.healthy {
        return here(Why::LastResort);
    }
    let draining = |peer: &Server| peer.healthy && group.has(peer);
    match view.peers.iter().position(draining) {
        Some(peer) => to(peer as u32, Why::LastResort),
        None if dedicated => here(Why::LastResort),
        None => None,
    }
}

/// The server of a client's transactions, by its address: each server has a number of its own for the client, the highest
/// has it (rendezvous hashing). All servers come to the same answer; one that goes or comes moves its own share of clients, and
/// nobody else's.
pub fn by_address(view: &View, group: Group<'_>, rule: &str, client: IpAddr) -> Option<Choice> {
    let mut seed = rule
        .bytes()
        .fold(0, |hash, byte| fold(hash ^ u64::from(byte)));
    let octets = match client.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    for octet in octets {
        seed = fold(seed ^ u64::from(octet));
    }
    let (index, _) = (view.servers().enumerate())
        .filter(|(_, server)| server.is_ready() && group.has(server))
        .max_by_key(|(_, server)| (fold(seed ^ fold(server.id.0)), server.id))?;
    Some(Choice {
        peer: index.checked_sub(1),
        why: Why::ByAddress,
    })
}

/// The peers of a group whose load is at or below a limit, as the decision sees them.
struct Candidates<'a> {
    view: &'a View,
    group: Group<'a>,
    limit: u32,
    largest: u32,
}

impl<'a> Candidates<'a> {
    fn new(view: &'a View, group: Group<'a>, limit: u32) -> Self {
        let capacities = view.peers.iter().map(|peer| peer.capacity);
        Self {
            view,
            group,
            limit,
            largest: capacities.max().unwrap_or(1).max(1),
        }
    }
}

impl Peers for Candidates<'_> {
    fn count(&self) -> u32 {
        self.view.peers.len() as u32
    }

    fn candidate(&self, index: u32) -> Option<Candidate> {
        let peer = self.view.peers.get(index as usize)?;
        let load = peer.load();
        (self.group.has(peer) && load <= self.limit).then(|| Candidate {
            load,
            weight: (u64::from(peer.capacity) * 65_535 / u64::from(self.largest)) as u32,
            ready: peer.is_ready(),
        })
    }
}

impl Why {
    /// In words.
    pub fn text(self, policy: Policy) -> String {
        match self {
            Self::BelowLevel => {
                "dedicated to it, and at or below the overload level (S404)".to_owned()
            }
            Self::NoCandidate => {
                "above the overload level, but no other is lower by more than the margin".to_owned()
            }
            Self::Lower => format!(
                "this server is above its level, that one lower by more than the margin: {} (S405)",
                policy.name()
            ),
            Self::NotReady => format!("this server isn't ready: {} (S405)", policy.name()),
            Self::Dedicated => format!(
                "this server isn't dedicated to it, that one is: {} (S405)",
                policy.name()
            ),
            Self::LastResort => "no dedicated server is ready".to_owned(),
            Self::Transaction => "its transaction is there".to_owned(),
            Self::ByAddress => "the client's address says so".to_owned(),
            Self::Relayed => "a peer has chosen".to_owned(),
            Self::SentHere => "its host is this server's own name: it isn't sent on".to_owned(),
        }
    }
}
