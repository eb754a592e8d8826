//! The one who asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::membership::Membership;
use super::super::{
    Destination, Event, MAX_IDENTITIES, Message, Options, Outbox, Refused, ServerId, Status,
    Timestamp,
};
use super::{
    FlowsPart, FlowsQuery, GRACE, LISTENING, MAX_FLOWS, PATIENCE, RETRY, RETRY_MAX, WINDOW,
};

/// The identities whose flows this server looks for, and whom it has asked.
#[derive(Debug)]
pub(in super::super) struct Asker {
    /// When it could first have heard of all peers, from its first moment with the network on, or from that at which it got it back.
    introduced: Timestamp,
    sequence: u64,
    /// With those who haven't told of all their flows on them.
    open: BTreeMap<IpAddr, BTreeSet<ServerId>>,
    sessions: BTreeMap<ServerId, Session>,
}

/// What one peer is being asked.
#[derive(Debug)]
struct Session {
    number: u64,
    identities: Vec<IpAddr>,
    since: Timestamp,
    /// When it was last asked.
    asked: Timestamp,
    /// When it last told something, or was first asked.
    told: Timestamp,
    /// The first part that isn't there yet.
    next: u32,
    /// The first one that wasn't asked for yet.
    window: u32,
    flows: usize,
    /// What came up meanwhile: it is asked when this is answered.
    then: BTreeSet<IpAddr>,
}

impl Session {
    /// When it is asked again. One that has many to answer is asked ever less often.
    fn again(&self) -> Timestamp {
        let silent = self.asked.since(self.told);
        self.asked + (silent / 2).clamp(RETRY, RETRY_MAX)
    }
}

