//! The cluster as one server sees it, without a clock, socket, file or random source.
//!
//! A driver hands in what came from the network and what time it is, and takes out what is to be sent and what has
//! happened: [`Cluster::handle`], [`Cluster::handle_timeout`] and the like in, [`Cluster::poll_transmit`] and
//! [`Cluster::poll_event`] out, until both give `None`. Then nothing happens before [`Cluster::next_timeout`].
//!
//! A driver that was late reads what waits in its socket first and calls [`Cluster::handle_timeout`] after that.
#![forbid(unsafe_code)]

mod membership;
mod questions;
mod recovery;
mod report;
mod reporter;
mod takeover;
#[cfg(test)]
mod tests;
mod time;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use membership::{MAX_PEERS, MEMORY, Peer, Status};
pub use recovery::{FlowAt, FlowReport, FlowsPart, FlowsQuery, GRACE, MAX_FLOWS};
pub use report::{
    Guests, IdentityReport, Invalid, Link, MAX_ADDRESSES, MAX_ANSWERS, MAX_ENCODED, MAX_GUESTS,
    MAX_IDENTITIES, MAX_LINKS, MAX_NAME, MAX_NAMES, MAX_PATH, MAX_PERIOD_MS, MAX_PORTS, MAX_SERVES,
    MAX_SERVICES, Message, PortRange, Report, ServiceReport, Tenure,
};
pub use reporter::{OwnService, OwnState};
pub use takeover::{Assumed, Estate, Home, Identity, Reason, Require};
pub use time::{Timestamp, Timing};

use membership::Membership;
use questions::{Questions, Start};
use recovery::{Answerer, Asker};
use reporter::{Holdings, Reporter};
use takeover::{Sight, Takeover};

/// What a server is known by, whatever its name and addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who this server is, and the rhythm it starts with.
#[derive(Clone, Debug)]
pub struct Options {
    /// This server's id.
    pub me: ServerId,
    /// A random number, another one at each start: by it peers tell this start's reports from those of the one before.
    pub boot: u64,
    /// This server's name.
    pub name: String,
    /// From one report to the next; 1 ms to [`MAX_PERIOD_MS`].
    pub period: Duration,
    /// Periods of silence that make a peer suspect; at least 2.
    pub timeout_periods: u32,
    /// What it holds at its start, and when it may take over more.
    pub estate: Estate,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: Destination,
    /// What.
    pub message: Message,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To all servers.
    Group,
    /// To one.
    Unicast(SocketAddr),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server that wasn't known is there.
    Joined(ServerId),
    /// A peer's report has been accepted.
    PeerUpdated(ServerId),
    /// A peer is thought of in another way.
    Changed {
        /// The peer.
        id: ServerId,
        /// Its status before.
        from: Status,
        /// Its status now.
        to: Status,
    },
    /// Find out whether this peer's host lives (ARP, neighbour solicitation), then call [`Cluster::handle_probe`].
    Probe(ServerId),
    /// A peer has the name of this server or of another living peer. Said again only if that has changed.
    NameConflict {
        /// The peer.
        id: ServerId,
        /// The name.
        name: String,
    },
    /// Find out whether anybody uses this address on its link, then call [`Cluster::handle_identity_probe`].
    ProbeIdentity(IpAddr),
    /// Add this address to its link's interface, and announce it. If that fails, call [`Cluster::renounce`].
    Assume(Assumed),
    /// Remove this address, which was assumed.
    Release(IpAddr),
    /// Announce this address, which this server holds, once more: somebody else was seen to use it.
    Announce(IpAddr),
    /// An identity has another holder, or none: see [`Cluster::identities`].
    Moved(IpAddr),
    /// This server has got this identity, or has it back, and knows only of some of the flows on it: find out which are its
    /// own, then call [`Cluster::recover`].
    Recover {
        /// The identity.
        identity: IpAddr,
        /// Only this peer can know more; `None`: all can.
        of: Option<ServerId>,
        /// Another one may have had it until now: what was known here may not hold.
        got: bool,
        /// Until [`Event::Recovered`], but no longer than [`GRACE`], clients are better not answered that a flow isn't known
        /// here. `false`: it came up too often for that.
        grace: bool,
    },
    /// Collect the flows that this server has on `identities`, then call [`Cluster::tell_flows`], whatever comes of it: the next
    /// one waits for that.
    FlowsWanted {
        /// Who asks.
        by: ServerId,
        /// What the answer is to name.
        session: u64,
        /// The identities.
        identities: Vec<IpAddr>,
    },
    /// A peer tells of flows on identities that this server has.
    Flows(Vec<FlowAt>),
    /// All flows on this identity that can be known of were told of.
    Recovered {
        /// The identity.
        identity: IpAddr,
        /// Peers that are on-line and haven't told of all of theirs.
        lacking: Vec<ServerId>,
    },
    /// A peer was silent for [`MEMORY`] and isn't known any more.
    Forgotten(ServerId),
}

