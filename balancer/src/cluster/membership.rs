//! What this server knows of its peers, and what their silence means.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Destination, Event, Outbox, Refused, Report, ServerId, Timestamp, Timing};

/// Peers known at one time.
pub const MAX_PEERS: usize = balancer_common::types::MAX_PEERS as usize;

/// How long a peer that doesn't report any more is remembered: where a majority is required, so long after it was last in sight.
pub const MEMORY: Duration = Duration::from_hours(1);

/// A peer, as of its newest report.
#[derive(Clone, Debug)]
pub struct Peer {
    /// That report.
    pub report: Report,
    /// When it came in.
    pub heard: Timestamp,
    /// Where it came from.
    pub from: SocketAddr,
    /// What is thought of the peer.
    pub status: Status,
    /// It shares its name with this server or with another living peer.
    pub name_conflict: bool,
    /// When its silence made us ask it, if nothing was heard since.
    asked: Option<Timestamp>,
    /// When its host was last to be probed, if that probe can be trusted.
    probed: Option<Timestamp>,
    /// What that probe said, if it came before the time-out.
    answered: Option<bool>,
    /// When what was asked and probed before was last found to be worth nothing: nothing was due before that.
    distrusted: Timestamp,
}

/// What is thought of a peer.
///
/// ```text
///                         report (from any state)
///            ┌───────────────────────────────────────────────┐
///            v                                               │
///        ┌────────┐ silent for the time-out ┌─────────┐      │
///   ──>  │ Online │ ──────────────────────> │ Suspect │ ──┐  │
///        └────────┘                         └─────────┘   │  │
///         │  silent for the time-out          │           │  │
///         │  less a period: ask it  probe     │  probe    │  │
///         │  and probe its host     answered  v  unanswered  │
///         │                         ┌────────┐   │           │
///         │                    ┌──> │ Silent │   │           │
///         │       probe again  └─── └────────┘   │           │
///         │      each time-out        │          v           │
///         │                     probe │     ┌──────┐         │
///         │                unanswered └───> │ Dead │ ────────┤
///         │ goodbye (from any state)        └──────┘         │
///         │                                 ┌──────┐         │
///         └───────────────────────────────> │ Left │ ────────┘
///                                           └──────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its reports come in.
    Online,
    /// They don't; whether its host lives is being found out.
    Suspect,
    /// Its host lives, its daemon doesn't report: no new flows for it, old ones go on.
    Silent,
    /// Its host doesn't answer either.
    Dead,
    /// It said goodbye.
    Left,
}

/// What may happen to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// A report came in.
    Report,
    /// Its last report came in.
    Goodbye,
    /// One period short of the time-out, or the time for another try of a peer that was asked before.
    Overdue,
    /// The time-out has passed since the last report, or since the last probe.
    TimedOut,
    /// Its host answered the probe.
    Answered,
    /// Its host did not.
    Unanswered,
}

/// What is to be done about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Have its host probed, and query it by unicast: what both give is known when the time-out is over.
    Probe,
}

impl Input {
    fn of_probe(answered: bool) -> Self {
        if answered {
            Self::Answered
        } else {
            Self::Unanswered
        }
    }
}

impl Status {
    /// Whether the peer is thought to be there.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Online | Self::Suspect | Self::Silent)
    }

    /// Its name in logs and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Silent => "silent",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }

    fn after(self, input: Input) -> (Self, Option<Action>) {
        match (self, input) {
            (_, Input::Report) => (Self::Online, None),
            (_, Input::Goodbye) | (Self::Left, _) => (Self::Left, None),
            (Self::Online, Input::Overdue) => (Self::Online, Some(Action::Probe)),
            (Self::Online, Input::TimedOut) => (Self::Suspect, None),
            (Self::Suspect | Self::Silent, Input::TimedOut) => (self, Some(Action::Probe)),
            (Self::Suspect | Self::Silent, Input::Answered) => (Self::Silent, None),
            (Self::Suspect | Self::Silent, Input::Unanswered) => (Self::Dead, None),
            // While it is on-line the answer is kept for the time-out. Else it is late: a report has told more since.
            (Self::Online | Self::Dead, Input::Answered | Input::Unanswered)
            | (Self::Suspect | Self::Silent | Self::Dead, Input::Overdue)
            | (Self::Dead, Input::TimedOut) => (self, None),
        }
    }
}

/// The peers, by id.
#[derive(Debug, Default)]
pub(super) struct Membership {
    peers: BTreeMap<ServerId, Peer>,
    /// Nobody is forgotten until [`MEMORY`] after this.
    remembered: Timestamp,
}

