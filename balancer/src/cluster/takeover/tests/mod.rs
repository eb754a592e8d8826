//! One server's takeovers, step by step; many servers' are in `balancer/tests/takeover`.

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
            held: true,
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

    fn say(&mut self, report: Report) -> Vec<Event> {
        if self.send(report.clone()).is_err() {
            // Its answers are too old by now: it was asked again.
            self.drain();
            let answers = vec![self.nonce];
            self.send(Report { answers, ..report }).unwrap();
        }
        self.drain()
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
        found.map(|named| (named.term, named.held))
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

#[test]
fn a_dead_holders_identity_is_asked_for_and_then_claimed() {
    let mut bench = Bench::with_own();
    assert_eq!(bench.hear(HOME, &[(HOME, 4)]), []);
    assert_eq!(bench.to(999), []);
    assert_eq!(bench.to(1_000), [Event::ProbeIdentity(identity())]);
    bench
        .cluster
        .handle_identity_probe(at(1_200), identity(), false);
    bench.cluster.handle_probe(at(1_200), HOME, false);
    assert_eq!(bench.to(1_499), [], "it may report yet");
    assert_eq!(bench.to(1_500), [assume(5)]);
    assert_eq!(bench.known().reason, Reason::HolderDied);
    assert_eq!(bench.known().term, 5);
}

#[test]
fn an_address_in_use_is_not_claimed() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    bench.to(1_000);
    bench.cluster.handle_probe(at(1_100), HOME, false);
    bench
        .cluster
        .handle_identity_probe(at(1_100), identity(), true);
    assert_eq!(bench.to(7_099), []);
    assert_eq!(
        bench.to(7_100),
        [Event::ProbeIdentity(identity())],
        "it may be free by now"
    );
    bench
        .cluster
        .handle_identity_probe(at(7_150), identity(), false);
    assert_eq!(bench.drain(), [assume(2)]);
}

#[test]
fn a_silent_host_keeps_what_it_has() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    bench.to(1_000);
    bench
        .cluster
        .handle_identity_probe(at(1_100), identity(), false);
    bench.cluster.handle_probe(at(1_100), HOME, true);
    assert_eq!(bench.to(1_600), []);
    assert_eq!(bench.to(2_600), [Event::ProbeIdentity(identity())]);
    bench
        .cluster
        .handle_identity_probe(at(2_700), identity(), true);
    assert_eq!(bench.to(8_699), []);
    assert!(!bench.holds());
}

#[test]
fn what_a_silent_host_does_not_answer_for_twice_in_a_row_is_claimed() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    let mut asked = 0;
    // The one answer in between says that it is in use.
    for used in [false, true, false, false] {
        assert!(!bench.holds());
        while !bench
            .to(bench.millis() + 10)
            .contains(&Event::ProbeIdentity(identity()))
        {
            assert!(bench.millis() < 30_000);
        }
        asked += 1;
        bench.cluster.handle_probe(bench.now, HOME, true);
        bench
            .cluster
            .handle_identity_probe(bench.now, identity(), used);
    }
    assert_eq!((asked, bench.drain()), (4, vec![assume(2)]));
    assert_eq!(bench.known().reason, Reason::HolderLeft);
}

#[test]
fn a_short_stall_beside_a_silent_peer_is_a_short_one() {
    for (stall, long) in [(700, false), (1_400, false), (2_600, true)] {
        let mut bench = Bench::with_own();
        bench.hear(HOME, &[]);
        bench.to(1_000);
        bench.cluster.handle_probe(bench.now, HOME, true);
        bench.to(60_000);
        bench.hear(OTHER, &[]);
        bench.questions.clear();
        // The driver reads what waits, then does what is due.
        bench.now = at(60_000 + stall);
        bench.hear(OTHER, &[]);
        bench.hear(OTHER, &[]);
        bench.cluster.handle_timeout(bench.now);
        bench.drain();
        let asked = bench.questions.len();
        assert_eq!(asked > 0, long, "{stall} ms: asked {asked} times");
    }
}