/// Why a message was refused. It has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// This server's own report came back.
    #[error("own report")]
    Own,
    /// Another start of a server with this server's id: a replay from before a restart, or a cloned machine.
    #[error("report of another server with this server's id")]
    SharedId,
    /// Not newer than what is known: repeated, or overtaken by a newer one.
    #[error("replayed or overtaken report")]
    Replayed,
    /// The server isn't known, or not by this start, and hasn't answered a query of ours: this may be a repetition of what
    /// it said long ago. It is asked.
    #[error("report of a server that has yet to show that it is there")]
    Unproven,
    /// As many peers are known as can be.
    #[error("report of a new peer where {MAX_PEERS} are known")]
    TooManyPeers,
    /// Flows of a peer that this server hasn't asked, or not any more: repeated, or late.
    #[error("flows that weren't asked for")]
    Unasked,
}

/// The cluster as one server sees it.
#[derive(Debug)]
pub struct Cluster {
    timing: Timing,
    reporter: Reporter,
    membership: Membership,
    takeover: Takeover,
    asker: Asker,
    answerer: Answerer,
    asked_group: Timestamp,
    /// When it first ran, or last noticed that it hadn't run.
    woke: Timestamp,
    out: Outbox,
}

/// What waits for the driver, and what this server has asked.
#[derive(Debug)]
struct Outbox {
    transmits: VecDeque<Transmit>,
    /// Addresses that are to be added and removed: clients wait for these, so they come before all other events.
    moves: VecDeque<Event>,
    events: VecDeque<Event>,
    questions: Questions,
}

impl Outbox {
    fn send(&mut self, to: Destination, message: Message) {
        self.transmits.push_back(Transmit { to, message });
    }

    fn ask(&mut self, now: Timestamp, to: Destination) {
        let query = self.questions.ask(now);
        self.send(to, query);
    }

    /// Asks `start`, which reports each `period` and was heard from the address `from`, to show that it is there.
    fn challenge(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        start: Start,
        period: Duration,
        timing: Timing,
    ) {
        if let Some(to) = (self.questions).challenge(now, from, start, period, timing) {
            self.ask(now, to);
        }
    }

    /// Asks those again that haven't shown that they are there.
    fn handle_timeout(&mut self, now: Timestamp, timing: Timing) {
        for to in self.questions.handle_timeout(now, timing) {
            self.ask(now, to);
        }
    }

    /// The flows on `identity` are no affair of this server's any more.
    fn forget_flows(&mut self, identity: IpAddr) {
        self.events.retain_mut(|event| match event {
            Event::Recover { identity: of, .. } | Event::Recovered { identity: of, .. } => {
                *of != identity
            }
            Event::Flows(flows) => {
                flows.retain(|flow| flow.identity.ip() != identity);
                !flows.is_empty()
            }
            _ => true,
        });
    }
}