impl Membership {
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    pub fn peer(&self, id: ServerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// The peer with this Ethernet address: one that is there rather than one that had it once, as when a server has got a new name.
    pub fn by_mac(&self, mac: [u8; 6]) -> Option<&Peer> {
        let has = |peer: &&Peer| peer.report.links.iter().any(|link| link.mac == mac);
        (self.iter().filter(has)).max_by_key(|peer| peer.status == Status::Online)
    }

    /// Takes a report in, unless it is not newer than what is known, or may be older than all that is known.
    pub fn handle_report(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        report: Report,
        own_name: &str,
        timing: Timing,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        let id = report.server;
        let start = (id, report.boot);
        let leaving = report.leaving;
        let full = self.peers.len() >= MAX_PEERS;
        let answered = out.questions.answered(now, &report.answers, timing);
        let same_start = |peer: &Peer| peer.report.boot == report.boot;
        if !self.peer(id).is_some_and(same_start) && answered.is_none() {
            // Nobody is missed who was never seen.
            if !leaving {
                out.challenge(now, from, start, report.period(), timing);
            }
            return Err(Refused::Unproven);
        }
        if let Some(asked) = answered {
            out.questions.is_shown(start, asked);
        }
        let renamed = match self.peers.entry(id) {
            Entry::Vacant(_) if full => return Err(Refused::TooManyPeers),
            Entry::Vacant(entry) => {
                entry.insert(Peer::new(now, from, report));
                out.events.push_back(Event::Joined(id));
                true
            }
            Entry::Occupied(mut entry) => {
                let peer = entry.get_mut();
                if report.boot == peer.report.boot && report.sequence <= peer.report.sequence {
                    return Err(Refused::Replayed);
                }
                let renamed = peer.report.name != report.name;
                peer.renew(now, from, report);
                renamed
            }
        };
        out.events.push_back(Event::PeerUpdated(id));
        self.apply(
            now,
            id,
            if leaving {
                Input::Goodbye
            } else {
                Input::Report
            },
            out,
        );
        self.judge_name(id, renamed, own_name, out);
        Ok(())
    }

    /// What the probe of a peer's host gave.
    pub fn handle_probe(&mut self, now: Timestamp, id: ServerId, answered: bool, out: &mut Outbox) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.probed.is_none() && !answered {
            return;
        }
        peer.answered = Some(answered);
        self.apply(now, id, Input::of_probe(answered), out);
    }

    pub fn handle_timeout(&mut self, now: Timestamp, timing: Timing, out: &mut Outbox) {
        let remembered = self.remembered;
        self.peers.retain(|id, peer| {
            let keep = now < peer.forgotten_at(remembered);
            if !keep {
                out.events.push_back(Event::Forgotten(*id));
            }
            keep
        });
        let due: Vec<_> = (self.peers.iter())
            .filter_map(|(id, peer)| peer.deadline(timing).map(|(at, input)| (*id, at, input)))
            .filter(|(_, at, _)| *at <= now)
            .collect();
        for (id, _, input) in due {
            self.apply(now, id, input, out);
            let suspect = self.peer(id).filter(|peer| peer.status == Status::Suspect);
            if let Some(answered) = suspect.and_then(|peer| peer.answered) {
                self.apply(now, id, Input::of_probe(answered), out);
            }
        }
    }

    pub fn next_timeout(&self, timing: Timing) -> Timestamp {
        (self.peers.values())
            .map(|peer| {
                peer.deadline(timing)
                    .map_or(Timestamp::NEVER, |(at, _)| at)
                    .min(peer.forgotten_at(self.remembered))
            })
            .min()
            .unwrap_or(Timestamp::NEVER)
    }

    /// This server didn't run for a while: what it asked and had probed before may have been answered unheard, so all
    /// of it is asked again before anyone is judged.
    pub fn distrust(&mut self, now: Timestamp) {
        for peer in self.peers.values_mut() {
            peer.asked = None;
            peer.probed = None;
            peer.answered = None;
            peer.distrusted = now;
        }
    }

    /// Those that are gone may be most of all servers, and live elsewhere: whoever forgets them takes the few that are left for all.
    pub fn remember_all(&mut self, now: Timestamp) {
        self.remembered = now;
    }

