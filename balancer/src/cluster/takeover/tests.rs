//! One server's takeovers, step by step; many servers' are in `tests/takeover`.

use super::*;
use crate::cluster::{Cluster, GRACE, Link, Message, Options, OwnState, Refused};
use proptest::prelude::*;
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

#[test]
fn a_home_is_told_of_a_higher_term_than_it_holds_its_identity_under() {
    let mut bench = Bench::caretaker();
    let told = |bench: &mut Bench| {
        let last = bench.told.last().unwrap();
        let mut named = last.identities.iter();
        let found = named.find(|named| named.home == HOME);
        found.map(|named| (named.term, named.held))
    };
    assert_eq!(told(&mut bench), Some((2, true)));
    bench.hear(HOME, &[(HOME, 1)]);
    bench.to(2_100);
    assert_eq!(told(&mut bench), Some((2, false)));
    bench.hear(HOME, &[(HOME, 3)]);
    bench.to(2_700);
    assert_eq!(told(&mut bench), None);
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
fn of_two_caretakers_the_higher_claim_wins() {
    for (from, term, gives_in) in [(3, 3, true), (3, 2, false), (0, 2, true), (3, 1, false)] {
        let mut bench = Bench::caretaker(); // under term 2, as server 1
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

/// A peer that isn't heard any more: its host is dead, as far as is known.
const MUTE: ServerId = ServerId(4);

/// A host that is no server's.
const STRANGER: ServerId = ServerId(99);

/// Who has an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    /// This server, whose own it is.
    Mine,
    /// This server, under term 2; its home is dead.
    Assumed,
    /// Its home, which is another server.
    Theirs,
    /// Another server, under term 2; its home is dead.
    Taken,
    /// Nobody; its home is dead, and this server couldn't add it.
    Nobody,
}

/// What is heard of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Its home's report, which says that it has it.
    Home,
    /// Its home's, which doesn't name it.
    Unnamed,
    /// Its home's goodbye: it has given it up.
    GivenUp,
    /// A claim of `OTHER`'s under this term.
    Claim(u64),
    /// `OTHER` knows of a higher term, but hasn't it.
    Disclaimed,
    /// `OTHER` says that it is the home.
    OtherHome,
    /// A frame of this server's from that address.
    Frame(ServerId),
}

/// What this server does about it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    Announces,
    Releases,
    Assumes,
    Asks,
}

/// Who has it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Is(ServerId),
    None,
    /// It is no identity any more.
    Unknown,
}

impl Bench {
    fn where_it_is(has: Has) -> Self {
        let mut bench = Self::with_own();
        bench.hear(HOME, &[(HOME, 1)]);
        bench.hear(MUTE, &[]);
        bench.to(1_000);
        bench.cluster.handle_probe(bench.now, MUTE, false);
        let mut others = vec![];
        match has {
            Has::Mine | Has::Theirs => {
                bench.hear(HOME, &[(HOME, 1)]);
            }
            Has::Assumed | Has::Taken | Has::Nobody => {
                bench.cluster.handle_probe(bench.now, HOME, false);
                let (now, used) = (bench.now, has == Has::Taken);
                bench.cluster.handle_identity_probe(now, identity(), used);
            }
        }
        if has == Has::Taken {
            others.push((HOME, 2));
            bench.hear(OTHER, &others);
        }
        bench.to(1_500);
        if has == Has::Nobody {
            bench.cluster.renounce(bench.now, identity());
        }
        bench.hear(OTHER, &others);
        assert_eq!(bench.cluster.peer(MUTE).unwrap().status, Status::Dead);
        bench.to(1_600);
        bench
    }

    /// What it does when it hears `heard` of `address`, and who has it then.
    fn hear_of(&mut self, address: IpNet, heard: Heard) -> (Act, Holder) {
        let home = if address == net(1) { ME } else { HOME };
        let named = |home, term, held| {
            vec![IdentityReport {
                address,
                home,
                term,
                held,
            }]
        };
        let (from, identities) = match heard {
            Heard::Home => (HOME, named(home, 1, true)),
            Heard::Unnamed => (HOME, vec![]),
            Heard::GivenUp => (HOME, named(home, 1, false)),
            Heard::Claim(term) => (OTHER, named(home, term, true)),
            Heard::Disclaimed => (OTHER, named(home, 9, false)),
            Heard::OtherHome => (OTHER, named(OTHER, 5, true)),
            Heard::Frame(by) => {
                let (now, mac) = (self.now, link(by).mac);
                self.cluster.handle_conflict(now, address.addr(), mac);
                return (self.act(address), self.holder(address));
            }
        };
        let leaving = heard == Heard::GivenUp;
        let report = Report {
            identities,
            leaving,
            ..self.report(from, &[])
        };
        self.send(report).unwrap();
        (self.act(address), self.holder(address))
    }