impl Cluster {
    /// A server that knows nobody, and asks.
    pub fn new(now: Timestamp, options: Options) -> Self {
        let mut out = Outbox {
            transmits: VecDeque::new(),
            moves: VecDeque::new(),
            events: VecDeque::new(),
            questions: Questions::new(options.boot),
        };
        out.ask(now, Destination::Group);
        let mut cluster = Self {
            timing: Timing::new(options.period, options.timeout_periods),
            takeover: Takeover::new(now, options.me, &options.estate),
            asker: Asker::new(),
            answerer: Answerer::new(options.me),
            reporter: Reporter::new(options),
            membership: Membership::default(),
            asked_group: Timestamp(0),
            woke: Timestamp::NEVER,
            out,
        };
        cluster.settle(now);
        cluster
    }

    /// Whether peers would accept a report of this state. Changes nothing.
    pub fn check_own(&self, own: &OwnState) -> Result<(), Invalid> {
        self.reporter.check(own)
    }

    /// Says how this server is. Peers are told in the next report, at once (but not more often than each tenth of a
    /// period or 10 ms) if more has changed than how loaded a service is below or above its level. Before the first
    /// call nothing is reported. An error leaves what was set before.
    pub fn set_own(&mut self, now: Timestamp, own: OwnState) -> Result<(), Invalid> {
        self.notice_stall(now);
        let newly_over = self.reporter.set_own(now, own, self.timing)?;
        // From now on flows are steered by what peers said, so that should be fresh.
        let old = |peer: &Peer| {
            peer.status == Status::Online && now.since(peer.heard) > self.timing.period / 2
        };
        if newly_over
            && now >= self.asked_group + self.timing.period
            && self.membership.iter().any(old)
        {
            self.asked_group = now;
            self.out.ask(now, Destination::Group);
        }
        self.settle(now);
        Ok(())
    }

    /// Takes in a message that came from the address `from`.
    pub fn handle(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        message: Message,
    ) -> Result<(), Refused> {
        self.notice_stall(now);
        let options = self.reporter.options();
        match message {
            Message::Query { nonce } => {
                self.reporter.handle_query(now, from, nonce, self.timing);
                Ok(())
            }
            Message::Report(report) if report.server == options.me => {
                Err(if report.boot == options.boot {
                    Refused::Own
                } else {
                    Refused::SharedId
                })
            }
            Message::Report(report) => self.handle_report(now, from, *report),
            Message::FlowsQuery(query) => self.answerer.handle_query(
                now,
                from,
                &query,
                self.timing,
                &self.reporter,
                &self.membership,
                &mut self.out,
            ),
            Message::Flows(part) => {
                self.asker
                    .handle_part(now, &part, options, &self.membership, &mut self.out)
            }
        }
    }

    fn handle_report(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        report: Report,
    ) -> Result<(), Refused> {
        let options = self.reporter.options();
        let (id, timing) = (report.server, self.timing);
        let able = self.takeover.is_able(now);
        let before = self.membership.peer(id);
        // A goodbye is said more than once.
        let heard = |peer: &&Peer| {
            peer.status == Status::Online || (peer.status == Status::Left && report.leaving)
        };
        let in_sight = before.filter(heard);
        let last = in_sight.map(|peer| peer.report.identities.clone());
        let known = before.is_some();
        self.membership
            .handle_report(now, from, report, &options.name, timing, &mut self.out)?;
        let sight = sight(&self.reporter, &self.membership, able);
        if let Some(peer) = self.membership.peer(id) {
            let last = last.as_deref();
            self.takeover
                .handle_report(now, &peer.report, last, &sight, timing, &mut self.out);
        }
        let is_online = |peer: &Peer| peer.status == Status::Online;
        if last.is_none() && self.membership.peer(id).is_some_and(is_online) {
            if known {
                // It was out of sight, or this one was: the link may think of a caretaker still.
                self.takeover.defend_homes(now, timing, &mut self.out);
            }
            self.takeover.meet(now, id, timing, &mut self.out);
        }
        self.settle(now);
        Ok(())
    }

