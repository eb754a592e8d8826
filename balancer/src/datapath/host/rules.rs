//! The rules for foreign addresses, and their place before the one for table `local`.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{bail, ensure};

use super::{
    change::Change,
    journal::Journal,
    kernel::{FOREIGN_PREFERENCE, Family, Kernel, Rule, UNREACHABLE_PREFERENCE},
};

/// Where the rule for table `local` goes: behind those for foreign addresses.
const LOCAL_PREFERENCE: u32 = 100;

/// Adds the rules for `wanted`, addresses of `family`, and moves the one for table `local` behind them.
pub(super) async fn add(
    journal: &mut Journal,
    kernel: &impl Kernel,
    family: Family,
    wanted: &[IpAddr],
) -> anyhow::Result<()> {
    let there = kernel.rules(family).await?;
    let (first, behind) = local_rules(family, &there)?;
    if !behind {
        // As the kernel's own one: systemd-networkd, when it restarts, deletes rules that are not its own, except for the
        // kernel's, and without a rule for table local the host would be off the network.
        let behind = Rule::Local {
            family,
            preference: LOCAL_PREFERENCE,
            protocol: libc::RTPROT_KERNEL,
        };
        journal.record(Change::RuleAdded(behind))?;
        kernel.add_rule(behind).await?;
    }
    let there: BTreeSet<Rule> = there.into_iter().collect();
    for rule in wanted
        .iter()
        .flat_map(|&address| [Rule::Foreign(address), Rule::Unreachable(address)])
        .filter(|rule| !there.contains(rule))
    {
        journal.record(Change::RuleAdded(rule))?;
        kernel.add_rule(rule).await?;
    }
    if let Some(first) = first {
        journal.record(Change::RuleDeleted(first))?;
        kernel.delete_rule(first).await?;
        let (still, _) = local_rules(family, &kernel.rules(family).await?)?;
        ensure!(
            still.is_none(),
            "the {family} rule 'pref 0 lookup local' is still there, or was put back at once. Until it is gone, traffic of \
             this host for its peers stays here: find out with 'ip {} monitor rule' who adds it",
            family.option()
        );
    }
    Ok(())
}

/// The rule for table `local` at preference 0, if it is among `rules`, and whether there is one behind ours.
fn local_rules(family: Family, rules: &[Rule]) -> anyhow::Result<(Option<Rule>, bool)> {
    let option = family.option();
    let (mut first, mut behind) = (None, false);
    for rule in rules {
        let Rule::Local { preference, .. } = *rule else {
            continue;
        };
        ensure!(
            preference == 0 || preference > UNREACHABLE_PREFERENCE,
            "the {family} rule 'pref {preference} lookup local' comes before those that balancer needs at preferences \
             {FOREIGN_PREFERENCE} and {UNREACHABLE_PREFERENCE}. Move it: 'ip {option} rule add pref {LOCAL_PREFERENCE} \
             lookup local' and then 'ip {option} rule delete pref {preference} lookup local'"
        );
        if preference != 0 {
            behind = true;
        } else if first.replace(*rule).is_some() {
            // The kernel would not take both back.
            bail!(
                "there are several {family} rules 'pref 0 lookup local': delete all but one, each with 'ip {option} rule \
                 delete pref 0 lookup local'"
            );
        }
    }
    Ok((first, behind))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::datapath::host::model::{Model, State};

    const FOREIGN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    #[tokio::test]
    async fn local_rule_too_early_is_refused_and_nothing_changed() {
        let dir = tempfile::tempdir().unwrap();
        let rules = [0, 10]
            .map(|preference| Rule::Local {
                family: Family::V4,
                preference,
                protocol: libc::RTPROT_KERNEL,
            })
            .into();
        let kernel = Model::new(State {
            rules,
            ..State::default()
        });
        let before = kernel.state();
        let mut journal = Journal::open(&dir.path().join("undo")).unwrap();
        let error = add(&mut journal, &kernel, Family::V4, &[FOREIGN])
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("pref 10 lookup local"),
            "{error}"
        );
        assert_eq!(kernel.state(), before);
        assert!(journal.changes().is_empty());
    }

    #[tokio::test]
    async fn a_local_rule_that_stays_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Model::new(State {
            rules: [Rule::Local {
                family: Family::V4,
                preference: 0,
                protocol: libc::RTPROT_BOOT,
            }]
            .into(),
            ..State::default()
        });
        kernel.keep_rules();
        let mut journal = Journal::open(&dir.path().join("undo")).unwrap();
        let error = add(&mut journal, &kernel, Family::V4, &[FOREIGN])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("still there"), "{error}");
    }

    #[test]
    fn several_first_local_rules_are_refused() {
        let rules = [libc::RTPROT_KERNEL, libc::RTPROT_BOOT].map(|protocol| Rule::Local {
            family: Family::V6,
            preference: 0,
            protocol,
        });
        assert!(local_rules(Family::V6, &rules[..1]).is_ok());
        let error = local_rules(Family::V6, &rules).unwrap_err();
        assert!(
            error.to_string().contains("ip -6 rule delete pref 0"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn last_local_rule_is_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let kept = Rule::Local {
            family: Family::V4,
            preference: LOCAL_PREFERENCE,
            protocol: libc::RTPROT_KERNEL,
        };
        // As when putting back the one at preference 0 failed.
        let kernel = Model::new(State {
            rules: [kept].into(),
            ..State::default()
        });
        let mut journal = Journal::open(&path).unwrap();
        journal.record(Change::RuleAdded(kept)).unwrap();
        let error = journal.undo(&kernel).await.unwrap_err();
        assert!(error.to_string().contains("must stay"), "{error}");
        assert!(kernel.state().rules.contains(&kept));
    }
}
