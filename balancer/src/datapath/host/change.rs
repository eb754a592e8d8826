//! One change on the host, and how it is undone.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use nix::{errno::Errno, mount, sys::statfs};
use serde::{Deserialize, Serialize};

use super::{
    journal::Journal,
    kernel::{Kernel, Rule},
};

/// Something that balancer changed, with what is needed to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The sysctl at `path` (under `/proc/sys`) was set to `new`.
    Sysctl {
        /// Its file.
        path: PathBuf,
        /// Its value before.
        old: String,
        /// Its value from then on.
        new: String,
    },
    /// A routing rule was added.
    RuleAdded(Rule),
    /// A routing rule was deleted.
    RuleDeleted(Rule),
    /// An address was added to `lo`, as a /32 or /128.
    AddressAdded(IpAddr),
    /// An identity was added to the interface with this index.
    IdentityAdded {
        /// The interface's index.
        interface: u32,
        /// The address.
        identity: IpNet,
    },
    /// An identity of another server was taken over, and added to the interface with this index, as a /32 or /128.
    IdentityAssumed {
        /// The interface's index.
        interface: u32,
        /// The identity, with the prefix length of its network.
        identity: IpNet,
        /// Id of the server that it belongs to.
        home: u64,
        /// The claim's term.
        term: u64,
    },
    /// A bpffs was mounted on this directory.
    BpffsMounted(PathBuf),
    /// This directory was created. Undone only if it is empty by then: what is to be in it should be recorded after it.
    DirectoryCreated(PathBuf),
    /// A BPF program, map or link was pinned at this path. A link's pin keeps its program attached: its end detaches it.
    Pinned(PathBuf),
}

impl Change {
    /// The identity that came to an interface by it.
    pub(super) fn identity(&self) -> Option<IpAddr> {
        match self {
            Self::IdentityAdded { identity, .. } | Self::IdentityAssumed { identity, .. } => {
                Some(identity.addr())
            }
            _ => None,
        }
    }

    /// Undoes this change. One that was never made, or is gone already, is no error.
    pub(super) async fn undo(&self, kernel: &impl Kernel) -> anyhow::Result<()> {
        match self {
            Self::Sysctl { path, old, new } => restore_sysctl(path, old, new),
            Self::RuleAdded(rule) => delete_rule(kernel, *rule).await,
            Self::RuleDeleted(rule) => kernel.add_rule(*rule).await,
            Self::AddressAdded(address) => kernel.delete_address(*address).await,
            Self::IdentityAdded {
                interface,
                identity,
            } => kernel.delete_identity(*interface, *identity).await,
            Self::IdentityAssumed {
                interface,
                identity,
                ..
            } => {
                let alone = IpNet::from(identity.addr());
                kernel.delete_identity(*interface, alone).await
            }
            Self::BpffsMounted(path) => unmount_bpffs(path),
            Self::DirectoryCreated(path) => gone_is_fine(fs::remove_dir(path))
                .with_context(|| format!("cannot remove directory {}", path.display())),
            Self::Pinned(path) => gone_is_fine(fs::remove_file(path))
                .with_context(|| format!("cannot remove pin {}", path.display())),
        }
    }
}

/// Sets the sysctl at `path` to the first value of `sufficient`, recorded in `journal`, unless its value is among them.
pub(super) fn set_sysctl(
    journal: &mut Journal,
    path: &Path,
    sufficient: &[&str],
) -> anyhow::Result<()> {
    let old = read_sysctl(path).with_context(|| format!("cannot read {}", path.display()))?;
    if sufficient.contains(&old.as_str()) {
        return Ok(());
    }
    let new = sufficient[0].to_owned();
    journal.record(Change::Sysctl {
        path: path.to_owned(),
        old,
        new: new.clone(),
    })?;
    fs::write(path, &new).with_context(|| format!("cannot set {} to {new}", path.display()))
}

