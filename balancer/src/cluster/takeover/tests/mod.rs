//! One server's takeovers, step by step; many servers' are in `balancer/tests/takeover`.

mod claims;
mod flows;
mod homes;
mod random;
mod table;

use super::*;
use crate::cluster::{Cluster, GRACE, Link, Message, Options, OwnState, Refused};
use std::net::SocketAddr;
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(500);
const START: Timestamp = Timestamp(1_000_000_000_000);
const ME: ServerId = ServerId(1);
const HOME: ServerId = ServerId(2);
const OTHER: ServerId = ServerId(3);

fn at(millis: u64) -> Timestamp {
    START + Duration::from_millis(millis)
}

fn net(last: u8) -> IpNet {
    format!("10.0.0.{last}/24").parse().unwrap()
}

/// The identity of server `HOME`.
fn identity() -> IpAddr {
    net(HOME.0 as u8).addr()
}

fn link(id: ServerId) -> Link {
    Link {
        mac: [2, 0, 0, 0, 0, id.0 as u8],
        addresses: vec![net(id.0 as u8)],
    }
}

/// Server 1 among whom it hears: a driver that tells it what others say, and notes what it is told to do.
struct Bench {
    cluster: Cluster,
    now: Timestamp,
    nonce: u64,
    sequence: u64,
    /// When flows were to be looked for, in milliseconds from the start, and whether with a grace.
    questions: Vec<(u64, bool)>,
    /// What it reported to all.
    told: Vec<Report>,
}

impl Bench {
    fn new(estate: Estate) -> Self {
        let options = Options {
            me: ME,
            boot: 1 << 32,
            name: "web1".into(),
            period: PERIOD,
            timeout_periods: 3,
            estate,
        };
        let mut bench = Self {
            cluster: Cluster::new(START, options),
            now: START,
            nonce: 0,
            sequence: 0,
            questions: Vec::new(),
            told: Vec::new(),
        };
        let own = OwnState {
            links: vec![link(ME)],
            caretaker: true,
            ..OwnState::default()
        };
        bench.cluster.set_own(START, own).unwrap();
        bench.drain();
        bench
    }

    fn with_own() -> Self {
        Self::new(Estate {
            homes: vec![Home {
                address: net(1),
                kept: false,
            }],
            ..Estate::default()
        })
    }

    fn caretaker() -> Self {
        let mut bench = Self::with_own();
        bench.hear(HOME, &[(HOME, 1)]);
        bench.to(1_000);
        bench.cluster.handle_probe(bench.now, HOME, false);
        bench
            .cluster
            .handle_identity_probe(bench.now, identity(), false);
        bench.to(1_500);
        assert!(bench.holds());
        bench.drain();
        bench
    }

    /// A report of `from`, which holds the identities of `homes` under these terms.
    fn report(&mut self, from: ServerId, homes: &[(ServerId, u64)]) -> Report {
        self.sequence += 1;
        let claim = |&(home, term): &(ServerId, u64)| IdentityReport {
            address: net(home.0 as u8),
            home,
            term,
            tenure: Tenure::Held,
        };
        Report {
            server: from,
            boot: 7,
            sequence: self.sequence,
            period_ms: 500,
            name: format!("web{}", from.0),
            links: vec![link(from)],
            services: Vec::new(),
            identities: homes.iter().map(claim).collect(),
            caretaker: false,
            draining: false,
            guests: Vec::new(),
            leaving: false,
            answers: vec![self.nonce],
        }
    }

    /// The goodbye of `from`, which has had the identity of `home`, in that term.
    fn goodbye(&mut self, from: ServerId, home: (ServerId, u64), tenure: Tenure) -> Report {
        let mut goodbye = self.report(from, &[home]);
        goodbye.leaving = true;
        goodbye.identities[0].tenure = tenure;
        goodbye
    }

    fn say(&mut self, report: Report) -> Vec<Event> {
        self.prove(report);
        self.drain()
    }

    /// Has it heard, but looks at nothing that comes of it.
    fn prove(&mut self, report: Report) {
        if self.send(report.clone()).is_err() {
            // Its answers are too old by now: it was asked again.
            self.drain();
            let answers = vec![self.nonce];
            self.send(Report { answers, ..report }).unwrap();
        }
    }

    fn send(&mut self, report: Report) -> Result<(), Refused> {
        let from = SocketAddr::from(([10, 0, 0, report.server.0 as u8], 9918));
        self.cluster
            .handle(self.now, from, Message::Report(Box::new(report)))
    }

    fn hear(&mut self, from: ServerId, homes: &[(ServerId, u64)]) -> Vec<Event> {
        let report = self.report(from, homes);
        self.say(report)
    }

    /// Runs punctually up to a time, in milliseconds from the start.
    fn to(&mut self, millis: u64) -> Vec<Event> {
        let mut events = Vec::new();
        while self.cluster.next_timeout() <= at(millis) {
            self.now = self.cluster.next_timeout();
            self.cluster.handle_timeout(self.now);
            assert!(
                self.cluster.next_timeout() > self.now,
                "nothing is left to be done"
            );
            events.extend(self.drain());
        }
        self.now = at(millis);
        events
    }

    /// What it is told to do about identities.
    fn drain(&mut self) -> Vec<Event> {
        while let Some(transmit) = self.cluster.poll_transmit() {
            match transmit.message {
                Message::Query { nonce } => self.nonce = nonce,
                Message::Report(report) => self.told.push(*report),
                Message::FlowsQuery(_) | Message::Flows(_) => {}
            }
        }
        let all: Vec<_> = std::iter::from_fn(|| self.cluster.poll_event()).collect();
        let millis = self.millis();
        for event in &all {
            if let Event::Recover { grace, .. } = event {
                self.questions.push((millis, *grace));
            }
        }
        all.into_iter()
            .filter(|event| {
                matches!(
                    event,
                    Event::ProbeIdentity(_)
                        | Event::Assume(_)
                        | Event::Release(_)
                        | Event::Announce(_)
                )
            })
            .collect()
    }

    /// What its last report says of the identity of `HOME`: the term, and whether it has it.
    fn last_told(&self) -> Option<(u64, bool)> {
        let mut named = self.told.last().unwrap().identities.iter();
        let found = named.find(|named| named.home == HOME);
        found.map(|named| (named.term, named.is_held()))
    }

    fn millis(&self) -> u64 {
        self.now.since(START).as_millis() as u64
    }

    fn known(&self) -> &Identity {
        let mut all = self.cluster.identities();
        all.find(|known| known.address.addr() == identity())
            .unwrap()
    }

    fn holds(&self) -> bool {
        self.known().holder == Some(ME)
    }
}

fn assume(term: u64) -> Event {
    Event::Assume(Assumed {
        address: net(HOME.0 as u8),
        home: HOME,
        term,
    })
}
