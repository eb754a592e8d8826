//! How a home gets its identity back, and who else may have it.

use super::*;

#[test]
fn an_address_moves_before_anything_else_is_told_and_that_once() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    let goodbye = bench.goodbye(HOME, (HOME, 1), Tenure::Freed);
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
        bench.prove(report);
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
            tenure: Tenure::Held,
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
fn what_its_home_has_no_more_is_let_go() {
    let mut bench = Bench::caretaker();
    let events = bench.hear(HOME, &[]);
    assert!(events.contains(&Event::Release(identity())), "{events:?}");
    assert_eq!(bench.cluster.identities().count(), 1);
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
