//! Who gets how much of many flows: by capacity, wherever in the table a peer stands.

use super::*;

const FLOWS: u32 = 40_000;

/// How many of [`FLOWS`] each peer gets, one turn after another.
fn shares(policy: Policy, table: &Table) -> Vec<u32> {
    let mut shares = vec![0; table.0.len()];
    for flow in 0..FLOWS {
        let own = Own {
            turn: flow,
            ..own(policy, FULL)
        };
        match decide(&own, table, fold(u64::from(flow) + 1)) {
            Verdict::Steer(index) => shares[index as usize] += 1,
            other => panic!("{policy:?}: {other:?}"),
        }
    }
    shares
}

/// Checks that flows are dealt in these proportions, to 3 points.
#[track_caller]
fn assert_shares(policy: Policy, table: &Table, expected: &[u32]) {
    let shares = shares(policy, table);
    let parts: u32 = expected.iter().sum();
    for (share, part) in shares.iter().zip(expected) {
        assert!(
            share.abs_diff(FLOWS / parts * part) <= FLOWS / 33,
            "{policy:?}: {shares:?} of {FLOWS}, expected as {expected:?}"
        );
    }
}

/// The policies that spread flows. Least-load gives equals to the first.
const SPREAD: [Policy; 3] = [Policy::TwoChoices, Policy::BelowLevel, Policy::RoundRobin];

fn sized(weight: u32) -> Option<Candidate> {
    peer(1_000).map(|peer| Candidate { weight, ..peer })
}

#[test]
fn equals_get_equal_shares() {
    for policy in SPREAD {
        for count in [1, 2, 3, 5, 8] {
            assert_shares(policy, &peers(&vec![1_000; count]), &vec![1; count]);
        }
    }
}

#[test]
fn equals_get_equal_shares_whatever_is_between_them() {
    let one = peer(1_000);
    for policy in SPREAD {
        assert_shares(policy, &Table(vec![one, None, one, one]), &[1, 0, 1, 1]);
        assert_shares(policy, &Table(vec![one, one, down(0), one]), &[1, 1, 0, 1]);
        let far = [vec![one, one], vec![None; 60], vec![one]].concat();
        let expected = [vec![1, 1], vec![0; 60], vec![1]].concat();
        assert_shares(policy, &Table(far), &expected);
    }
    // Peers that are no candidates, likewise. (To two-choices they are a choice.)
    for policy in [Policy::BelowLevel, Policy::RoundRobin] {
        let table = peers(&[1_000, 9_000, 1_000, 1_000, 8_000]);
        assert_shares(policy, &table, &[1, 0, 1, 1, 0]);
    }
}

#[test]
fn half_the_capacity_gets_half_as_many() {
    let (whole, half) = (sized(WHOLE), sized(WHOLE / 2));
    for policy in SPREAD {
        assert_shares(policy, &Table(vec![whole, half]), &[2, 1]);
        assert_shares(policy, &Table(vec![half, whole]), &[1, 2]);
        assert_shares(
            policy,
            &Table(vec![whole, half, None, whole]),
            &[2, 1, 0, 2],
        );
        assert_shares(
            policy,
            &Table(vec![whole, half, whole, half, whole, half, whole, half]),
            &[2, 1, 2, 1, 2, 1, 2, 1],
        );
    }
}

#[test]
fn small_peers_share_when_no_large_one_is_ready() {
    let large = sized(WHOLE).map(|peer| Candidate {
        ready: false,
        ..peer
    });
    let (tiny, double) = (sized(50), sized(100));
    for policy in SPREAD {
        assert_shares(
            policy,
            &Table(vec![large, tiny, double, tiny]),
            &[0, 1, 2, 1],
        );
    }
}

#[test]
fn weights_beyond_the_scale_count_as_whole() {
    for policy in SPREAD {
        let table = Table(vec![sized(WHOLE), sized(u32::MAX)]);
        assert_shares(policy, &table, &[1, 1]);
    }
}
