//! What this server says of itself, and when.

use balancer_common::hash::fold;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Destination, Guests, IdentityReport, Invalid, Link, MAX_ANSWERS, MAX_IDENTITIES, Message,
    Options, Outbox, Report, ServiceReport, Timestamp, Timing,
};

/// Servers that ask at nearly one time and are answered one by one. Where more ask, as when a whole rack starts, one
/// report to the group answers them all.
const MAX_ASKERS: usize = 8;

/// Queries that wait for an answer. More than that are a flood, and whoever is real asks again.
const MAX_WAITING: usize = 256;

/// How this server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnState {
    /// Its balanced interfaces.
    pub links: Vec<Link>,
    /// The services it offers.
    pub services: Vec<OwnService>,
    /// It takes no new flows.
    pub draining: bool,
    /// It may take over identities of servers that are gone.
    pub caretaker: bool,
    /// What it still serves of those that drain. Changes wait for the next report.
    pub guests: Vec<Guests>,
}

/// A service that this server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnService {
    /// What peers are told of it.
    pub report: ServiceReport,
    /// Overload level (S203), in basis points: peers are told at once when the load crosses it.
    pub overload: u32,
}

impl OwnService {
    fn is_over(&self) -> bool {
        self.report.load > self.overload
    }
}

impl OwnState {
    /// Whether peers can wait for the next periodic report if they know `other`.
    fn can_wait(&self, other: &Self) -> bool {
        let same_service = |(a, b): (&OwnService, &OwnService)| {
            let loads = ServiceReport {
                load: b.report.load,
                cost: b.report.cost,
                ..a.report.clone()
            };
            a.is_over() == b.is_over() && loads == b.report
        };
        self.draining == other.draining
            && self.links == other.links
            && self.caretaker == other.caretaker
            && self.services.len() == other.services.len()
            && self.services.iter().zip(&other.services).all(same_service)
    }

    /// Whether some service is above its overload level and was not, going by name, in `before`.
    fn newly_over(&self, before: &Self) -> bool {
        let was_over = |name| {
            before
                .services
                .iter()
                .any(|service| service.report.name == name && service.is_over())
        };
        (self.services.iter())
            .any(|service| service.is_over() && !was_over(service.report.name.as_str()))
    }
}

/// What this server has and may get of the cluster's identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    /// The identities that it holds.
    pub identities: Vec<IdentityReport>,
    /// It can add addresses, as far as is known.
    pub able: bool,
}

/// What a report said.
#[derive(Clone, Debug)]
struct Told {
    own: OwnState,
    holdings: Holdings,
    period: Duration,
}

/// Decides when to report, and writes the reports.
#[derive(Debug)]
pub(super) struct Reporter {
    options: Options,
    /// From one report to the next. Peers judge this server's silence by it.
    period: Duration,
    own: Option<OwnState>,
    holdings: Holdings,
    /// What the group was last told.
    told: Option<Told>,
    told_at: Timestamp,
    due: Timestamp,
    sequence: u64,
    /// The last numbers some time ago, and once more that time ago: what has a number up to that is no news.
    marks: [u64; 2],
    marked: Timestamp,
    /// Who asked, and with which numbers.
    askers: Vec<(SocketAddr, u64)>,
    answer_due: Timestamp,
    answered_at: Timestamp,
    leaving: bool,
}

