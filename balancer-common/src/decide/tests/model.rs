//! The decision against a plain restatement of the rules, on tables, levels and flows of all sorts.

use proptest::prelude::*;

use super::*;

/// S205 to S207: the indices that may get the flow, by subtraction in wide numbers.
fn candidates(own: &Own, table: &Table) -> Vec<u32> {
    (0..)
        .zip(&table.0)
        .filter_map(|(index, peer)| peer.map(|peer| (index, peer)))
        .filter(|(_, peer)| peer.ready)
        .filter(|(_, peer)| {
            !own.ready || i64::from(own.load) - i64::from(peer.load) > i64::from(own.margin)
        })
        .filter(|(_, peer)| {
            !own.ready || own.policy != Policy::BelowLevel || peer.load <= own.overload
        })
        .map(|(index, _)| index)
        .collect()
}

fn load_at(table: &Table, index: u32) -> u32 {
    table.0[index as usize].unwrap().load
}

/// Loads around the levels of [`any_own`], so that equality is met, and any others.
fn any_load() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..12_u32,
        2 => 0..3 * FULL,
        1 => Just(u32::MAX),
        1 => any::<u32>(),
    ]
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let weight = prop_oneof![Just(WHOLE), 0..=WHOLE, any::<u32>()];
    (any_load(), weight, prop::bool::weighted(0.8)).prop_map(|(load, weight, ready)| Candidate {
        load,
        weight,
        ready,
    })
}

fn any_table() -> impl Strategy<Value = Table> {
    let slot = || prop::option::weighted(0.7, any_candidate());
    prop_oneof![
        9 => prop::collection::vec(slot(), 0..12),
        1 => prop::collection::vec(slot(), 0..=MAX_PEERS as usize),
    ]
    .prop_map(Table)
}

fn any_own() -> impl Strategy<Value = Own> {
    (
        any_load(),
        prop::bool::weighted(0.8),
        any_load(),
        any_load(),
        prop::sample::select(&Policy::ALL[..]),
        any::<u32>(),
    )
        .prop_map(|(load, ready, overload, margin, policy, turn)| Own {
            load,
            ready,
            overload,
            margin,
            policy,
            turn,
        })
}

fn any_random() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 1 => Just(u64::MAX), 8 => any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keeps_to_the_rules(own in any_own(), table in any_table(), random in any_random()) {
        let candidates = candidates(&own, &table);
        let verdict = decide(&own, &table, random);
        prop_assert_eq!(verdict, decide(&own, &table, random), "not the same twice");
        match verdict {
            Verdict::KeepBelowLevel => prop_assert!(own.ready && own.load <= own.overload),
            _ if own.ready => prop_assert!(own.load > own.overload),
            _ => {}
        }
        match verdict {
            Verdict::KeepBelowLevel => {}
            // Two-choices may have met two that are none while others are.
            Verdict::KeepNoCandidate if own.policy == Policy::TwoChoices => {
                let ready = table.0.iter().flatten().filter(|peer| peer.ready).count();
                prop_assert!(candidates.is_empty() || ready > 2);
            }
            Verdict::KeepNoCandidate => prop_assert_eq!(candidates, []),
            Verdict::Steer(index) => {
                prop_assert!(candidates.contains(&index), "{} of {:?}", index, candidates);
                if own.policy == Policy::LeastLoad {
                    let lowest = candidates.iter().min_by_key(|index| load_at(&table, **index));
                    prop_assert_eq!(Some(&index), lowest);
                }
            }
        }
    }

    #[test]
    fn each_candidate_gets_its_turn(own in any_own(), table in any_table(), random in any_random()) {
        let own = Own { policy: Policy::RoundRobin, ready: false, ..own };
        let mut table = table;
        for peer in table.0.iter_mut().flatten() {
            peer.weight = WHOLE;
        }
        let candidates = candidates(&own, &table);
        // From here on the counter doesn't wrap.
        let first = own.turn / 2;
        let mut taken: Vec<_> = (first..)
            .take(candidates.len())
            .map(|turn| decide(&Own { turn, ..own }, &table, random))
            .collect();
        taken.sort_by_key(|verdict| match verdict {
            Verdict::Steer(index) => *index,
            _ => u32::MAX,
        });
        prop_assert_eq!(taken, candidates.into_iter().map(Verdict::Steer).collect::<Vec<_>>());
    }
}