#[test]
fn a_home_learns_that_its_caretaker_has_come_and_gone_unheard() {
    let mut bench = Bench::with_own();
    bench.hear(OTHER, &[]);
    bench.to(200);
    bench.questions.clear();
    let disclaimer = IdentityReport {
        address: net(1),
        home: ME,
        term: 7,
        held: false,
    };
    let report = Report {
        identities: vec![disclaimer],
        ..bench.report(OTHER, &[])
    };
    assert_eq!(bench.say(report.clone()), [Event::Announce(net(1).addr())]);
    assert_eq!(bench.cluster.identities().next().unwrap().term, 8);
    assert_eq!(bench.questions, [(200, true)], "of all peers");
    let sequence = report.sequence + 1;
    bench.say(Report { sequence, ..report });
    assert_eq!(bench.questions.len(), 1, "it is told once");
}

/// Where a caretaker has sent connections its home asks all. Another peer that only knows of an old term is none.
#[test]
fn a_home_asks_all_when_a_caretaker_says_that_it_has_let_go() {
    for (last, asked) in [(None, 2), (Some(true), 1), (Some(false), 0)] {
        let mut bench = Bench::with_own();
        bench.hear(HOME, &[(ME, 3)]);
        match last {
            Some(true) => _ = bench.hear(OTHER, &[(ME, 2)]),
            Some(false) => _ = bench.hear(OTHER, &[]),
            None => {}
        }
        bench.to(200);
        bench.questions.clear();
        let mut report = bench.report(OTHER, &[(ME, 2)]);
        report.identities[0].held = false;
        bench.say(report.clone());
        // Who is heard for the first time is asked as well.
        assert_eq!(bench.questions.len(), asked, "{last:?}");
        let sequence = report.sequence + 1;
        bench.say(Report { sequence, ..report });
        bench.to(700);
        assert_eq!(bench.questions.len(), asked, "it is asked once");
        assert_eq!(bench.cluster.identities().next().unwrap().term, 4);
    }
}

/// Its term may have grown meanwhile, on account of others.
#[test]
fn a_home_that_is_seen_before_it_is_heard_is_told_of_its_caretaker() {
    let mut bench = Bench::caretaker();
    let mac = link(HOME).mac;
    bench.cluster.handle_conflict(bench.now, identity(), mac);
    assert!(!bench.holds());
    bench.hear(HOME, &[(HOME, 5)]);
    bench.to(2_100);
    assert_eq!(bench.last_told(), Some((5, false)));
}

/// What was taken over the other one may have had before.
#[test]
fn a_caretaker_asks_all_when_a_peer_is_back() {
    let mut bench = Bench::caretaker();
    bench.to(2_000);
    let report = bench.report(OTHER, &[]);
    let _ = bench.send(report);
    let asked: Vec<_> = std::iter::from_fn(|| bench.cluster.poll_event())
        .filter_map(|event| match event {
            Event::Recover { identity, of, .. } => Some((identity, of)),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [(net(1).addr(), Some(OTHER)), (identity(), None)]);
}

#[test]
fn a_start_that_takes_long_is_no_stall() {
    let mut bench = Bench::with_own();
    bench.now = at(10_000);
    bench.cluster.handle_timeout(bench.now);
    bench.drain();
    assert_eq!(bench.questions, []);
}

#[test]
fn a_home_is_told_of_a_caretaker_until_it_has_a_higher_term_than_that() {
    // A home that was restarted, and one that has heard the claim.
    for (home, told) in [(1, 2), (5, 5)] {
        let mut bench = Bench::caretaker();
        assert_eq!(bench.last_told(), Some((2, true)));
        bench.hear(HOME, &[(HOME, home)]);
        bench.to(2_100);
        assert_eq!(bench.last_told(), Some((told, false)));
        bench.hear(HOME, &[(HOME, home)]);
        bench.to(2_600);
        assert_eq!(bench.last_told(), Some((told, false)));
        bench.hear(HOME, &[(HOME, told + 1)]);
        bench.to(3_100);
        assert_eq!(bench.last_told(), None);
    }
}

#[test]
fn a_probe_before_a_stall_is_worth_nothing() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    bench.to(1_000);
    bench
        .cluster
        .handle_identity_probe(at(1_100), identity(), false);
    bench.cluster.handle_probe(at(1_100), HOME, false);
    bench.cluster.handle_timeout(at(10_000));
    assert!(!bench.drain().contains(&assume(2)));
    assert!(!bench.holds());
}

