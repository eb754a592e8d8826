//! A write-ahead journal of the changes on the host, so that a daemon killed at any point leaks none of them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    change::{Change, gone_is_fine},
    kernel::Kernel,
    lock::Lock,
};
use crate::{datapath::netns, run_dir::RunDir};

const VERSION: u32 = 1;

/// The changes made, oldest first, and the file that holds them. There is no file before the first change.
pub(super) struct Journal {
    path: PathBuf,
    contents: Contents,
    // In this order: the lock's file is in the directory.
    _lock: Lock,
    _directory: RunDir,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// Cookie of the network namespace that the changes were made in.
    netns: u64,
    changes: Vec<Change>,
}

impl Journal {
    /// Reads the journal at `path`, which may not exist, and keeps others from using it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let netns = netns::cookie()?;
        let directory = RunDir::of(path)?;
        let lock = Lock::take(path.with_added_extension("lock"))?;
        let contents = read(path).with_context(|| {
            format!(
                "the undo journal {} is unusable. It lists what balancer changed on this host: undo by hand what you \
                 can read there ('ip rule', 'ip address show dev lo' and sysctls show what is left), then delete it",
                path.display()
            )
        })?;
        let contents = contents.unwrap_or_else(|| Contents {
            version: VERSION,
            netns,
            changes: Vec::new(),
        });
        ensure!(
            contents.netns == netns,
            "balancer was attached in another network namespace: run this in that one, as in 'nsenter --net=/run/netns/NAME \
             balancer ...'. If it is gone, its addresses and rules are gone with it: then delete the undo journal {} and \
             the pins that it lists",
            path.display()
        );
        Ok(Self {
            path: path.to_owned(),
            contents,
            _lock: lock,
            _directory: directory,
        })
    }

    /// The changes recorded and not undone, oldest first.
    pub(super) fn changes(&self) -> &[Change] {
        &self.contents.changes
    }

    /// Records `change`, which is about to be made. Once this returned it survives a crash. A change recorded already keeps
    /// its place: it was adopted from a crash, or somebody undid it and it is made again.
    pub(super) fn record(&mut self, change: Change) -> anyhow::Result<()> {
        if self.contents.changes.contains(&change) {
            return Ok(());
        }
        self.contents.changes.push(change);
        let saved = self.save();
        if saved.is_err() {
            self.contents.changes.pop();
        }
        saved
    }

    /// Forgets `change`, which has been undone. One that the file could not be rid of stays here as well: it is undone once more,
    /// which does no harm.
    pub(super) fn forget(&mut self, change: &Change) -> anyhow::Result<()> {
        let before = self.contents.changes.clone();
        self.contents.changes.retain(|recorded| recorded != change);
        let saved = self.save();
        if saved.is_err() {
            self.contents.changes = before;
        }
        saved
    }

    /// Undoes all changes, the last one first, and removes the journal, unless some could not be undone: it keeps those.
    pub(super) async fn undo(mut self, kernel: &impl Kernel) -> anyhow::Result<()> {
        let mut kept = Vec::new();
        let mut failures = Vec::new();
        for change in self.contents.changes.iter().rev() {
            if let Err(error) = change.undo(kernel).await {
                failures.push(format!("\n  {error:#}"));
                kept.insert(0, change.clone());
            }
        }
        if failures.is_empty() {
            return self.remove();
        }
        self.contents.changes = kept;
        self.save()?;
        bail!(
            "{} of the changes on this host could not be undone. They stay in {}, for another 'balancer detach':{}",
            failures.len(),
            self.path.display(),
            failures.concat()
        )
    }

    /// Writes a file beside the journal and renames it, so that a crash leaves the old contents or the new. It doesn't wait
    /// for a disk, which may take longer than a takeover: when the whole host goes down, what it lists is gone as well.
    fn save(&mut self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.contents)?;
        let draft = self.draft();
        let write = || {
            gone_is_fine(fs::remove_file(&draft))?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(&text)?;
            fs::rename(&draft, &self.path)
        };
        write().with_context(|| format!("cannot write the undo journal {}", self.path.display()))
    }

    fn remove(self) -> anyhow::Result<()> {
        for file in [&self.draft(), &self.path] {
            gone_is_fine(fs::remove_file(file))
                .with_context(|| format!("cannot remove {}", file.display()))?;
        }
        Ok(())
    }

    fn draft(&self) -> PathBuf {
        self.path.with_added_extension("new")
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Contents>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Root undoes what it says, so nobody else may have written it.
    let metadata = fs::metadata(path)?;
    ensure!(
        metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0,
        "user {} owns it, with mode {:o}: somebody else could have written it",
        metadata.uid(),
        metadata.mode() & 0o777
    );
    let contents: Contents = serde_json::from_slice(&text)?;
    ensure!(
        contents.version == VERSION,
        "its version is {}, this balancer knows {VERSION}",
        contents.version
    );
    Ok(Some(contents))
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::datapath::host::model::Model;

    fn pin(name: &str) -> Change {
        Change::Pinned(PathBuf::from("/nonexistent").join(name))
    }

    #[tokio::test]
    async fn changes_survive_and_the_end_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.undo");
        let mut journal = Journal::open(&path).unwrap();
        assert!(!path.exists(), "opening changes nothing");
        for name in ["a", "b", "a", "c"] {
            journal.record(pin(name)).unwrap();
        }
        journal.forget(&pin("b")).unwrap();
        drop(journal);

        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.changes(), [pin("a"), pin("c")]);
        journal.undo(&Model::default()).await.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_undone_is_reported_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.undo");
        let full = ["x", "y"].map(|name| dir.path().join(name));
        for directory in &full {
            fs::create_dir_all(directory.join("inside")).unwrap();
        }
        let made = dir.path().join("made");
        fs::create_dir(&made).unwrap();

        let mut journal = Journal::open(&path).unwrap();
        for directory in [&full[0], &made, &full[1]] {
            journal
                .record(Change::DirectoryCreated(directory.clone()))
                .unwrap();
        }
        let error = journal
            .undo(&Model::default())
            .await
            .unwrap_err()
            .to_string();
        for directory in &full {
            assert!(error.contains(directory.to_str().unwrap()), "{error}");
        }
        assert!(!made.exists());

        let journal = Journal::open(&path).unwrap();
        assert_eq!(
            journal.changes(),
            full.clone().map(Change::DirectoryCreated)
        );
        for directory in &full {
            fs::remove_dir(directory.join("inside")).unwrap();
        }
        journal.undo(&Model::default()).await.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn it_is_for_one_user_in_one_network_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.undo");
        let mut journal = Journal::open(&path).unwrap();
        let second = Journal::open(&path).err().unwrap().to_string();
        assert!(second.contains("another balancer"), "{second}");
        journal.record(pin("a")).unwrap();
        drop(journal);

        let text = fs::read_to_string(&path).unwrap();
        let netns = format!("\"netns\": {}", netns::cookie().unwrap());
        assert!(text.contains(&netns), "{text}");
        fs::write(&path, text.replace(&netns, "\"netns\": 99999999")).unwrap();
        let elsewhere = Journal::open(&path).err().unwrap().to_string();
        assert!(elsewhere.contains("nsenter --net="), "{elsewhere}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no lock left");
    }

    #[test]
    fn unusable_journals_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.undo");
        let good = format!(
            r#"{{"version": 1, "netns": {}, "changes": []}}"#,
            netns::cookie().unwrap()
        );
        let cases = [
            ("", 0o600, "EOF"),
            (
                "{\"version\": 1,\n \"changes\": [{\"no\": 1}]}",
                0o600,
                "line 2",
            ),
            (
                r#"{"version": 7, "netns": 1, "changes": []}"#,
                0o600,
                "version is 7",
            ),
            (&good, 0o666, "mode 666"),
        ];
        for (text, mode, reason) in cases {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = format!("{:#}", Journal::open(&path).err().unwrap());
            assert!(
                error.contains("one.undo") && error.contains("delete it") && error.contains(reason),
                "{error}"
            );
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(Journal::open(&path).is_ok());
    }
}