    /// Asks for the flows on `identities` of this server's: one peer, or all.
    /// Some may have been released while the driver read its own connections.
    pub fn recover(&mut self, now: Timestamp, identities: &[IpAddr], of: Option<ServerId>) {
        let options = self.reporter.options();
        let mut held = identities.to_vec();
        held.retain(|identity| self.takeover.holds(identity));
        if held.is_empty() {
            return;
        }
        self.asker
            .recover(now, &held, of, options, &self.membership, &mut self.out);
    }

    /// Takes in the flows that [`Event::FlowsWanted`] asked for; `complete`: all of them could be found out.
    pub fn tell_flows(&mut self, by: ServerId, session: u64, flows: &[FlowAt], complete: bool) {
        self.answerer
            .answer(by, session, flows, complete, &mut self.out);
    }

    /// Takes in whether the host of peer `id` answered the probe that [`Event::Probe`] asked for.
    pub fn handle_probe(&mut self, now: Timestamp, id: ServerId, answered: bool) {
        self.notice_stall(now);
        self.membership
            .handle_probe(now, id, answered, &mut self.out);
        self.settle(now);
    }

    /// Takes in whether anybody was found to use the address that [`Event::ProbeIdentity`] asked about.
    pub fn handle_identity_probe(&mut self, now: Timestamp, address: IpAddr, used: bool) {
        self.notice_stall(now);
        self.takeover.handle_probe(now, address, used);
        self.settle(now);
    }

    /// Takes in that a frame on the link has shown another host with the Ethernet address `mac` to use `address`.
    pub fn handle_conflict(&mut self, now: Timestamp, address: IpAddr, mac: [u8; 6]) {
        let by = self.membership.by_mac(mac);
        self.takeover
            .handle_conflict(now, address, by, self.timing, &mut self.out);
        self.settle(now);
    }

    /// Takes in that a link of this host's carries again what it didn't for a while. Peers and the link are told at once, since
    /// a caretaker lets go as soon as it hears of this server. `true`: others may have had what this one holds, and their flows
    /// are asked for.
    pub fn handle_link_up(&mut self, now: Timestamp) -> bool {
        self.notice_stall(now);
        let heard = self.membership.iter().map(|peer| peer.heard).max();
        let away = heard.is_some_and(|heard| {
            // Peers may have heard this server's last report a period before that.
            now.since(heard) + self.timing.period >= self.timing.timeout()
        });
        if away {
            self.asker.listen(now);
            self.takeover.wake(&mut self.out);
        }
        self.takeover.defend_homes(now, self.timing, &mut self.out);
        self.reporter.report_now(now);
        self.out.ask(now, Destination::Group);
        self.settle(now);
        away
    }

    /// Takes in that this host couldn't take the address that [`Event::Assume`] told it to. It leaves takeovers to others
    /// for a while.
    pub fn renounce(&mut self, now: Timestamp, address: IpAddr) {
        self.takeover
            .renounce(now, address, self.timing, &mut self.out);
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.notice_stall(now);
        if self.woke == Timestamp::NEVER {
            self.woke = now;
        }
        let sight = sight(&self.reporter, &self.membership, true);
        if self.takeover.lacks_majority(&sight) {
            self.membership.remember_all(now);
        }
        self.membership
            .handle_timeout(now, self.timing, &mut self.out);
        self.settle(now);
        let options = self.reporter.options();
        self.asker
            .handle_timeout(now, options, &self.membership, &mut self.out);
        self.answerer.handle_timeout(now, &mut self.out);
        self.out.handle_timeout(now, self.timing);
        self.reporter
            .handle_timeout(now, self.timing, &mut self.out);
    }

    /// When [`Self::handle_timeout`] has something to do; [`Timestamp::NEVER`] if nothing is to come.
    pub fn next_timeout(&self) -> Timestamp {
        self.reporter
            .next_timeout()
            .min(self.membership.next_timeout(self.timing))
            .min(self.takeover.next_timeout())
            .min(self.asker.next_timeout())
            .min(self.answerer.next_timeout())
            .min(self.out.questions.next_timeout())
    }

