//! One user at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// An exclusive lock (flock(2)) on a file that exists while it is held. It ends with the process, however that ends; then
/// the file stays, and does no harm.
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock on the file at `path`, which is made if it is missing.
    pub(super) fn take(path: PathBuf) -> anyhow::Result<Self> {
        loop {
            match lock(&path) {
                Ok(Some(file)) => return Ok(Self { path, _file: file }),
                // Its holder was about to remove it.
                Ok(None) => {}
                Err(TryLockError::WouldBlock) => {
                    bail!(
                        "another balancer uses it, and has locked {}",
                        path.display()
                    )
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked: who opened it meanwhile finds that it is gone, and makes another.
        let _ = fs::remove_file(&self.path);
    }
}

/// The file at `path`, locked. `None` if it is no longer the one at `path`.
fn lock(path: &Path) -> Result<Option<File>, TryLockError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(TryLockError::Error)?;
    file.try_lock()?;
    let id = |file: fs::Metadata| (file.dev(), file.ino());
    let locked = file.metadata().map(id).map_err(TryLockError::Error)?;
    match fs::metadata(path).map(id) {
        Ok(there) => Ok((there == locked).then_some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TryLockError::Error(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn one_holds_it_and_the_file_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        fs::write(&path, "").unwrap(); // as after a kill
        let held = Lock::take(path.clone()).unwrap();
        let error = Lock::take(path.clone()).err().unwrap().to_string();
        assert!(error.contains("another balancer"), "{error}");
        drop(held);
        assert!(!path.exists());
        drop(Lock::take(path).unwrap());
    }

    #[test]
    fn no_two_hold_it_while_it_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let holders = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if let Ok(lock) = Lock::take(path.clone()) {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
    }
}
