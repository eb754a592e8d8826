//! Whom a server asks for the flows on what it holds, and whom it tells that it has let go.

use super::*;

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
        tenure: Tenure::Past,
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
        report.identities[0].tenure = Tenure::Past;
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

#[test]
fn a_goodbye_that_is_said_twice_is_heard_once() {
    let mut bench = Bench::with_own();
    bench.hear(OTHER, &[(ME, 2)]);
    let goodbye = bench.goodbye(OTHER, (ME, 2), Tenure::Freed);
    bench.say(goodbye.clone());
    bench.to(200);
    let asked = bench.questions.len();
    let sequence = goodbye.sequence + 1;
    bench.say(Report {
        sequence,
        ..goodbye
    });
    bench.to(700);
    assert_eq!(bench.questions.len(), asked);
}

/// Its term may have grown meanwhile, on account of others.
#[test]
fn a_home_that_is_seen_before_it_is_heard_is_told_of_its_caretaker() {
    let mut bench = Bench::caretaker();
    let mac = link(HOME).mac;
    bench.cluster.handle_conflict(bench.now, identity(), mac);
    assert!(!bench.holds());
    bench.to(1_700);
    bench.hear(HOME, &[(HOME, 5)]);
    bench.to(2_100);
    assert_eq!(bench.last_told(), Some((5, false)));
    bench.hear(HOME, &[(HOME, 6)]);
    bench.to(2_600);
    assert_eq!(bench.last_told(), None);
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