#[test]
fn what_is_given_up_in_a_goodbye_is_taken_at_once() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    let mut goodbye = bench.report(HOME, &[(HOME, 1)]);
    goodbye.leaving = true;
    goodbye.identities[0].held = false;
    assert_eq!(bench.say(goodbye), [assume(2)]);
    assert_eq!(bench.known().reason, Reason::HolderLeft);
}

#[test]
fn an_address_moves_before_anything_else_is_told_and_that_once() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    let mut goodbye = bench.report(HOME, &[(HOME, 1)]);
    goodbye.leaving = true;
    goodbye.identities[0].held = false;
    bench.send(goodbye).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| bench.cluster.poll_event()).collect();
    assert_eq!(events[0], assume(2), "{events:?}");
    let news = events
        .iter()
        .filter(|event| **event == Event::Moved(identity()));
    assert_eq!(news.count(), 1, "{events:?}");
}

#[test]
fn it_is_news_that_a_home_has_its_identity_again() {
    let mut bench = Bench::with_own();
    let news = |bench: &mut Bench, from, homes: &[(ServerId, u64)]| {
        let report = bench.report(from, homes);
        let sent = bench.send(report.clone());
        if sent.is_err() {
            bench.drain();
            let answers = vec![bench.nonce];
            bench.send(Report { answers, ..report }).unwrap();
        }
        let events: Vec<_> = std::iter::from_fn(|| bench.cluster.poll_event()).collect();
        events.contains(&Event::Moved(identity()))
    };
    assert!(!news(&mut bench, HOME, &[(HOME, 1)]), "as it should be");
    bench.to(1_000);
    bench.cluster.handle_probe(at(1_100), HOME, false);
    bench.to(1_600);
    assert!(news(&mut bench, OTHER, &[(OTHER, 1), (HOME, 2)]));
    assert!(news(&mut bench, OTHER, &[(OTHER, 1)]), "nobody has it");
    assert!(news(&mut bench, HOME, &[(HOME, 1)]), "its home has it");
}

#[test]
fn what_the_host_keeps_after_a_goodbye_is_asked_for() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    let mut goodbye = bench.report(HOME, &[(HOME, 1)]);
    goodbye.leaving = true;
    assert_eq!(bench.say(goodbye), [Event::ProbeIdentity(identity())]);
    bench
        .cluster
        .handle_identity_probe(at(100), identity(), true);
    assert_eq!(bench.to(6_000), []);
}

#[test]
fn a_home_that_is_back_gets_its_identity_whatever_the_terms() {
    let mut bench = Bench::caretaker();
    let events = bench.hear(HOME, &[(HOME, 1)]);
    assert!(events.contains(&Event::Release(identity())), "{events:?}");
    assert_eq!(bench.known().holder, Some(HOME));
    assert_eq!(bench.known().term, 2, "terms only grow");
}

#[test]
fn a_home_takes_a_higher_term_and_announces_itself() {
    let mut bench = Bench::with_own();
    let mine = net(1).addr();
    assert_eq!(
        bench.hear(OTHER, &[(OTHER, 1), (ME, 9)]),
        [Event::Announce(mine)]
    );
    let term = bench
        .cluster
        .identities()
        .find(|known| known.home == ME)
        .unwrap()
        .term;
    assert_eq!(term, 10);
    assert_eq!(
        bench.hear(OTHER, &[(OTHER, 1), (ME, 9)]),
        [],
        "not at each report"
    );
}

#[test]
fn a_home_announces_itself_after_it_was_cut_off_whatever_others_report() {
    let mut bench = Bench::with_own();
    bench.hear(OTHER, &[]);
    bench.to(3_000);
    assert_eq!(bench.hear(OTHER, &[]), [Event::Announce(net(1).addr())]);
    assert_eq!(bench.hear(OTHER, &[]), []);
}

#[test]
fn a_home_whose_link_is_up_again_waits_for_nobody() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    bench.to(5_123);
    bench.told.clear();
    assert!(bench.cluster.handle_link_up(bench.now));
    let asks =
        |transmit: &crate::cluster::Transmit| matches!(transmit.message, Message::Query { .. });
    assert!(bench.cluster.out.transmits.iter().any(asks));
    let events = bench.to(5_123);
    assert_eq!(events, [Event::Announce(net(ME.0 as u8).addr())]);
    assert_eq!(bench.told.len(), 1, "it reports");
    // Flows that its caretaker has got must not be reset meanwhile.
    assert_eq!(bench.questions.last(), Some(&(5_123, true)));
}

