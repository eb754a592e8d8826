//! Foreign addresses: on `lo`, so that what is steered here is delivered here, yet out of the way of our own traffic.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::ensure;

use super::{
    change::Change,
    journal::Journal,
    kernel::{FOREIGN_PREFERENCE, Family, Kernel, Rule},
};

/// Where the rule for table `local` goes: behind those for foreign addresses.
const LOCAL_PREFERENCE: u32 = 100;

/// Makes `wanted` the set of foreign addresses.
///
/// At every moment, a foreign address that is on `lo` has its rule before the one for table `local`, so that our own
/// traffic for it leaves for its owner; and there is always a rule for table `local`. Hence the order: rules before
/// addresses when they come, addresses before rules when they go. (A rule without its address does no harm: it finds the
/// way that traffic takes without it.) [`Journal::undo`] keeps this, as it goes back step by step.
pub(super) async fn converge(
    journal: &mut Journal,
    kernel: &impl Kernel,
    wanted: &BTreeSet<IpAddr>,
) -> anyhow::Result<()> {
    remove_others(journal, kernel, wanted).await?;
    for family in [Family::V4, Family::V6] {
        let wanted: Vec<IpAddr> = wanted
            .iter()
            .copied()
            .filter(|address| Family::of(*address) == family)
            .collect();
        if !wanted.is_empty() {
            add_rules(journal, kernel, family, &wanted).await?;
        }
    }
    if !wanted.is_empty() {
        let there = kernel.addresses().await?;
        for &address in wanted.difference(&there) {
            journal.record(Change::AddressAdded(address))?;
            kernel.add_address(address).await?;
        }
    }
    Ok(())
}

async fn remove_others(
    journal: &mut Journal,
    kernel: &impl Kernel,
    wanted: &BTreeSet<IpAddr>,
) -> anyhow::Result<()> {
    let unwanted = |change: &Change| match change {
        Change::AddressAdded(address) | Change::RuleAdded(Rule::Foreign(address)) => {
            !wanted.contains(address)
        }
        _ => false,
    };
    let mut gone: Vec<Change> = journal
        .changes()
        .iter()
        .filter(|change| unwanted(change))
        .cloned()
        .collect();
    gone.sort_by_key(|change| !matches!(change, Change::AddressAdded(_)));
    for change in gone {
        change.undo(kernel).await?;
        journal.forget(&change)?;
    }
    Ok(())
}

