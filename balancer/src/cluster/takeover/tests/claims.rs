//! When a server claims an identity, and when it leaves it.

use super::*;

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
    let goodbye = bench.goodbye(HOME, (HOME, 1), Tenure::Freed);
    assert_eq!(bench.say(goodbye), [assume(2)]);
    assert_eq!(bench.known().reason, Reason::HolderLeft);
}

/// Its home may have it by now.
#[test]
fn what_was_let_go_of_before_a_goodbye_is_asked_for() {
    let mut bench = Bench::caretaker();
    let mac = link(HOME).mac;
    bench.cluster.handle_conflict(bench.now, identity(), mac);
    bench.cluster.leave();
    bench.drain();
    let goodbye = bench.told.pop().unwrap();
    assert!(goodbye.leaving);
    let tenures: Vec<_> = goodbye.identities.iter().map(|one| one.tenure).collect();
    assert_eq!(tenures, [Tenure::Freed, Tenure::Past], "its own is free");

    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    let home = bench.report(HOME, &[]);
    bench.say(Report {
        leaving: true,
        ..home
    });
    bench.hear(OTHER, &[(HOME, 2)]);
    let goodbye = bench.goodbye(OTHER, (HOME, 2), Tenure::Past);
    assert_eq!(bench.say(goodbye), [Event::ProbeIdentity(identity())]);
    assert!(!bench.holds());
}

#[test]
fn what_the_host_keeps_after_a_goodbye_is_asked_for() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[(HOME, 1)]);
    let goodbye = bench.goodbye(HOME, (HOME, 1), Tenure::Held);
    assert_eq!(bench.say(goodbye), [Event::ProbeIdentity(identity())]);
    bench
        .cluster
        .handle_identity_probe(at(100), identity(), true);
    assert_eq!(bench.to(6_000), []);
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
fn a_claim_to_what_a_living_home_does_not_have_is_ignored() {
    let mut bench = Bench::with_own();
    bench.hear(HOME, &[]);
    bench.hear(OTHER, &[(HOME, 1)]);
    assert_eq!(bench.cluster.identities().count(), 1, "its own");
    let foreign = IdentityReport {
        address: net(77),
        home: ME,
        term: 1,
        tenure: Tenure::Held,
    };
    let report = Report {
        identities: vec![foreign],
        ..bench.report(OTHER, &[])
    };
    bench.say(report);
    assert_eq!(bench.cluster.identities().count(), 1, "its own");
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