impl Asker {
    pub fn new() -> Self {
        Self {
            introduced: Timestamp::NEVER,
            sequence: 0,
            open: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// Peers that weren't in sight are about to be: what is open waits for them.
    pub fn listen(&mut self, now: Timestamp) {
        self.introduced = now + LISTENING;
    }

    /// Asks for the flows on `identities`: one peer, or all that may answer.
    pub fn recover(
        &mut self,
        now: Timestamp,
        identities: &[IpAddr],
        of: Option<ServerId>,
        me: &Options,
        membership: &Membership,
        out: &mut Outbox,
    ) {
        for identity in identities {
            self.open.entry(*identity).or_default();
        }
        // What was answered before is not the answer to this.
        out.events.retain(
            |event| !matches!(event, Event::Recovered { identity, .. } if identities.contains(identity)),
        );
        let may_answer = |id: &ServerId| may_answer(now, membership, *id);
        let all = membership.iter().map(|peer| peer.report.server);
        let peers: Vec<_> = all
            .filter(|id| of.is_none_or(|of| of == *id))
            .filter(may_answer)
            .collect();
        for peer in peers {
            let identities = identities.iter().copied().collect();
            self.begin(now, peer, identities, me, membership, out);
        }
        self.settle(now, membership, out);
    }

    /// Looks no more for flows on identities that aren't `held` any more.
    pub fn keep(&mut self, held: impl Fn(&IpAddr) -> bool) {
        self.open.retain(|identity, _| held(identity));
        for session in self.sessions.values_mut() {
            session.then.retain(&held);
        }
    }

    /// Takes in a part of an answer.
    pub fn handle_part(
        &mut self,
        now: Timestamp,
        part: &FlowsPart,
        me: &Options,
        membership: &Membership,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        let from = part.server;
        let session = self
            .sessions
            .get_mut(&from)
            .filter(|session| session.number == part.session)
            .ok_or(Refused::Unasked)?;
        if part.part != session.next {
            // Repeated, or one before it was lost: that is asked for again.
            return Ok(());
        }
        session.next += 1;
        session.told = now;
        session.flows += part.flows.len();
        let flows: Vec<_> = part
            .flows
            .iter()
            .filter_map(|flow| flow.read(from, &session.identities))
            .filter(|flow| self.open.contains_key(&flow.identity.ip()))
            .collect();
        let too_many = session.flows > MAX_FLOWS;
        let window_is_in = session.next == session.window;
        if !flows.is_empty() {
            out.events.push_back(Event::Flows(flows));
        }
        if part.last || too_many {
            let complete = part.complete && !too_many;
            self.end(now, from, complete, me, membership, out);
            self.settle(now, membership, out);
        } else if window_is_in {
            self.ask(now, from, me, membership, out);
        }
        Ok(())
    }

    /// Asks again where no answer came, and gives up.
    pub fn handle_timeout(
        &mut self,
        now: Timestamp,
        me: &Options,
        membership: &Membership,
        out: &mut Outbox,
    ) {
        // Its first query goes out now, however long ago it was written.
        self.introduced = self.introduced.min(now + LISTENING);
        self.sessions
            .retain(|id, _| may_answer(now, membership, *id));
        let given_up: Vec<_> = (self.sessions.iter())
            .filter(|(_, session)| session.since + PATIENCE <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in given_up {
            self.end(now, id, false, me, membership, out);
        }
        let unanswered: Vec<_> = (self.sessions.iter())
            .filter(|(_, session)| session.again() <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in unanswered {
            self.ask(now, id, me, membership, out);
        }
        self.settle(now, membership, out);
    }

    pub fn next_timeout(&self) -> Timestamp {
        let sessions = self.sessions.values();
        let retries = sessions.map(Session::again);
        // What is open after that waits for sessions.
        let alone = !self.open.is_empty() && self.sessions.is_empty();
        let introduced = alone.then_some(self.introduced);
        retries.chain(introduced).min().unwrap_or(Timestamp::NEVER)
    }

    /// Asks `peer`, once it has answered what it is being asked: a question that came again and again would else never be
    /// answered.
    fn begin(
        &mut self,
        now: Timestamp,
        peer: ServerId,
        identities: BTreeSet<IpAddr>,
        me: &Options,
        membership: &Membership,
        out: &mut Outbox,
    ) {
        if let Some(running) = self.sessions.get_mut(&peer) {
            // What it told was collected before this came up.
            running.then.extend(identities);
            return;
        }
        let mut now_asked = Vec::from_iter(identities);
        let then = now_asked.split_off(now_asked.len().min(MAX_IDENTITIES));
        let session = Session {
            number: out.questions.number(),
            identities: now_asked,
            since: now,
            asked: now,
            told: now,
            next: 0,
            window: 0,
            flows: 0,
            then: then.into_iter().collect(),
        };
        self.sessions.insert(peer, session);
        self.ask(now, peer, me, membership, out);
    }

    fn end(
        &mut self,
        now: Timestamp,
        peer: ServerId,
        complete: bool,
        me: &Options,
        membership: &Membership,
        out: &mut Outbox,
    ) {
        let Some(ended) = self.sessions.remove(&peer) else {
            return;
        };
        for identity in ended.identities {
            match self.open.get_mut(&identity) {
                Some(lacking) if complete => lacking.remove(&peer),
                Some(lacking) => lacking.insert(peer),
                None => continue,
            };
        }
        if !ended.then.is_empty() {
            self.begin(now, peer, ended.then, me, membership, out);
        }
    }

    fn ask(
        &mut self,
        now: Timestamp,
        of: ServerId,
        me: &Options,
        membership: &Membership,
        out: &mut Outbox,
    ) {
        let (Some(session), Some(peer)) = (self.sessions.get_mut(&of), membership.peer(of)) else {
            return;
        };
        self.sequence += 1;
        session.asked = now;
        session.window = session.next.saturating_add(WINDOW);
        let query = FlowsQuery {
            server: me.me,
            boot: me.boot,
            sequence: self.sequence,
            heard: (peer.report.boot, peer.report.sequence),
            session: session.number,
            identities: session.identities.clone(),
            part: session.next,
        };
        out.send(
            Destination::Unicast(peer.from),
            Message::FlowsQuery(Box::new(query)),
        );
    }

    /// Says which identities' flows are all known that can be.
    fn settle(&mut self, now: Timestamp, membership: &Membership, out: &mut Outbox) {
        if now < self.introduced {
            return;
        }
        let asked = |identity: &IpAddr| {
            let mut sessions = self.sessions.values();
            sessions.any(|session| {
                session.identities.contains(identity) || session.then.contains(identity)
            })
        };
        self.open.retain(|identity, lacking| {
            let open = asked(identity);
            if !open {
                let lacking = lacking.iter().copied();
                out.events.push_back(Event::Recovered {
                    identity: *identity,
                    lacking: lacking
                        .filter(|id| may_answer(now, membership, *id))
                        .collect(),
                });
            }
            open
        });
    }
}

/// Who doesn't report doesn't answer. But a time-out may be shorter than what a busy server takes: one that has reported within the
/// grace is waited for, or its flows would be reset where the grace had room for its answer.
fn may_answer(now: Timestamp, membership: &Membership, id: ServerId) -> bool {
    membership.peer(id).is_some_and(|peer| match peer.status {
        Status::Online => true,
        Status::Suspect | Status::Silent => now.since(peer.heard) < GRACE,
        Status::Dead | Status::Left => false,
    })
}