#[test]
fn after_a_moment_without_a_link_what_is_known_stands() {
    let mut bench = Bench::with_own();
    bench.to(1_123);
    bench.hear(HOME, &[(HOME, 1)]);
    let asked = bench.questions.len();
    assert!(!bench.cluster.handle_link_up(bench.now));
    let events = bench.to(1_123);
    assert_eq!(events, [Event::Announce(net(ME.0 as u8).addr())]);
    assert_eq!(bench.questions.len(), asked);
}

#[test]
fn of_two_caretakers_the_higher_claim_wins() {
    for (from, term, gives_in) in [(3, 3, true), (3, 2, false), (0, 2, true), (3, 1, false)] {
        let mut bench = Bench::caretaker(); // under term 2, as server 1
        bench.hear(ServerId(from), &[]);
        let events = bench.hear(ServerId(from), &[(HOME, term)]);
        let expected = if gives_in {
            Event::Release(identity())
        } else {
            Event::Announce(identity())
        };
        assert_eq!(events, [expected], "server {from}, term {term}");
    }
}

#[test]
fn a_frame_of_its_home_or_of_a_stranger_ends_a_caretaker() {
    for (mac, gives_in) in [(2, true), (3, false), (99, true)] {
        let mut bench = Bench::caretaker();
        bench.hear(OTHER, &[]);
        let now = bench.now;
        bench
            .cluster
            .handle_conflict(now, identity(), [2, 0, 0, 0, 0, mac]);
        assert_eq!(
            bench.drain() == [Event::Release(identity())],
            gives_in,
            "{mac}"
        );
        assert_eq!(bench.holds(), !gives_in);
    }
}

#[test]
fn two_homes_do_not_fight() {
    let mut bench = Bench::with_own();
    let report = Report {
        identities: vec![IdentityReport {
            address: net(1),
            home: OTHER,
            term: 50,
            held: true,
        }],
        ..bench.report(OTHER, &[])
    };
    assert_eq!(bench.say(report), []);
    let known = bench.cluster.identities().next().unwrap();
    assert_eq!((known.home, known.term), (ME, 1));

    // What both announce is no reason to announce it again.
    bench.to(200);
    let (now, mac) = (bench.now, link(OTHER).mac);
    bench.cluster.handle_conflict(now, net(1).addr(), mac);
    assert_eq!(bench.drain(), []);
}

#[test]
fn a_claim_to_what_a_living_home_does_not_have_is_ignored() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[]);
    bench.hear(OTHER, &[(HOME, 1)]);
    assert_eq!(bench.cluster.identities().count(), 1, "its own");
    let foreign = IdentityReport {
        address: net(77),
        home: ME,
        term: 1,
        held: true,
    };
    let report = Report {
        identities: vec![foreign],
        ..bench.report(OTHER, &[])
    };
    bench.say(report);
    assert_eq!(bench.cluster.identities().count(), 1, "its own");
}

#[test]
fn what_its_home_has_no_more_is_let_go() {
    let mut bench = Bench::caretaker();
    let events = bench.hear(HOME, &[]);
    assert!(events.contains(&Event::Release(identity())), "{events:?}");
    assert_eq!(bench.cluster.identities().count(), 1);
}

#[test]
fn a_majority_is_waited_for_if_it_is_required() {
    let mut bench = Bench::new(Estate {
        require: Require::Majority,
        ..Estate::default()
    });
    bench.hear(HOME, &[(HOME, 1)]);
    let goodbye = |bench: &mut Bench| {
        bench.to(1_000);
        bench.cluster.handle_probe(bench.now, HOME, false);
        bench
            .cluster
            .handle_identity_probe(bench.now, identity(), false);
        bench.to(1_510)
    };
    assert_eq!(goodbye(&mut bench), [], "one of two");
    bench.hear(OTHER, &[]);
    assert!(bench.holds(), "two of three");
}