/// Restores a sysctl, unless its value is no longer the one we gave it: then it is somebody else's decision.
fn restore_sysctl(path: &Path, old: &str, new: &str) -> anyhow::Result<()> {
    let restore = || {
        if read_sysctl(path)? == new {
            fs::write(path, old)
        } else {
            Ok(())
        }
    };
    gone_is_fine(restore()).with_context(|| format!("cannot set {} back to {old}", path.display()))
}

fn read_sysctl(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|value| value.trim_end().to_owned())
}

/// Deletes a rule that we added, but never the last one by which the host knows its own addresses.
async fn delete_rule(kernel: &impl Kernel, rule: Rule) -> anyhow::Result<()> {
    if let Rule::Local {
        family, preference, ..
    } = rule
    {
        let rules = kernel.rules(family).await?;
        ensure!(
            !rules.contains(&rule)
                || rules
                    .iter()
                    .any(|other| matches!(other, Rule::Local { .. }) && *other != rule),
            "the rule for table local at preference {preference} ({family}) must stay: there is no other. \
             Add one with 'ip {} rule add pref 0 lookup local'",
            family.option()
        );
    }
    kernel.delete_rule(rule).await
}

fn unmount_bpffs(path: &Path) -> anyhow::Result<()> {
    // Pins of other programs vanish with the mount they are in, and those programs with their pins. So a bpffs that has
    // come into use by others stays.
    match statfs::statfs(path) {
        Ok(found) if found.filesystem_type() == statfs::BPF_FS_MAGIC => {}
        Ok(_) | Err(Errno::ENOENT) => return Ok(()),
        Err(error) => bail!("cannot examine {}: {error}", path.display()),
    }
    if pins_in(path).with_context(|| format!("cannot read {}", path.display()))? {
        log::warn!(
            "{} stays mounted: other programs have pins in it",
            path.display()
        );
        return Ok(());
    }
    match mount::umount(path) {
        // EINVAL: no mount point, but a directory in a bpffs of others.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => bail!("cannot unmount the bpffs on {}: {error}", path.display()),
    }
}

fn pins_in(bpffs: &Path) -> io::Result<bool> {
    // The kernel itself pins these two in every bpffs where it is built with CONFIG_BPF_PRELOAD.
    const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];
    for entry in fs::read_dir(bpffs)? {
        if !PRELOADED
            .iter()
            .any(|name| entry.as_ref().is_ok_and(|entry| entry.file_name() == *name))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Success, too, where there was nothing left to do it to, or never could be: a path may lead through a file.
pub(super) fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::host::model::Model;

    #[tokio::test]
    async fn files_and_directories_are_undone_once_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("pins");
        let pin = pins.join("link");
        fs::create_dir(&pins).unwrap();
        fs::write(&pin, "").unwrap();
        let kernel = Model::default();

        let directory = Change::DirectoryCreated(pins.clone());
        let error = directory.undo(&kernel).await.unwrap_err();
        assert!(format!("{error:#}").contains("pins"), "{error:#}");
        for change in [
            Change::Pinned(pin),
            directory,
            Change::BpffsMounted(dir.path().to_owned()),
        ] {
            change.undo(&kernel).await.unwrap();
            change.undo(&kernel).await.unwrap();
        }
        assert!(!pins.exists());
    }

    #[tokio::test]
    async fn sysctl_of_somebody_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arp_ignore");
        let mut journal = Journal::open(&dir.path().join("undo")).unwrap();
        fs::write(&path, "0\n").unwrap();
        set_sysctl(&mut journal, &path, &["1", "2"]).unwrap();
        assert_eq!(read_sysctl(&path).unwrap(), "1");
        fs::write(&path, "2\n").unwrap();
        set_sysctl(&mut journal, &path, &["1", "2"]).unwrap();
        journal.undo(&Model::default()).await.unwrap();
        assert_eq!(read_sysctl(&path).unwrap(), "2");

        let missing = set_sysctl(
            &mut Journal::open(&dir.path().join("undo")).unwrap(),
            &dir.path().join("no"),
            &["1"],
        );
        assert!(format!("{:#}", missing.unwrap_err()).contains("/no"));
    }
}
