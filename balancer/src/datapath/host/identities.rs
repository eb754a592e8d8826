//! Identities on this host's interfaces, its own and those that it takes over.

use anyhow::bail;
use ipnet::IpNet;

use super::{change::Change, journal::Journal, kernel::Kernel};

/// Makes `identity` an address of the interface, unless it is one.
pub(super) async fn add(
    journal: &mut Journal,
    kernel: &impl Kernel,
    interface: u32,
    identity: IpNet,
) -> anyhow::Result<()> {
    if kernel.has_identity(interface, identity).await? {
        return Ok(());
    }
    journal.record(Change::IdentityAdded {
        interface,
        identity,
    })?;
    kernel.add_identity(interface, identity).await
}

/// Takes an identity over. One that can't be added isn't in the journal after that: the next daemon would think that it has it.
pub(super) async fn assume(
    journal: &mut Journal,
    kernel: &impl Kernel,
    assumed: Change,
) -> anyhow::Result<()> {
    let Change::IdentityAssumed {
        interface,
        identity,
        ..
    } = assumed
    else {
        return Ok(());
    };
    journal.record(assumed.clone())?;
    let added = kernel.add_assumed(interface, identity.addr()).await;
    if added.is_err() {
        // The kernel may have done it all the same.
        undo(journal, kernel, |change| *change == assumed).await?;
    }
    added
}

/// Forgets identities that were taken over, and that their interfaces haven't: somebody removed them, or the daemon was killed before
/// they were added.
pub(super) async fn forget_lost(journal: &mut Journal, kernel: &impl Kernel) -> anyhow::Result<()> {
    let there = kernel.addresses().await?;
    let lost = |change: &Change| match change {
        Change::IdentityAssumed {
            interface,
            identity,
            ..
        } => !there.contains(&(identity.addr(), *interface)),
        _ => false,
    };
    undo(journal, kernel, lost).await
}

/// Undoes some changes, the last one first. One that can't be undone keeps no other from that; it stays in the journal.
pub(super) async fn undo(
    journal: &mut Journal,
    kernel: &impl Kernel,
    of: impl Fn(&Change) -> bool,
) -> anyhow::Result<()> {
    let changes: Vec<_> = journal
        .changes()
        .iter()
        .filter(|change| of(change))
        .cloned()
        .collect();
    let mut failures = Vec::new();
    for change in changes.iter().rev() {
        let undone = match change.undo(kernel).await {
            Ok(()) => journal.forget(change),
            failed => failed,
        };
        if let Err(error) = undone {
            failures.push(format!("{error:#}"));
        }
    }
    if !failures.is_empty() {
        bail!(failures.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::host::model::{CARD, Model};

    fn assumed(identity: &str) -> Change {
        Change::IdentityAssumed {
            interface: CARD,
            identity: identity.parse().unwrap(),
            home: 7,
            term: 2,
        }
    }

    #[tokio::test]
    async fn what_could_not_be_added_is_not_held_by_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&dir.path().join("undo")).unwrap();
        let kernel = Model::default();
        let (one, two) = (assumed("10.0.0.1/24"), assumed("2001:db8::1/64"));
        assume(&mut journal, &kernel, one.clone()).await.unwrap();
        kernel.refuse_identities();
        let refused = assume(&mut journal, &kernel, two).await.unwrap_err();
        assert_eq!(refused.to_string(), "no buffer space");
        assert_eq!(journal.changes(), [one]);
    }

    #[tokio::test]
    async fn what_cannot_be_removed_keeps_no_other_and_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo");
        let mut journal = Journal::open(&path).unwrap();
        let kernel = Model::default();
        let all = ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24"].map(assumed);
        for one in all.clone() {
            assume(&mut journal, &kernel, one).await.unwrap();
        }
        kernel.keep_identity("10.0.0.2".parse().unwrap());
        let refused = undo(&mut journal, &kernel, |_| true).await.unwrap_err();
        assert_eq!(refused.to_string(), "10.0.0.2 stays");
        assert_eq!(journal.changes(), &all[1..2]);

        // Removed or not, what the file goes on to name is tried again.
        std::fs::create_dir(path.with_added_extension("new")).unwrap();
        for _ in 0..2 {
            undo(&mut journal, &kernel, |_| true).await.unwrap_err();
            assert_eq!(journal.changes(), &all[1..2]);
        }
    }

    #[tokio::test]
    async fn what_is_not_there_any_more_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&dir.path().join("undo")).unwrap();
        let kernel = Model::default();
        let there = assumed("10.0.0.1/24");
        let own = Change::IdentityAdded {
            interface: CARD,
            identity: "10.0.0.3/24".parse().unwrap(),
        };
        assume(&mut journal, &kernel, there.clone()).await.unwrap();
        journal.record(own.clone()).unwrap();
        // The daemon was killed before it was added.
        journal.record(assumed("10.0.0.2/24")).unwrap();
        forget_lost(&mut journal, &kernel).await.unwrap();
        assert_eq!(journal.changes(), [there, own.clone()]);
        kernel.lose_identities();
        forget_lost(&mut journal, &kernel).await.unwrap();
        assert_eq!(journal.changes(), [own]);
    }
}
