//! Files of /proc that are read again and again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

/// Room for a file, at first.
const ROOM: usize = 4096;

/// A file of /proc, kept open.
pub struct ProcFile {
    path: &'static str,
    file: File,
    buffer: Vec<u8>,
}

impl ProcFile {
    /// Opens the file at `path`.
    pub fn open(path: &'static str) -> io::Result<Self> {
        Ok(Self {
            path,
            file: File::open(path)?,
            buffer: vec![0; ROOM],
        })
    }

    /// What it says now.
    pub fn read(&mut self) -> Result<&str> {
        let unreadable = || format!("cannot read {}", self.path);
        let mut length = 0;
        loop {
            match self
                .file
                .read_at(&mut self.buffer[length..], length as u64)
                .with_context(unreadable)?
            {
                0 => break,
                read => length += read,
            }
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
        }
        str::from_utf8(&self.buffer[..length]).with_context(unreadable)
    }
}
