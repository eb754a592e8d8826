//! The rules one by one; `model` holds them against a plain restatement, `shares` counts who gets how much.

use super::*;
use crate::types::{FULL, cost_of};

mod model;
mod shares;

/// Peers by index; `None` is a hole, or a peer that is off-line or doesn't offer the service.
#[derive(Clone, Debug)]
struct Table(Vec<Option<Candidate>>);

impl Peers for Table {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn candidate(&self, index: u32) -> Option<Candidate> {
        self.0[index as usize]
    }
}

/// The largest capacity, as a [`Candidate::weight`].
const WHOLE: u32 = 65_535;

#[expect(clippy::unnecessary_wraps, reason = "one slot of a table")]
fn peer(load: u32) -> Option<Candidate> {
    Some(Candidate {
        load,
        weight: WHOLE,
        ready: true,
    })
}

fn down(load: u32) -> Option<Candidate> {
    peer(load).map(|peer| Candidate {
        ready: false,
        ..peer
    })
}

/// Ready peers with these loads.
fn peers(loads: &[u32]) -> Table {
    Table(loads.iter().map(|load| peer(*load)).collect())
}

/// A server with the default levels: overload 50 %, margin 20 points.
fn own(policy: Policy, load: u32) -> Own {
    Own {
        load,
        ready: true,
        overload: 5_000,
        margin: 2_000,
        policy,
        turn: 0,
    }
}

fn not_ready(policy: Policy, load: u32) -> Own {
    Own {
        ready: false,
        ..own(policy, load)
    }
}

/// Hashes of many flows.
fn flows() -> impl Iterator<Item = u64> {
    (1..=1_000).map(fold)
}

/// The verdict, the same under each policy and for each of many flows.
#[track_caller]
fn always(own: Own, table: &Table) -> Verdict {
    let mut verdicts = Policy::ALL
        .into_iter()
        .flat_map(|policy| flows().map(move |random| (policy, random)))
        .map(|(policy, random)| {
            let own = Own { policy, ..own };
            (decide(&own, table, random), policy, random)
        });
    let (first, ..) = verdicts.next().unwrap();
    for (verdict, policy, random) in verdicts {
        assert_eq!(verdict, first, "{policy:?}, flow {random:#x}");
    }
    first
}

const ANY: Policy = Policy::LeastLoad;

#[test]
fn keeps_up_to_the_overload_level_and_no_further() {
    let idle = peers(&[0]);
    for (load, verdict) in [
        (0, Verdict::KeepBelowLevel),
        (4_999, Verdict::KeepBelowLevel),
        (5_000, Verdict::KeepBelowLevel),
        (5_001, Verdict::Steer(0)),
        (u32::MAX, Verdict::Steer(0)),
    ] {
        assert_eq!(always(own(ANY, load), &idle), verdict, "own load {load}");
    }
}

#[test]
fn a_peer_must_be_lower_by_more_than_the_margin() {
    for (load, verdict) in [
        (2_999, Verdict::Steer(0)),
        (4_000, Verdict::Steer(0)),
        (4_001, Verdict::KeepNoCandidate),
        (4_002, Verdict::KeepNoCandidate),
        (6_001, Verdict::KeepNoCandidate),
        (u32::MAX, Verdict::KeepNoCandidate),
    ] {
        assert_eq!(
            always(own(ANY, 6_001), &peers(&[load])),
            verdict,
            "peer's load {load}"
        );
    }
}

#[test]
fn a_margin_of_all_own_load_or_more_leaves_no_candidate() {
    for margin in [6_000, 6_001, u32::MAX] {
        let own = Own {
            margin,
            ..own(ANY, 6_000)
        };
        assert_eq!(
            always(own, &peers(&[0])),
            Verdict::KeepNoCandidate,
            "margin {margin}"
        );
    }
    let just_less = Own {
        margin: 5_999,
        ..own(ANY, 6_000)
    };
    assert_eq!(always(just_less, &peers(&[0])), Verdict::Steer(0));
}

#[test]
fn keeps_where_there_is_no_peer_at_all() {
    for table in [Table(vec![]), Table(vec![None]), Table(vec![None; 256])] {
        assert_eq!(
            always(own(ANY, FULL), &table),
            Verdict::KeepNoCandidate,
            "{} slots",
            table.count()
        );
        assert_eq!(
            always(not_ready(ANY, 0), &table),
            Verdict::KeepNoCandidate,
            "{} slots, not ready",
            table.count()
        );
    }
}