    fn act(&mut self, address: IpNet) -> Act {
        let address = address.addr();
        let of_it = |event: Event| match event {
            Event::Announce(of) if of == address => Some(Act::Announces),
            Event::Release(of) if of == address => Some(Act::Releases),
            Event::ProbeIdentity(of) if of == address => Some(Act::Asks),
            Event::Assume(assumed) if assumed.address.addr() == address => Some(Act::Assumes),
            _ => None,
        };
        let acts: Vec<_> = self.drain().into_iter().filter_map(of_it).collect();
        assert!(acts.len() <= 1, "{acts:?}");
        acts.first().copied().unwrap_or(Act::Nothing)
    }

    fn holder(&self, address: IpNet) -> Holder {
        let mut all = self.cluster.identities();
        let found = all.find(|known| known.address == address);
        found.map_or(Holder::Unknown, |known| {
            known.holder.map_or(Holder::None, Holder::Is)
        })
    }
}

/// As ARCHITECTURE.md has it: who has an identity, what is heard of it, what this server does, who has it then.
#[test]
fn the_whole_table() {
    use Act::{Announces, Asks, Assumes, Nothing, Releases};
    use Has::{Assumed, Mine, Nobody, Taken, Theirs};
    use Heard::{Claim, Disclaimed, Frame, GivenUp, Home, OtherHome, Unnamed};
    let all = [
        Home,
        Unnamed,
        GivenUp,
        Claim(3),
        Claim(2),
        Disclaimed,
        OtherHome,
        Frame(HOME),
        Frame(OTHER),
        Frame(MUTE),
        Frame(STRANGER),
    ];
    let to = Holder::Is;
    let nobody = Holder::None;
    let gone = Holder::Unknown;
    #[rustfmt::skip]
    let table = [
        // Of its own nobody else is the home: the first three can't be.
        (Mine, [None, None, None,
            Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Nothing, to(ME))),
            Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Nothing, to(ME)))]),
        (Assumed, [Some((Releases, to(HOME))), Some((Releases, gone)), Some((Nothing, to(ME))),
            Some((Releases, to(OTHER))), Some((Announces, to(ME))), Some((Nothing, to(ME))), Some((Releases, to(OTHER))),
            Some((Releases, to(HOME))), Some((Nothing, to(ME))), Some((Releases, to(MUTE))), Some((Releases, nobody))]),
        (Theirs, [Some((Nothing, to(HOME))), Some((Nothing, gone)), Some((Assumes, to(ME))),
            Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME))),
            Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME)))]),
        (Taken, [Some((Nothing, to(HOME))), Some((Nothing, gone)), Some((Nothing, to(OTHER))),
            Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Asks, nobody)), Some((Nothing, to(OTHER))),
            Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER)))]),
        (Nobody, [Some((Nothing, to(HOME))), Some((Nothing, gone)), Some((Nothing, nobody)),
            Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Nothing, nobody)), Some((Nothing, to(OTHER))),
            Some((Nothing, nobody)), Some((Nothing, nobody)), Some((Nothing, nobody)), Some((Nothing, nobody))]),
    ];
    for (has, row) in table {
        for (heard, expected) in all.into_iter().zip(row) {
            let Some(expected) = expected else { continue };
            let mut bench = Bench::where_it_is(has);
            let address = if has == Mine { net(1) } else { net(2) };
            let found = bench.hear_of(address, heard);
            assert_eq!(found, expected, "{has:?}, {heard:?}");
        }
    }
}