    /// The next message to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.out.transmits.is_empty() {
            self.answerer.transmit(&mut self.out);
        }
        self.out.transmits.pop_front()
    }

    /// The next thing that has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        let moves = self.out.moves.pop_front();
        moves.or_else(|| self.out.events.pop_front())
    }

    /// Whether more addresses are to be added or removed ([`Event::Assume`], [`Event::Release`]).
    pub fn is_moving(&self) -> bool {
        !self.out.moves.is_empty()
    }

    /// Changes how often this server reports, which peers are told soon, and how many periods of silence are suspect.
    pub fn set_timing(&mut self, now: Timestamp, timing: Timing) {
        self.notice_stall(now);
        self.timing = timing;
        self.reporter.set_timing(now, timing);
    }

    /// Changes when this server takes over identities.
    pub fn set_require(&mut self, require: Require) {
        self.takeover.set_require(require);
    }

    /// This host keeps `address` when balancer ends: it couldn't be removed. The goodbye doesn't call it free.
    pub fn keep(&mut self, address: IpAddr) {
        self.takeover.keep(address);
    }

    /// Says goodbye to all, and that what this host doesn't keep is free: its addresses must have been removed. Each call
    /// says it once more, since datagrams get lost; other reports end with the first.
    pub fn leave(&mut self) {
        self.reporter
            .leave(self.takeover.last_reports(), &mut self.out);
    }

    /// How often servers report, and when silence is suspect.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The servers known, by id, those that have gone included.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.membership.iter()
    }

    /// One of [`Self::peers`].
    pub fn peer(&self, id: ServerId) -> Option<&Peer> {
        self.membership.peer(id)
    }

    /// The server on the balanced links whose interface has this Ethernet address, if it is a peer's.
    pub fn peer_by_mac(&self, mac: [u8; 6]) -> Option<&Peer> {
        self.membership.by_mac(mac)
    }

    /// Ethernet addresses of servers other than `id`, this one included. When one of them answers for an address of that server's, as the
    /// caretaker of an identity does, this says nothing of its host.
    pub fn macs_of_others(&self, id: ServerId) -> BTreeSet<[u8; 6]> {
        let of = |peer: &Peer| peer.report.links.iter().map(|link| link.mac).collect();
        let own: BTreeSet<_> = self.peer(id).map(of).unwrap_or_default();
        let others = self.peers().filter(|peer| peer.report.server != id);
        let others = others.flat_map(|peer| &peer.report.links);
        let links = others.chain(self.reporter.links());
        let macs = links.map(|link| link.mac);
        macs.filter(|mac| !own.contains(mac)).collect()
    }

    /// The identities of the cluster, by address.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.takeover.iter()
    }

    /// Whose the identities are, after all that has been heard and seen.
    fn settle(&mut self, now: Timestamp) {
        let able = self.takeover.is_able(now);
        let sight = sight(&self.reporter, &self.membership, able);
        self.takeover
            .settle(now, &sight, self.timing, &mut self.out);
        self.asker.keep(|identity| self.takeover.holds(identity));
        let holdings = Holdings {
            identities: self.takeover.reports(),
            able,
        };
        self.reporter.set_holdings(now, holdings, self.timing);
    }

    /// A server that didn't run when it should have can't tell its own silence from that of others: a suspended
    /// machine has missed what came meanwhile.
    fn notice_stall(&mut self, now: Timestamp) {
        let late = now.since(self.next_timeout());
        if late > self.timing.period / 2 {
            self.membership.distrust(now);
            self.takeover.distrust();
        }
        // Long enough for others to have taken over what it has. It is seen at each datagram that waits, and asked once.
        let timeout = self.timing.timeout();
        if late >= timeout && now >= self.woke + timeout {
            self.woke = now;
            self.takeover.wake(&mut self.out);
        }
    }
}

/// How the servers stand at this moment.
fn sight<'a>(reporter: &'a Reporter, membership: &'a Membership, able: bool) -> Sight<'a> {
    Sight {
        me: reporter.options().me,
        membership,
        links: reporter.caretaker().filter(|_| able),
    }
}
