//! The one who answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::membership::Membership;
use super::super::{
    Destination, Event, Message, Outbox, Refused, ServerId, Status, Timestamp, Timing,
};
use super::{FlowAt, FlowReport, FlowsPart, FlowsQuery, LINGER, MAX_FLOWS, PART, WINDOW};

/// Who has asked this server for flows, and what it is told.
#[derive(Debug)]
pub(in super::super) struct Answerer {
    me: ServerId,
    askers: BTreeMap<ServerId, Asker>,
}

#[derive(Debug)]
struct Asker {
    boot: u64,
    /// Its last query's.
    sequence: u64,
    /// When it last began to ask.
    begun: Timestamp,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    number: u64,
    to: SocketAddr,
    identities: Vec<IpAddr>,
    /// The part that was asked for last.
    wanted: u32,
    asked: Timestamp,
    /// `None` while they are being collected.
    parts: Option<Vec<Vec<FlowReport>>>,
}

impl Answerer {
    pub fn new(me: ServerId) -> Self {
        Self {
            me,
            askers: BTreeMap::new(),
        }
    }

    /// Takes in a query from the address `from`.
    ///
    /// Only a server that is known is answered, at the address that is known of it, so that a recorded query makes this
    /// server flood nobody else. One that has just started is asked for its flows before its peers have heard of that, so
    /// a start that isn't known is good enough if the one before it has ended, but not often.
    pub fn handle_query(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        query: &FlowsQuery,
        timing: Timing,
        membership: &Membership,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        let asker = query.server;
        let known = membership.peer(asker).filter(|peer| {
            peer.from == from && (peer.report.boot == query.boot || peer.status != Status::Online)
        });
        let Some(peer) = known else {
            if out.questions.challenges(now, asker, query.boot, timing) {
                out.ask(now, Destination::Unicast(from));
            }
            return Err(Refused::Unproven);
        };
        let proven = peer.report.boot == query.boot;
        let recent = |asker: &Asker| now.since(asker.begun) < timing.gap();
        match self.askers.get(&asker) {
            Some(before) if before.boot == query.boot && query.sequence <= before.sequence => {
                return Err(Refused::Replayed);
            }
            Some(before) if before.boot != query.boot && !proven && recent(before) => {
                return Err(Refused::Unproven);
            }
            _ => {}
        }
        if self.resume(now, query, out) {
            return Ok(());
        }
        self.askers.retain(|id, _| membership.peer(*id).is_some());
        let full = self.count() >= MAX_FLOWS;
        let session = (!full).then(|| Session {
            number: query.session,
            to: from,
            identities: query.identities.clone(),
            wanted: query.part,
            asked: now,
            parts: None,
        });
        if session.is_some() {
            out.events.push_back(Event::FlowsWanted {
                by: asker,
                session: query.session,
                identities: query.identities.clone(),
            });
        }
        self.askers.insert(
            asker,
            Asker {
                boot: query.boot,
                sequence: query.sequence,
                begun: now,
                session,
            },
        );
        Ok(())
    }

    /// What was asked for, collected.
    pub fn answer(&mut self, by: ServerId, session: u64, flows: &[FlowAt], out: &mut Outbox) {
        let me = self.me;
        let asker = self.askers.get_mut(&by);
        let waiting = asker.and_then(|asker| asker.session.as_mut());
        let Some(waiting) = waiting.filter(|waiting| waiting.number == session) else {
            return;
        };
        let identities = &waiting.identities;
        let reports = flows
            .iter()
            .filter_map(|flow| FlowReport::of(flow, me, identities));
        waiting.parts = Some(parts(reports.take(MAX_FLOWS)));
        waiting.send(me, out);
    }

    /// Forgets what nobody asks for any more.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        for asker in self.askers.values_mut() {
            asker
                .session
                .take_if(|session| session.asked + LINGER <= now);
        }
    }

    pub fn next_timeout(&self) -> Timestamp {
        let sessions = self
            .askers
            .values()
            .filter_map(|asker| asker.session.as_ref());
        let ends = sessions.map(|session| session.asked + LINGER);
        ends.min().unwrap_or(Timestamp::NEVER)
    }

    /// Goes on with the session that `query` is part of, if there is one.
    fn resume(&mut self, now: Timestamp, query: &FlowsQuery, out: &mut Outbox) -> bool {
        let me = self.me;
        let asker = self.askers.get_mut(&query.server);
        let Some(asker) = asker.filter(|asker| asker.boot == query.boot) else {
            return false;
        };
        let session = asker.session.as_mut();
        let Some(session) = session.filter(|session| session.number == query.session) else {
            return false;
        };
        asker.sequence = query.sequence;
        session.asked = now;
        session.wanted = query.part;
        session.send(me, out);
        true
    }

    /// Flows kept for all askers.
    fn count(&self) -> usize {
        let sessions = self
            .askers
            .values()
            .filter_map(|asker| asker.session.as_ref());
        let parts = sessions.flat_map(|session| session.parts.iter().flatten());
        parts.map(Vec::len).sum()
    }
}

impl Session {
    fn send(&self, me: ServerId, out: &mut Outbox) {
        let Some(parts) = &self.parts else { return };
        let wanted = (0..).zip(parts).skip(self.wanted as usize);
        for (part, flows) in wanted.take(WINDOW as usize) {
            let answer = FlowsPart {
                server: me,
                session: self.number,
                part,
                last: part as usize + 1 == parts.len(),
                flows: flows.clone(),
            };
            let to = Destination::Unicast(self.to);
            out.send(to, Message::Flows(Box::new(answer)));
        }
    }
}

/// At least one, each as large as a frame can be.
fn parts(flows: impl Iterator<Item = FlowReport>) -> Vec<Vec<FlowReport>> {
    let (mut parts, mut part, mut room) = (Vec::new(), Vec::new(), PART);
    for flow in flows {
        if flow.size() > room {
            parts.push(std::mem::take(&mut part));
            room = PART;
        }
        room -= flow.size();
        part.push(flow);
    }
    parts.push(part);
    parts
}
