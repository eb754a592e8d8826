//! The cluster key: 256 random bits in a file that only its owner may read.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

const LENGTH: usize = 32;
const DIGITS: usize = 2 * LENGTH;

/// A cluster key. Overwritten when dropped, and not printed.
pub struct Key(Zeroizing<[u8; LENGTH]>);

/// Why there is no key. Nothing of a file's content is ever part of it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error(
        "there is no key file {}: make one with `balancer keygen {}` on one server, and copy it to the others",
        .0.display(), .0.display()
    )]
    Missing(PathBuf),
    /// The file can't be opened or read.
    #[error("can't read the key file {}: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others than its owner may read or write the file.
    #[error(
        "the key file {} has mode {mode:04o}, others than its owner may use it: run `chmod 600 {}`, and if somebody may \
         have read it, make a new key",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than a key.
    #[error(
        "{} holds no key: a key file is one line of {DIGITS} characters, 0 to 9 and a to f, as `balancer keygen` writes it",
        .0.display()
    )]
    Malformed(PathBuf),
    /// `keygen` replaces no file: the servers that use the key in it would be cut off.
    #[error("{} exists already: name another file, or remove it if no server uses that key", .0.display())]
    Exists(PathBuf),
    /// The file or its directory can't be made.
    #[error("can't write the key file {}: {error}", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl Key {
    /// Reads the key in the file at `path`.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(path.into()),
            _ => KeyError::Unreadable {
                path: path.into(),
                error,
            },
        };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed {
                path: path.into(),
                mode,
            });
        }
        // Room for a line end after the digits, and for one byte that is too much. All of it is there from the start,
        // as a buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(DIGITS + 3));
        file.take(DIGITS as u64 + 3)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        Self::parse(&text).ok_or_else(|| KeyError::Malformed(path.into()))
    }

    /// Makes a new key and the file at `path` for it, readable by its owner alone, with the directories it needs.
    pub fn generate_file(path: &Path) -> Result<Self, KeyError> {
        let unwritable = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.into()),
            _ => KeyError::Unwritable {
                path: path.into(),
                error,
            },
        };
        let mut key = Self(Zeroizing::default());
        getrandom::fill(&mut *key.0).map_err(|error| unwritable(error.into()))?;

        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(|error| KeyError::Unwritable {
                path: path.into(),
                error,
            })?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(unwritable)?;
        let written = file.write_all(&*key.line()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a key is none, and would be in the way of the next try. If it can't be removed either, the error that
            // is told is the one that came first.
            let _ = std::fs::remove_file(path);
            return Err(unwritable(error));
        }
        Ok(key)
    }

    /// The key's bytes.
    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_suffix(b"\n").unwrap_or(text);
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        if digits.len() != DIGITS {
            return None;
        }
        let mut key = Self(Zeroizing::default());
        for (byte, pair) in key.0.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
        }
        Some(key)
    }

    fn line(&self) -> Zeroizing<[u8; DIGITS + 1]> {
        let mut line = Zeroizing::new([b'\n'; DIGITS + 1]);
        for (pair, byte) in line.chunks_exact_mut(2).zip(self.0.iter()) {
            pair[0] = hex_digit(byte >> 4);
            pair[1] = hex_digit(byte & 15);
        }
        line
    }
}

impl From<[u8; LENGTH]> for Key {
    fn from(mut bytes: [u8; LENGTH]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(not shown)")
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value & 15)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn what_was_generated_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etc/balancer/cluster.key");
        let key = Key::generate_file(&path).unwrap();
        assert_eq!(Key::load(&path).unwrap().bytes(), key.bytes());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777,
            0o700
        );
        assert_eq!(fs::read(&path).unwrap().len(), 65);

        let other = Key::generate_file(&directory.path().join("other")).unwrap();
        assert_ne!(other.bytes(), key.bytes());
    }

    #[test]
    fn no_file_is_overwritten() {
        let (_directory, path) = file(b"precious", 0o600);
        let error = Key::generate_file(&path).unwrap_err().to_string();
        let expected = "exists already: name another file, or remove it if no server uses that key";
        assert_eq!(error, format!("{} {expected}", path.display()));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_line_end_and_capitals_make_no_difference() {
        for end in ["", "\n", "\r\n"] {
            let (_directory, path) = file(format!("{}{end}", "aB".repeat(32)).as_bytes(), 0o400);
            assert_eq!(Key::load(&path).unwrap().bytes(), &[0xab; 32]);
        }
    }

    #[test]
    fn files_that_hold_no_key_are_named_and_not_shown() {
        let bad = [
            "",
            "\n",
            "abc",
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(65),
            &"a".repeat(100),
            &"é".repeat(32),
        ];
        for content in bad
            .into_iter()
            .chain([format!("{}\n\n", "a".repeat(64)).as_str()])
        {
            let (_directory, path) = file(content.as_bytes(), 0o600);
            let error = Key::load(&path).unwrap_err();
            assert!(
                matches!(error, KeyError::Malformed(_)),
                "{content:?}: {error}"
            );
            let told = error
                .to_string()
                .replace(&path.display().to_string(), "FILE");
            assert!(
                told.starts_with("FILE holds no key: a key file is one line of 64"),
                "{told}"
            );
        }
    }

    #[test]
    fn exposed_missing_and_unreadable_files_are_told_apart() {
        for mode in [0o640, 0o604, 0o620, 0o666] {
            let (_directory, path) = file("a".repeat(64).as_bytes(), mode);
            let error = Key::load(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("has mode {mode:04o}")), "{error}");
            assert!(
                error.contains(&format!("`chmod 600 {}`", path.display())),
                "{error}"
            );
        }
        let (directory, path) = file(b"", 0o600);
        assert!(matches!(
            Key::load(&path.with_extension("none")),
            Err(KeyError::Missing(_))
        ));
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(
            Key::load(directory.path()),
            Err(KeyError::Unreadable { .. })
        ));
        assert!(matches!(
            Key::generate_file(&path.join("below")),
            Err(KeyError::Unwritable { .. })
        ));
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", Key::from([0xab; 32])), "Key(not shown)");
    }
}