#[test]
fn who_cannot_take_an_address_leaves_it_to_others_for_a_while() {
    let mut bench = Bench::caretaker();
    bench.cluster.renounce(at(1_500), identity());
    assert!(!bench.holds());
    assert_eq!(bench.to(16_499), []);
    assert_eq!(bench.to(16_500), [Event::ProbeIdentity(identity())]);
}

#[test]
fn what_a_daemon_before_had_taken_over_is_kept_until_its_home_is_back() {
    let mut bench = Bench::new(Estate {
        adopted: vec![Assumed {
            address: net(2),
            home: HOME,
            term: 6,
        }],
        ..Estate::default()
    });
    bench.to(5_000);
    assert!(bench.holds());
    assert_eq!(bench.known().reason, Reason::Adopted);
    assert_eq!(bench.hear(HOME, &[(HOME, 1)]), [Event::Release(identity())]);
}

/// For how long packets of unknown flows are dropped, and how often is asked, in the worst 5 s.
#[test]
fn whoever_claims_and_yields_again_and_again_silences_nothing() {
    type Turn = fn(&mut Bench);
    let claims: Turn = |bench| {
        bench.hear(OTHER, &[(ME, 900)]);
        bench.hear(OTHER, &[]);
    };
    let returns: Turn = |bench| {
        let report = bench.report(OTHER, &[]);
        bench.say(Report {
            leaving: true,
            ..report
        });
        bench.hear(OTHER, &[]);
    };
    let shows: Turn = |bench| {
        bench
            .cluster
            .handle_conflict(bench.now, net(1).addr(), link(OTHER).mac);
        bench.drain();
    };
    for turn in [claims, returns, shows] {
        let mut bench = Bench::with_own();
        bench.hear(OTHER, &[]);
        bench.to(10_000);
        bench.hear(OTHER, &[]);
        bench.to(10_500);
        bench.questions.clear();
        for millis in (10_500..25_000).step_by(20) {
            turn(&mut bench);
            bench.to(millis + 20);
        }
        let asked: Vec<_> = bench.questions.iter().map(|(at, _)| *at).collect();
        let graces = bench.questions.iter().filter(|(_, grace)| *grace);
        let graces: Vec<_> = graces.map(|(at, _)| *at).collect();
        assert_eq!(asked[0], 10_500, "at once");
        assert_eq!(graces[0], asked[0]);
        let silent = |millis: &u64| {
            let mut graces = graces.iter();
            graces.any(|begun| (*begun..begun + GRACE.as_millis() as u64).contains(millis))
        };
        for from in (10_500..20_000).step_by(100) {
            let silent = (from..from + 5_000).filter(silent).count();
            assert!(silent <= 1_600, "{silent} ms of 5 s from {from}");
            let of_these = |millis: &&u64| (from..from + 5_000).contains(*millis);
            let asked = asked.iter().filter(of_these).count();
            assert!(asked <= 30, "{asked} questions in 5 s from {from}");
        }
        // What came up last isn't forgotten.
        assert!(asked[asked.len() - 1] >= 23_900, "{asked:?}");
    }
}

#[test]
fn one_peers_claims_take_nothing_from_anothers() {
    let mut bench = Bench::with_own();
    bench.hear(OTHER, &[]);
    bench.hear(HOME, &[]);
    for millis in (100..3_000).step_by(100) {
        bench.hear(OTHER, &[(ME, 900)]);
        bench.to(millis);
    }
    let late = |(at, grace): &(u64, bool)| *at > 1_500 && *grace;
    assert!(!bench.questions.iter().any(late));
    bench.hear(HOME, &[(ME, 901)]);
    assert!(bench.questions.contains(&(2_900, true)));
    // Later it has its grace again.
    bench.to(5_200);
    bench.hear(OTHER, &[(ME, 902)]);
    assert!(bench.questions.contains(&(5_200, true)));
}

#[test]
fn a_peer_that_was_away_for_some_seconds_has_its_grace() {
    let mut bench = Bench::with_own();
    bench.hear(OTHER, &[]);
    for millis in [2_000, 4_000] {
        bench.to(millis);
        bench.hear(OTHER, &[]);
        assert!(
            bench.questions.contains(&(millis, true)),
            "{:?}",
            bench.questions
        );
    }
}
