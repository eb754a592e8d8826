//! The one who answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::membership::Membership;
use super::super::reporter::Reporter;
use super::super::{
    Destination, Event, Message, Outbox, Refused, ServerId, Status, Timestamp, Timing,
};
use super::{FlowAt, FlowReport, FlowsPart, FlowsQuery, LINGER, MAX_FLOWS, PART, WINDOW};

/// Who has asked this server for flows, and what it is told.
#[derive(Debug)]
pub(in super::super) struct Answerer {
    me: ServerId,
    askers: BTreeMap<ServerId, Asker>,
    /// Whose flows are being collected, and for which session: one at a time, and none while there are too many for others.
    collecting: Option<(ServerId, u64)>,
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
    /// It wasn't sent since.
    due: bool,
    asked: Timestamp,
    /// `None` until they are collected.
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    parts: Vec<Vec<FlowReport>>,
    /// These are all.
    complete: bool,
}

impl Answerer {
    pub fn new(me: ServerId) -> Self {
        Self {
            me,
            askers: BTreeMap::new(),
            collecting: None,
        }
    }

    /// Takes in a query from the address `from`.
    ///
    /// Only a server that is known is answered, at the address that is known of it, so that a recorded query makes this
    /// server flood nobody else. One that has just started is asked for its flows before its peers have heard of that, so
    /// a start that isn't known is good enough if the one before it has ended, but not often. And whoever asks says which
    /// report of this server's it heard last (`reporter`): no query counts that was recorded earlier.
    #[expect(clippy::too_many_arguments, reason = "what a query is judged by")]
    pub fn handle_query(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        query: &FlowsQuery,
        timing: Timing,
        reporter: &Reporter,
        membership: &Membership,
        out: &mut Outbox,
    ) -> Result<(), Refused> {
        let asker = query.server;
        let before = membership.peer(asker);
        let known = before.filter(|peer| {
            peer.from == from && (peer.report.boot == query.boot || peer.status != Status::Online)
        });
        let Some(peer) = known else {
            let period = before.map_or(timing.period, |peer| peer.report.period());
            out.challenge(now, from, (asker, query.boot), period, timing);
            return Err(Refused::Unproven);
        };
        if !reporter.has_just_said(query.heard) {
            return Err(Refused::Replayed);
        }
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
        if self.resume(now, query) {
            return Ok(());
        }
        if query.part > 0 {
            // It didn't ask for so long that what it was told is forgotten. Parts of what would be collected now don't go with
            // those that it has: it is to know at once that it lacks some.
            let end = FlowsPart {
                server: self.me,
                session: query.session,
                part: query.part,
                last: true,
                complete: false,
                flows: Vec::new(),
            };
            out.send(Destination::Unicast(from), Message::Flows(Box::new(end)));
            return Ok(());
        }
        self.askers.retain(|id, _| membership.peer(*id).is_some());
        let session = Session {
            number: query.session,
            to: from,
            identities: query.identities.clone(),
            wanted: query.part,
            due: true,
            asked: now,
            answer: None,
        };
        self.askers.insert(
            asker,
            Asker {
                boot: query.boot,
                sequence: query.sequence,
                begun: now,
                session: Some(session),
            },
        );
        self.collect(out);
        Ok(())
    }

    /// What was asked for, collected; `complete`: all of it.
    pub fn answer(
        &mut self,
        by: ServerId,
        session: u64,
        flows: &[FlowAt],
        complete: bool,
        out: &mut Outbox,
    ) {
        let me = self.me;
        self.collecting.take_if(|one| *one == (by, session));
        let asker = self.askers.get_mut(&by);
        let waiting = asker.and_then(|asker| asker.session.as_mut());
        if let Some(waiting) = waiting.filter(|waiting| waiting.number == session) {
            let identities = &waiting.identities;
            let reports: Vec<_> = flows
                .iter()
                .filter_map(|flow| FlowReport::of(flow, me, identities))
                .collect();
            waiting.answer = Some(Answer {
                complete: complete && reports.len() <= MAX_FLOWS,
                parts: parts(reports.into_iter().take(MAX_FLOWS)),
            });
        }
        self.collect(out);
    }

    /// Sends one window of parts that was asked for. What is sent is written when it can go, so that it takes no more memory than that.
    pub fn transmit(&mut self, out: &mut Outbox) {
        let sessions = (self.askers.values_mut()).filter_map(|asker| asker.session.as_mut());
        let mut due = sessions.filter(|session| session.due && session.answer.is_some());
        if let Some(session) = due.next() {
            session.due = false;
            session.send(self.me, out);
        }
    }

    /// Forgets what nobody asks for any more.
    pub fn handle_timeout(&mut self, now: Timestamp, out: &mut Outbox) {
        for asker in self.askers.values_mut() {
            asker
                .session
                .take_if(|session| session.asked + LINGER <= now);
        }
        self.collect(out);
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
    fn resume(&mut self, now: Timestamp, query: &FlowsQuery) -> bool {
        let asker = self.askers.get_mut(&query.server);
        let Some(asker) = asker.filter(|asker| asker.boot == query.boot) else {
            return false;
        };
        asker.sequence = query.sequence;
        let session = asker.session.as_mut();
        let Some(session) = session.filter(|session| session.number == query.session) else {
            return false;
        };
        session.asked = now;
        session.wanted = query.part;
        session.due = true;
        true
    }

    /// Has flows collected for who waits for longest.
    fn collect(&mut self, out: &mut Outbox) {
        if self.collecting.is_some() {
            return;
        }
        let waiting = self.askers.iter().filter_map(|(id, asker)| {
            let session = asker.session.as_ref()?;
            session
                .answer
                .is_none()
                .then_some((asker.begun, *id, session))
        });
        let Some((_, by, session)) = waiting.min_by_key(|(begun, id, _)| (*begun, *id)) else {
            return;
        };
        if self.count() >= MAX_FLOWS {
            return;
        }
        self.collecting = Some((by, session.number));
        out.events.push_back(Event::FlowsWanted {
            by,
            session: session.number,
            identities: session.identities.clone(),
        });
    }

    /// Flows kept for all askers.
    fn count(&self) -> usize {
        let sessions = self
            .askers
            .values()
            .filter_map(|asker| asker.session.as_ref());
        let answers = sessions.filter_map(|session| session.answer.as_ref());
        answers.flat_map(|answer| &answer.parts).map(Vec::len).sum()
    }
}

impl Session {
    fn send(&self, me: ServerId, out: &mut Outbox) {
        let Some(Answer { parts, complete }) = &self.answer else {
            return;
        };
        let wanted = (0..).zip(parts).skip(self.wanted as usize);
        for (part, flows) in wanted.take(WINDOW as usize) {
            let answer = FlowsPart {
                server: me,
                session: self.number,
                part,
                last: part as usize + 1 == parts.len(),
                complete: *complete,
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