impl Reporter {
    pub fn new(options: Options) -> Self {
        Self {
            period: Timing::new(options.period, options.timeout_periods).period,
            options,
            own: None,
            holdings: Holdings::default(),
            told: None,
            told_at: Timestamp(0),
            due: Timestamp::NEVER,
            sequence: 0,
            marks: [0; 2],
            marked: Timestamp(0),
            askers: Vec::new(),
            answer_due: Timestamp::NEVER,
            answered_at: Timestamp(0),
            leaving: false,
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether the report of this start and number is one of the last that were sent: within the time that a report counts for
    /// ([`Timing::validity`]), or twice that.
    pub fn has_just_said(&self, (boot, sequence): (u64, u64)) -> bool {
        boot == self.options.boot && (self.marks[0] + 1..=self.sequence).contains(&sequence)
    }

    /// Whether peers would accept a report of this state.
    pub fn check(&self, own: &OwnState) -> Result<(), Invalid> {
        // As large as it may become.
        let mut report = Report {
            sequence: u64::MAX,
            answers: vec![u64::MAX; MAX_ANSWERS],
            ..self.report(own)
        };
        let room = MAX_IDENTITIES.saturating_sub(report.identities.len());
        report
            .identities
            .extend(std::iter::repeat_n(IdentityReport::LARGEST, room));
        report.check()?;
        Message::Report(Box::new(report)).encode().map(drop)
    }

    /// Whether a service has just gone above its overload level. An error leaves the state before.
    pub fn set_own(
        &mut self,
        now: Timestamp,
        own: OwnState,
        timing: Timing,
    ) -> Result<bool, Invalid> {
        self.check(&own)?;
        let newly_over = own.newly_over(self.own.as_ref().unwrap_or(&OwnState::default()));
        if !self.leaving {
            self.due = match &self.told {
                Some(told)
                    if own.can_wait(&told.own)
                        && told.holdings == self.holdings
                        && told.period == self.period =>
                {
                    self.told_at + timing.period
                }
                Some(_) => (self.told_at + timing.gap()).max(now).min(self.due),
                None => now,
            };
        }
        self.own = Some(own);
        Ok(newly_over)
    }

    /// What this server holds. Peers are told soon.
    pub fn set_holdings(&mut self, now: Timestamp, holdings: Holdings, timing: Timing) {
        if holdings == self.holdings {
            return;
        }
        self.holdings = holdings;
        if self.told.is_some() && !self.leaving {
            self.due = self.due.min((self.told_at + timing.gap()).max(now));
        }
    }

    /// Peers may not have heard it for long: they are told at once.
    pub fn report_now(&mut self, now: Timestamp) {
        if self.told.is_some() && !self.leaving {
            self.due = self.due.min(now);
        }
    }

    /// This server's links, if it is willing to take over identities.
    pub fn caretaker(&self) -> Option<&[Link]> {
        let willing = |own: &&OwnState| own.caretaker && !self.leaving;
        let own = self.own.as_ref().filter(willing)?;
        Some(&own.links)
    }

    /// This server's links.
    pub fn links(&self) -> &[Link] {
        self.own.as_ref().map_or(&[], |own| &own.links)
    }

    /// Reports at another pace. Peers are told soon: else those that go by a shorter one would miss reports.
    pub fn set_timing(&mut self, now: Timestamp, timing: Timing) {
        let changed = timing.period != self.period;
        self.period = timing.period;
        if changed && self.told.is_some() && !self.leaving {
            self.due = self.due.min((self.told_at + timing.gap()).max(now));
        }
    }

    /// Somebody asked: answers wait a moment that differs from server to server, so that an asker isn't flooded, and
    /// from one answer to the next a gap, so that nobody can make this server flood others. A number is of one question only: wherever
    /// a query is repeated from, it takes one place.
    pub fn handle_query(&mut self, now: Timestamp, from: SocketAddr, nonce: u64, timing: Timing) {
        let waits = self.askers.iter().any(|(_, waiting)| *waiting == nonce);
        if self.own.is_none() || self.leaving || waits {
            return;
        }
        if self.askers.is_empty() {
            let earliest = if self.answered_at == Timestamp(0) {
                now
            } else {
                now.max(self.answered_at + timing.gap())
            };
            self.answer_due = earliest + self.jitter(timing.gap());
        }
        if self.askers.len() < MAX_WAITING {
            self.askers.push((from, nonce));
        }
    }

    pub fn handle_timeout(&mut self, now: Timestamp, timing: Timing, out: &mut Outbox) {
        let Some(own) = self.own.clone() else { return };
        if now >= self.marked + timing.validity() {
            (self.marks, self.marked) = ([self.marks[1], self.sequence], now);
        }
        let mut told = false;
        if self.answer_due <= now {
            self.answer_due = Timestamp::NEVER;
            self.answered_at = now;
            told = self.answer(&own, out);
        }
        if self.due <= now && !told {
            self.send(Destination::Group, &own, &[], out);
            told = true;
        }
        if told {
            self.told = Some(Told {
                own,
                holdings: self.holdings.clone(),
                period: self.period,
            });
            self.told_at = now;
            self.due = now + timing.period;
        }
    }

    /// Answers all who asked. `true`: by reports to the group.
    fn answer(&mut self, own: &OwnState, out: &mut Outbox) -> bool {
        let mut by_asker: BTreeMap<SocketAddr, Vec<u64>> = BTreeMap::new();
        for (asker, nonce) in std::mem::take(&mut self.askers) {
            by_asker.entry(asker).or_default().push(nonce);
        }
        let crowd = by_asker.len() > MAX_ASKERS;
        if crowd {
            let all: Vec<u64> = by_asker.into_values().flatten().collect();
            self.send(Destination::Group, own, &all, out);
        } else {
            for (asker, nonces) in by_asker {
                self.send(Destination::Unicast(asker), own, &nonces, out);
            }
        }
        crowd
    }

    /// Sends one report, or as many as it takes for `answers`.
    fn send(&mut self, to: Destination, own: &OwnState, answers: &[u64], out: &mut Outbox) {
        let mut parts = answers.chunks(MAX_ANSWERS);
        let mut part = parts.next().unwrap_or_default();
        loop {
            self.sequence += 1;
            let report = Report {
                answers: part.to_vec(),
                ..self.report(own)
            };
            out.send(to, Message::Report(Box::new(report)));
            match parts.next() {
                Some(next) => part = next,
                None => return,
            }
        }
    }

    pub fn next_timeout(&self) -> Timestamp {
        self.due.min(self.answer_due)
    }

    /// Says goodbye and what becomes of its identities, once for each call, and nothing more after it.
    pub fn leave(&mut self, identities: Vec<IdentityReport>, out: &mut Outbox) {
        self.leaving = true;
        self.holdings.identities = identities;
        self.askers.clear();
        self.due = Timestamp::NEVER;
        self.answer_due = Timestamp::NEVER;
        if let Some(own) = self.own.clone() {
            self.send(Destination::Group, &own, &[], out);
        }
    }

    fn report(&self, own: &OwnState) -> Report {
        Report {
            server: self.options.me,
            boot: self.options.boot,
            sequence: self.sequence,
            period_ms: u32::try_from(self.period.as_millis()).unwrap_or(u32::MAX),
            name: self.options.name.clone(),
            links: own.links.clone(),
            services: own
                .services
                .iter()
                .map(|service| service.report.clone())
                .collect(),
            identities: self.holdings.identities.clone(),
            caretaker: own.caretaker && self.holdings.able && !self.leaving,
            draining: own.draining,
            guests: own.guests.clone(),
            leaving: self.leaving,
            answers: Vec::new(),
        }
    }

    /// A part of `window` that differs between servers and from report to report.
    fn jitter(&self, window: Duration) -> Duration {
        let share = fold(self.options.me.0 ^ fold(self.sequence.wrapping_add(1))) >> 32;
        Duration::from_nanos(((window.as_nanos() * u128::from(share)) >> 32) as u64)
    }
}
