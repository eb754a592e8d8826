//! Directories of what exists only while balancer is in use: the control socket, the undo journal.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The directory of them all, if nothing says otherwise.
pub const DEFAULT: &str = "/run/balancer";

/// The directory of a file that is in use.
///
/// When this is dropped, the directories that it made are removed, if nothing is in them. So is the default one, whoever
/// made it: several use it, and the one that made it may have been killed.
pub struct RunDir {
    /// The outermost first.
    ours: Vec<PathBuf>,
}

impl RunDir {
    /// Makes the directory of `file` where it is missing, readable by all.
    ///
    /// # Errors
    ///
    /// It can't be made; then nothing has been.
    pub fn of(file: &Path) -> Result<Self> {
        let mut made = Self { ours: Vec::new() };
        let Some(dir) = file.parent() else {
            return Ok(made);
        };
        for dir in missing(dir).into_iter().rev() {
            make(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            made.ours.push(dir);
        }
        if dir == Path::new(DEFAULT) && made.ours.is_empty() {
            made.ours.push(dir.to_owned());
        }
        Ok(made)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        for dir in self.ours.iter().rev() {
            // It isn't empty: others have come to use it, or something is to stay.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// `dir` and those above it that aren't there, the innermost first.
pub fn missing(dir: &Path) -> Vec<PathBuf> {
    dir.ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .map(Path::to_owned)
        .collect()
}

fn make(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(dir) {
        // The mode above is subject to the umask.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755)),
        // Another one was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_when_it_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a/b/file");
        let first = RunDir::of(&file).unwrap();
        let mode = fs::metadata(root.path().join("a/b")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o755);
        drop(RunDir::of(&file).unwrap());
        fs::write(&file, "").unwrap();
        drop(first);
        assert!(file.exists(), "not empty");

        fs::remove_file(&file).unwrap();
        drop(RunDir::of(&file).unwrap());
        assert!(root.path().join("a/b").exists(), "somebody else's");
        drop(RunDir::of(&root.path().join("c/d/file")).unwrap());
        assert!(!root.path().join("c").exists());
    }

    #[test]
    fn a_failure_is_named_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a").join("x".repeat(300)).join("file");
        let error = format!("{:#}", RunDir::of(&file).err().unwrap());
        assert!(error.contains("xxx"), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
