//! Foreign addresses: on `lo`, so that what is steered here is delivered here, yet out of the way of our own traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    change::Change,
    journal::Journal,
    kernel::{Family, Kernel, LOOPBACK, Rule},
    rules,
};

/// Makes `wanted` the set of foreign addresses, except for those that this host has itself: what a peer says must not cut
/// it off from them. Returns these, with the indexes of their interfaces.
///
/// At every moment, a foreign address that is on `lo` has its rules before the one for table `local`, so that our own
/// traffic for it leaves for its owner, or, without a way to it, fails; and there is always a rule for table `local`.
/// Hence the order: rules before addresses when they come, addresses before rules when they go. (Rules without their
/// address do no harm: they find the way that traffic takes without them.) [`Journal::undo`] keeps this, as it goes back
/// step by step.
pub(super) async fn converge(
    journal: &mut Journal,
    kernel: &impl Kernel,
    wanted: &BTreeSet<IpAddr>,
) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
    let there = kernel.addresses().await?;
    let mut own = own_addresses(journal, &there);
    own.retain(|address, _| wanted.contains(address));
    let wanted: BTreeSet<IpAddr> = wanted
        .iter()
        .copied()
        .filter(|address| !own.contains_key(address))
        .collect();
    remove_others(journal, kernel, &wanted).await?;
    for family in [Family::V4, Family::V6] {
        let wanted: Vec<IpAddr> = wanted
            .iter()
            .copied()
            .filter(|address| Family::of(*address) == family)
            .collect();
        if !wanted.is_empty() {
            rules::add(journal, kernel, family, &wanted).await?;
        }
    }
    for address in wanted {
        if !there.contains(&(address, LOOPBACK)) {
            journal.record(Change::AddressAdded(address))?;
            kernel.add_address(address).await?;
        }
    }
    Ok(own)
}

/// Those of the addresses that are `there` which we did not add.
fn own_addresses(journal: &Journal, there: &BTreeSet<(IpAddr, u32)>) -> BTreeMap<IpAddr, u32> {
    let added: BTreeSet<(IpAddr, u32)> = journal
        .changes()
        .iter()
        .filter_map(|change| match change {
            Change::AddressAdded(address) => Some((*address, LOOPBACK)),
            _ => None,
        })
        .collect();
    there.difference(&added).copied().collect()
}

async fn remove_others(
    journal: &mut Journal,
    kernel: &impl Kernel,
    wanted: &BTreeSet<IpAddr>,
) -> anyhow::Result<()> {
    let unwanted = |change: &Change| match change {
        Change::AddressAdded(address)
        | Change::RuleAdded(Rule::Foreign(address) | Rule::Unreachable(address)) => {
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
    gone.sort_by_key(|change| match change {
        Change::AddressAdded(_) => 0,
        Change::RuleAdded(Rule::Unreachable(_)) => 1,
        _ => 2,
    });
    for change in gone {
        change.undo(kernel).await?;
        journal.forget(&change)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::{collection::vec, prelude::*, sample::subsequence};

    use super::*;
    use crate::datapath::host::model::{CARD, Crash, Model, State};

    const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"];

    fn addresses() -> impl Strategy<Value = BTreeSet<IpAddr>> {
        subsequence(ADDRESSES.to_vec(), 0..=ADDRESSES.len()).prop_map(|some| {
            some.into_iter()
                .map(|address| address.parse().unwrap())
                .collect()
        })
    }

    /// Hosts as we may find them: the rule for table `local` where the kernel puts it, moved, or in both places, made by the
    /// kernel or by others, and some of the addresses and rules there already.
    fn hosts() -> impl Strategy<Value = State> {
        let local = prop_oneof![
            Just(vec![0]),
            Just(vec![100]),
            Just(vec![0, 100]),
            Just(vec![0, 200])
        ];
        let protocol = prop_oneof![Just(libc::RTPROT_KERNEL), Just(libc::RTPROT_STATIC)];
        (local, protocol, addresses(), addresses(), addresses()).prop_map(
            |(preferences, protocol, on_lo, on_card, with_rule)| {
                let mut rules: BTreeSet<Rule> = with_rule.into_iter().map(Rule::Foreign).collect();
                for family in [Family::V4, Family::V6] {
                    rules.extend(preferences.iter().map(|&preference| Rule::Local {
                        family,
                        preference,
                        protocol,
                    }));
                }
                State {
                    rules,
                    addresses: on_lo,
                    card: on_card,
                    ..State::default()
                }
            },
        )
    }

    fn crash() -> impl Strategy<Value = Crash> {
        (0..24_usize, any::<bool>()).prop_map(|(calls, applied)| Crash { calls, applied })
    }

    /// A daemon's life: adopts what is there, converges to each set in turn. `false` if it crashed.
    async fn live(path: &Path, kernel: &Model, sets: &[BTreeSet<IpAddr>]) -> bool {
        let mut journal = Journal::open(path).unwrap();
        for wanted in sets {
            let Ok(own) = converge(&mut journal, kernel, wanted).await else {
                return false;
            };
            let state = kernel.state();
            for address in wanted {
                let is_there = state.addresses.contains(address);
                assert!(is_there || own.contains_key(address), "{state:?}");
            }
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
    fn an_address_that_this_host_gets_is_foreign_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&dir.path().join("undo")).unwrap();
        let address: IpAddr = ADDRESSES[0].parse().unwrap();
        let kernel = Model::new(State {
            rules: [Rule::Local {
                family: Family::V4,
                preference: 0,
                protocol: libc::RTPROT_KERNEL,
            }]
            .into(),
            ..State::default()
        });
        run(async {
            let wanted = [address].into();
            let own = converge(&mut journal, &kernel, &wanted).await.unwrap();
            assert_eq!(own, BTreeMap::new());
            kernel.give_card(address);
            let own = converge(&mut journal, &kernel, &wanted).await.unwrap();
            assert_eq!(own, [(address, CARD)].into());
        });
        let State {
            rules, addresses, ..
        } = kernel.state();
        assert_eq!(addresses, BTreeSet::new());
        assert!(
            rules.iter().all(|rule| matches!(rule, Rule::Local { .. })),
            "{rules:?}"
        );
    }
}