#[test]
fn a_table_longer_than_it_can_be_is_not_looked_at() {
    let too_long = Table(vec![peer(0); MAX_PEERS as usize + 1]);
    assert_eq!(always(own(ANY, FULL), &too_long), Verdict::KeepNoCandidate);
}

#[test]
fn passes_over_holes_and_peers_that_are_down() {
    let table = Table(vec![None, down(0), None, peer(1_000), None, down(500)]);
    assert_eq!(always(own(ANY, FULL), &table), Verdict::Steer(3));
    let last = Table([vec![None; 255], vec![peer(1_000)]].concat());
    assert_eq!(always(own(ANY, FULL), &last), Verdict::Steer(255));
    let all_down = Table(vec![down(0), down(500)]);
    assert_eq!(always(own(ANY, FULL), &all_down), Verdict::KeepNoCandidate);
}

#[test]
fn a_server_that_is_not_ready_gives_to_any_peer_that_is() {
    for own_load in [0, 5_000, FULL, u32::MAX] {
        for load in [0, own_load, 5_001, 20_000, u32::MAX] {
            let table = Table(vec![down(0), peer(load)]);
            assert_eq!(
                always(not_ready(ANY, own_load), &table),
                Verdict::Steer(1),
                "own load {own_load}, peer's {load}"
            );
        }
        assert_eq!(
            always(not_ready(ANY, own_load), &Table(vec![down(0)])),
            Verdict::KeepNoCandidate
        );
    }
}

#[test]
fn least_load_takes_the_lowest_and_of_equals_the_first() {
    let own = own(Policy::LeastLoad, FULL);
    for (loads, lowest) in [
        (&[3_000, 2_000, 1_000][..], 2),
        (&[1_000, 2_000, 3_000], 0),
        (&[3_000, 1_000, 1_000, 3_000], 1),
        (&[500, 500, 500], 0),
    ] {
        for random in flows() {
            assert_eq!(
                decide(&own, &peers(loads), random),
                Verdict::Steer(lowest),
                "{loads:?}"
            );
        }
    }
}

#[test]
fn least_load_minds_no_weight() {
    let small = peer(999).map(|peer| Candidate { weight: 0, ..peer });
    let table = Table(vec![peer(1_000), small]);
    for random in flows() {
        assert_eq!(
            decide(&own(Policy::LeastLoad, FULL), &table, random),
            Verdict::Steer(1)
        );
    }
}

#[test]
fn two_choices_takes_the_lower_of_two() {
    let table = peers(&[1_000, 2_000]);
    for random in flows() {
        assert_eq!(
            decide(&own(Policy::TwoChoices, FULL), &table, random),
            Verdict::Steer(0)
        );
    }
    // The highest of three is never the lower of two.
    let table = peers(&[3_000, 1_000, 2_000]);
    for random in flows() {
        assert_ne!(
            decide(&own(Policy::TwoChoices, FULL), &table, random),
            Verdict::Steer(0)
        );
    }
}

#[test]
fn two_choices_looks_at_no_more_than_two_ready_peers() {
    // Of eight peers one is fit: a pair of them has it in two cases of eight. Those that are down are no choice.
    let mut table = peers(&[FULL; 8]);
    table.0[5] = peer(0);
    table.0.extend([down(0), None, down(0)]);
    let own = own(Policy::TwoChoices, FULL);
    let steered = flows()
        .filter(|random| match decide(&own, &table, *random) {
            Verdict::Steer(5) => true,
            Verdict::KeepNoCandidate => false,
            other => panic!("{other:?}"),
        })
        .count();
    assert!((200..300).contains(&steered), "{steered} of 1000");
}

#[test]
fn below_level_takes_no_peer_above_the_level() {
    let own = Own {
        margin: 0,
        ..own(Policy::BelowLevel, FULL)
    };
    let table = peers(&[5_001, 5_000, 9_999, 4_000]);
    let mut taken = [0; 4];
    for random in flows() {
        match decide(&own, &table, random) {
            Verdict::Steer(index) => taken[index as usize] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken[0], taken[2]), (0, 0));
    assert!(taken[1] > 0 && taken[3] > 0, "{taken:?}");
    let above = peers(&[5_001, 9_999]);
    for random in flows() {
        assert_eq!(decide(&own, &above, random), Verdict::KeepNoCandidate);
    }
}