/// How its holder stands, how many probes in a row nobody answered, and whether it is claimed.
#[test]
fn what_it_takes_to_claim() {
    /// The holder, [`HOME`], reports; is overdue; its host answers; it doesn't; it left, and keeps the address; and gave it up.
    const STANDINGS: [(&str, [bool; 3]); 6] = [
        ("present", [false, false, false]),
        ("overdue", [false, false, false]),
        ("silent", [false, false, true]),
        ("dead", [false, true, true]),
        ("left", [false, true, true]),
        ("gave up", [true, true, true]),
    ];
    for (standing, row) in STANDINGS {
        for (unanswered, claimed) in (0..).zip(row) {
            let mut bench = Bench::with_own();
            bench.hear(HOME, &[(HOME, 1)]);
            let mut answers = [false; 2].into_iter().take(unanswered);
            let goodbye = Report {
                leaving: true,
                ..bench.report(HOME, &[(HOME, 1)])
            };
            let mut events = match standing {
                "left" => bench.say(goodbye),
                "gave up" => {
                    let mut goodbye = goodbye;
                    goodbye.identities[0].held = false;
                    bench.say(goodbye)
                }
                _ => vec![],
            };
            let until = if standing == "overdue" { 1_490 } else { 6_000 };
            while bench.millis() < until {
                if standing == "present" && bench.millis().is_multiple_of(500) {
                    bench.hear(HOME, &[(HOME, 1)]);
                }
                if events.contains(&Event::ProbeIdentity(identity())) {
                    let used = answers.next().is_none();
                    let now = bench.now;
                    bench.cluster.handle_identity_probe(now, identity(), used);
                    bench.cluster.handle_probe(now, HOME, standing == "silent");
                }
                events = bench.to(bench.millis() + 10);
            }
            assert_eq!(bench.holds(), claimed, "{standing}, {unanswered}");
        }
    }
}

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Step {
    /// A server reports to have, or not to have, these servers' identities under these terms.
    Report(u64, Vec<(u64, u64, bool)>, bool),
    Frame(u64, u64),
    HostProbed(u64, bool),
    Probed(u64, bool),
    Renounce(u64),
    /// Milliseconds go by.
    Run(u64),
    /// The same, but it doesn't run.
    Stall(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let claims = prop::collection::vec((1..5_u64, 0..9_u64, any::<bool>()), 0..4);
    prop_oneof![
        4 => (2..5_u64, claims, any::<bool>()).prop_map(|(from, claims, goes)| Step::Report(from, claims, goes)),
        2 => (1..5_u64, 1..6_u64).prop_map(|(of, by)| Step::Frame(of, by)),
        2 => (2..5_u64, any::<bool>()).prop_map(|(id, answered)| Step::HostProbed(id, answered)),
        2 => (1..5_u64, any::<bool>()).prop_map(|(of, used)| Step::Probed(of, used)),
        1 => (1..5_u64).prop_map(Step::Renounce),
        3 => (1..3_000_u64).prop_map(Step::Run),
        1 => (1..9_000_u64).prop_map(Step::Stall),
    ]
}

impl Bench {
    fn take(&mut self, step: Step) {
        let address = |of: u64| net(of as u8).addr();
        let now = self.now;
        match step {
            Step::Report(from, claims, leaving) => {
                let named = |(of, term, held)| IdentityReport {
                    address: net(of as u8),
                    home: ServerId(of),
                    term,
                    held,
                };
                let report = Report {
                    identities: claims.into_iter().map(named).collect(),
                    leaving,
                    ..self.report(ServerId(from), &[])
                };
                // Who isn't known is asked first: it may speak again.
                let _ = self.send(report);
            }
            Step::Frame(of, by) => {
                let mac = link(ServerId(by)).mac;
                self.cluster.handle_conflict(now, address(of), mac);
            }
            Step::HostProbed(id, answered) => {
                self.cluster.handle_probe(now, ServerId(id), answered);
            }
            Step::Probed(of, used) => self.cluster.handle_identity_probe(now, address(of), used),
            Step::Renounce(of) => self.cluster.renounce(now, address(of)),
            Step::Run(millis) => drop(self.to(self.millis() + millis)),
            Step::Stall(millis) => self.now = now + Duration::from_millis(millis),
        }
        self.cluster.handle_timeout(self.now);
        self.drain();
    }
}

proptest! {
    #[test]
    fn whatever_is_heard_terms_grow_and_homes_have_what_is_theirs_in_the_end(steps in prop::collection::vec(step(), 0..60)) {
        let mut bench = Bench::with_own();
        let mut terms = BTreeMap::new();
        for step in steps {
            bench.take(step);
            let now: BTreeMap<_, _> = (bench.cluster.identities())
                .map(|known| (known.address.addr(), known.term))
                .collect();
            for (address, term) in &now {
                prop_assert!(terms.get(address).is_none_or(|before| before <= term), "{address}");
            }
            terms = now;
            prop_assert!(bench.cluster.identities().any(|known| known.home == ME && known.holder == Some(ME)));
        }
        for _ in 0..2 {
            bench.to(bench.millis() + 100);
            for id in 2..5 {
                bench.hear(ServerId(id), &[(ServerId(id), 1)]);
            }
        }
        for id in 1..5 {
            prop_assert_eq!(bench.holder(net(id as u8)), Holder::Is(ServerId(id)));
        }
    }
}