    fn apply(&mut self, now: Timestamp, id: ServerId, input: Input, out: &mut Outbox) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let (status, action) = peer.status.after(input);
        if status != peer.status {
            out.events.push_back(Event::Changed {
                id,
                from: peer.status,
                to: status,
            });
            peer.status = status;
        }
        if let Some(Action::Probe) = action {
            peer.asked = Some(now);
            peer.probed = Some(now);
            peer.answered = None;
            out.events.push_back(Event::Probe(id));
            out.ask(now, Destination::Unicast(peer.from));
        }
    }

    fn judge_name(&mut self, id: ServerId, renamed: bool, own_name: &str, out: &mut Outbox) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let name = peer.report.name.clone();
        let taken = |other: &Peer| {
            other.report.server != id && other.status.is_alive() && other.report.name == name
        };
        let conflict =
            peer.status.is_alive() && (name == own_name || self.peers.values().any(taken));
        let news = conflict && (renamed || !peer.name_conflict);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.name_conflict = conflict;
        }
        if news {
            out.events.push_back(Event::NameConflict { id, name });
        }
    }
}

impl Peer {
    fn new(now: Timestamp, from: SocketAddr, report: Report) -> Self {
        Self {
            report,
            heard: now,
            from,
            status: Status::Online,
            name_conflict: false,
            asked: None,
            probed: None,
            answered: None,
            distrusted: Timestamp(0),
        }
    }

    fn renew(&mut self, now: Timestamp, from: SocketAddr, report: Report) {
        let (status, name_conflict) = (self.status, self.name_conflict);
        *self = Self {
            status,
            name_conflict,
            ..Self::new(now, from, report)
        };
    }

    /// The rhythm to judge its silence by: its own period, so many of them as `own` has it.
    pub fn timing(&self, own: Timing) -> Timing {
        own.with_period(self.report.period())
    }

    /// Whether it is on-line, but has been silent for nearly the time-out.
    pub(super) fn is_overdue(&self) -> bool {
        self.asked.is_some()
    }

    /// What happens next if nothing is heard from the peer, and when. `own`: this server's rhythm.
    fn deadline(&self, own: Timing) -> Option<(Timestamp, Input)> {
        let timing = self.timing(own);
        let (at, input) = match (self.status, self.asked) {
            (Status::Online, None) => (self.heard + timing.patience(), Input::Overdue),
            // Whoever is judged was asked before and had a period to answer.
            (Status::Online, Some(asked)) => {
                let at = (self.heard + timing.timeout()).max(asked + timing.period);
                (at, Input::TimedOut)
            }
            (Status::Suspect | Status::Silent, _) => {
                let at = self
                    .probed
                    .map_or(self.heard, |probed| probed + timing.probing());
                (at, Input::TimedOut)
            }
            (Status::Dead | Status::Left, _) => return None,
        };
        // It became due now, however long ago the peer was heard: else this server would seem to be late by that.
        Some((at.max(self.distrusted), input))
    }

    /// A peer whose host lives isn't forgotten, however long its daemon is silent: it may serve flows all the while.
    fn forgotten_at(&self, remembered: Timestamp) -> Timestamp {
        if self.status.is_alive() {
            Timestamp::NEVER
        } else {
            self.heard.max(remembered) + MEMORY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::Probe;
    use Input::{Answered, Goodbye, Overdue, TimedOut, Unanswered};
    use Status::{Dead, Left, Online, Silent, Suspect};

    #[test]
    fn the_whole_table() {
        let inputs = [
            Input::Report,
            Goodbye,
            Overdue,
            TimedOut,
            Answered,
            Unanswered,
        ];
        #[rustfmt::skip]
        let table = [
            //         Report          Goodbye       Overdue              TimedOut                Answered        Unanswered
            (Online,  [(Online, None), (Left, None), (Online, Some(Probe)), (Suspect, None),      (Online, None), (Online, None)]),
            (Suspect, [(Online, None), (Left, None), (Suspect, None),     (Suspect, Some(Probe)), (Silent, None), (Dead, None)]),
            (Silent,  [(Online, None), (Left, None), (Silent, None),      (Silent, Some(Probe)),  (Silent, None), (Dead, None)]),
            (Dead,    [(Online, None), (Left, None), (Dead, None),        (Dead, None),           (Dead, None),   (Dead, None)]),
            (Left,    [(Online, None), (Left, None), (Left, None),        (Left, None),           (Left, None),   (Left, None)]),
        ];
        for (status, row) in table {
            for (input, expected) in inputs.into_iter().zip(row) {
                assert_eq!(status.after(input), expected, "{status:?}, {input:?}");
            }
        }
    }
}