#[test]
fn round_robin_takes_each_candidate_in_turn() {
    let table = Table(vec![
        None,
        peer(0),
        down(0),
        peer(9_000),
        peer(3_000),
        None,
        peer(1_000),
    ]);
    // Whatever the flow's hash, and up to the end of the counter that says whose turn it is.
    for first in [0, 1_000, u32::MAX - 5] {
        let taken: Vec<_> = flows()
            .take(6)
            .zip(0..)
            .map(|(random, later)| {
                let own = Own {
                    turn: first + later,
                    ..own(Policy::RoundRobin, FULL)
                };
                decide(&own, &table, random)
            })
            .collect();
        let mut round = [taken[0], taken[1], taken[2]];
        round.sort_by_key(|verdict| format!("{verdict:?}"));
        assert_eq!(
            round,
            [Verdict::Steer(1), Verdict::Steer(4), Verdict::Steer(6)],
            "from turn {first}: {taken:?}"
        );
        assert_eq!(taken[..3], taken[3..], "from turn {first}");
    }
}

#[test]
fn a_lone_small_peer_still_gets_flows() {
    for weight in [0, 1, 100, WHOLE / 2] {
        let small = peer(0).map(|peer| Candidate { weight, ..peer });
        // Alone in the table, and as the only one that is fit beside a large one.
        assert_eq!(
            always(own(ANY, FULL), &Table(vec![small])),
            Verdict::Steer(0),
            "weight {weight}"
        );
        let beside = Table(vec![down(0), small, None]);
        assert_eq!(
            always(own(ANY, FULL), &beside),
            Verdict::Steer(1),
            "weight {weight}"
        );
    }
}

#[test]
fn a_report_and_what_was_sent_since_make_a_candidate() {
    let report = PeerLoad {
        load: 2_000,
        cost: cost_of(20),
        sent: 3,
        weight: 40_000,
        flags: OFFERED | READY,
        padding: 0,
    };
    assert_eq!(
        Candidate::from_report(&report),
        Some(Candidate {
            load: 3_500,
            weight: 40_000,
            ready: true
        })
    );
    let down = PeerLoad {
        flags: OFFERED,
        ..report
    };
    assert!(!Candidate::from_report(&down).unwrap().ready);
    for flags in [0, READY] {
        assert_eq!(Candidate::from_report(&PeerLoad { flags, ..report }), None);
    }
}

#[test]
fn a_load_too_large_for_its_number_is_the_largest() {
    let report = PeerLoad {
        load: 2_000,
        cost: cost_of(1),
        sent: u32::MAX,
        weight: WHOLE,
        flags: OFFERED | READY,
        padding: 0,
    };
    for report in [
        report,
        PeerLoad {
            load: u32::MAX,
            sent: 1,
            ..report
        },
    ] {
        assert_eq!(Candidate::from_report(&report).unwrap().load, u32::MAX);
    }
}

#[test]
fn own_is_what_the_maps_say() {
    let service = Service {
        uncounted: 5,
        given_up: 1,
        cost: cost_of(20),
        sample: 100,
        overload: 6_000,
        margin: 1_500,
        policy: Policy::RoundRobin as u32,
        ready: 1,
        affinity_ns: 0,
    };
    let connections = Connections {
        open: 3,
        arrived: 9,
        established: 6,
        steered: (1 << 32) + 7,
    };
    assert_eq!(
        Own::from_maps(&service, &connections),
        Own {
            load: 5_000,
            ready: true,
            overload: 6_000,
            margin: 1_500,
            policy: Policy::RoundRobin,
            turn: 7,
        }
    );
}

#[test]
fn policies_have_their_names_and_numbers() {
    for policy in Policy::ALL {
        assert_eq!(Policy::from_name(policy.name()), Some(policy));
        assert_eq!(Policy::from_number(policy as u32), policy);
    }
    assert_eq!(Policy::from_name("fastest"), None);
    assert_eq!(Policy::from_number(4), Policy::default());
    assert_eq!(Policy::from_number(u32::MAX), Policy::default());
}