/// Adds the rules for `wanted`, addresses of `family`, and moves the one for table `local` behind them.
async fn add_rules(
    journal: &mut Journal,
    kernel: &impl Kernel,
    family: Family,
    wanted: &[IpAddr],
) -> anyhow::Result<()> {
    let there = kernel.rules(family).await?;
    let first = Rule::Local {
        family,
        preference: 0,
    };
    let behind = Rule::Local {
        family,
        preference: LOCAL_PREFERENCE,
    };
    let mut is_behind = false;
    for rule in &there {
        if let Rule::Local { preference, .. } = *rule {
            ensure!(
                preference == 0 || preference > FOREIGN_PREFERENCE,
                "the {family} rule 'pref {preference} lookup local' comes before preference {FOREIGN_PREFERENCE}, where \
                 balancer needs its own. Move it: 'ip {option} rule add pref {LOCAL_PREFERENCE} lookup local' and then \
                 'ip {option} rule delete pref {preference} lookup local'",
                option = family.option()
            );
            is_behind |= preference != 0;
        }
    }

    if !is_behind {
        journal.record(Change::RuleAdded(behind))?;
        kernel.add_rule(behind).await?;
    }
    for rule in wanted
        .iter()
        .map(|address| Rule::Foreign(*address))
        .filter(|rule| !there.contains(rule))
    {
        journal.record(Change::RuleAdded(rule))?;
        kernel.add_rule(rule).await?;
    }
    if there.contains(&first) {
        journal.record(Change::RuleDeleted(first))?;
        kernel.delete_rule(first).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::{collection::vec, prelude::*, sample::subsequence};

    use super::*;
    use crate::datapath::host::model::{Crash, Model, State};

    const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"];

    fn addresses() -> impl Strategy<Value = BTreeSet<IpAddr>> {
        subsequence(ADDRESSES.to_vec(), 0..=ADDRESSES.len()).prop_map(|some| {
            some.into_iter()
                .map(|address| address.parse().unwrap())
                .collect()
        })
    }

    /// Hosts as we may find them: the rule for table `local` where the kernel puts it, moved, or in both places, and some
    /// of the addresses and rules there already.
    fn hosts() -> impl Strategy<Value = State> {
        let local = prop_oneof![
            Just(vec![0]),
            Just(vec![100]),
            Just(vec![0, 100]),
            Just(vec![0, 200])
        ];
        (local, addresses(), addresses()).prop_map(|(preferences, on_lo, with_rule)| {
            let mut rules: BTreeSet<Rule> = with_rule.into_iter().map(Rule::Foreign).collect();
            for family in [Family::V4, Family::V6] {
                rules.extend(
                    preferences
                        .iter()
                        .map(|&preference| Rule::Local { family, preference }),
                );
            }
            State {
                rules,
                addresses: on_lo,
                ..State::default()
            }
        })
    }

    fn crash() -> impl Strategy<Value = Crash> {
        (0..24_usize, any::<bool>()).prop_map(|(calls, applied)| Crash { calls, applied })
    }

    /// A daemon's life: adopts what is there, converges to each set in turn. `false` if it crashed.
    async fn live(path: &Path, kernel: &Model, sets: &[BTreeSet<IpAddr>]) -> bool {
        let mut journal = Journal::open(path).unwrap();
        for wanted in sets {
            if converge(&mut journal, kernel, wanted).await.is_err() {
                return false;
            }
            assert!(kernel.state().addresses.is_superset(wanted));
        }
        true
    }

    async fn crashes_are_undone(
        host: State,
        sets: &[BTreeSet<IpAddr>],
        first: Crash,
        second: Crash,
        adopt: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let kernel = Model::new(host.clone());

        kernel.crash_after(first);
        live(&path, &kernel, sets).await;
        kernel.survive();
        if adopt {
            let mut reversed = sets.to_vec();
            reversed.reverse();
            assert!(live(&path, &kernel, &reversed).await);
        }
        // Killed while it undoes: nothing of that reaches the journal.
        let before = fs::read(&path).ok();
        kernel.crash_after(second);
        let _ = Journal::open(&path).unwrap().undo(&kernel).await;
        kernel.survive();
        if let Some(before) = before {
            fs::write(&path, before).unwrap();
        }
        Journal::open(&path).unwrap().undo(&kernel).await.unwrap();
        assert_eq!(kernel.state(), host);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    fn run(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future);
    }

    proptest! {
        #[test]
        fn any_crash_is_undone(
            host in hosts(),
            sets in vec(addresses(), 1..4),
            first in crash(),
            second in crash(),
            adopt: bool,
        ) {
            run(crashes_are_undone(host, &sets, first, second, adopt));
        }
    }

    #[test]
    fn local_rule_too_early_is_refused_and_nothing_changed() {
        let dir = tempfile::tempdir().unwrap();
        let rules = [0, 10]
            .map(|preference| Rule::Local {
                family: Family::V4,
                preference,
            })
            .into();
        let kernel = Model::new(State {
            rules,
            addresses: BTreeSet::new(),
            ..State::default()
        });
        let before = kernel.state();
        let mut journal = Journal::open(&dir.path().join("undo")).unwrap();
        run(async {
            let error = converge(
                &mut journal,
                &kernel,
                &[ADDRESSES[0].parse().unwrap()].into(),
            )
            .await
            .unwrap_err();
            assert!(
                error.to_string().contains("pref 10 lookup local"),
                "{error}"
            );
        });
        assert_eq!(kernel.state(), before);
        assert!(journal.changes().is_empty());
    }

    #[test]
    fn last_local_rule_is_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let kept = Rule::Local {
            family: Family::V4,
            preference: LOCAL_PREFERENCE,
        };
        // As when putting back the one at preference 0 failed.
        let kernel = Model::new(State {
            rules: [kept].into(),
            addresses: BTreeSet::new(),
            ..State::default()
        });
        let mut journal = Journal::open(&path).unwrap();
        journal.record(Change::RuleAdded(kept)).unwrap();
        run(async {
            let error = journal.undo(&kernel).await.unwrap_err();
            assert!(error.to_string().contains("must stay"), "{error}");
        });
        assert!(kernel.state().rules.contains(&kept));
    }
}
