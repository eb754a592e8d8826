//! The room for neighbours in the kernel, which all network namespaces of a host share.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// So many servers as there are in the largest lab know each other, and some more.
const ROOM: u32 = 16_384;

/// More room until this is dropped (or, after Ctrl-C, until the host is restarted). A network of real servers needs none: each has its own
/// kernel.
pub struct Room {
    before: Vec<(PathBuf, String)>,
}

impl Room {
    /// Raises `gc_thresh2` and `gc_thresh3` (Documentation/networking/ip-sysctl.rst): beyond these the kernel refuses
    /// neighbours, and what is sent to them is lost.
    pub fn make() -> Result<Self> {
        let mut room = Self { before: Vec::new() };
        for family in ["ipv4", "ipv6"] {
            // The larger one first.
            for name in ["gc_thresh3", "gc_thresh2"] {
                let path = PathBuf::from(format!("/proc/sys/net/{family}/neigh/default/{name}"));
                let context = || format!("cannot make room for neighbours in {}", path.display());
                let before = fs::read_to_string(&path).with_context(context)?;
                let is_enough = before.trim().parse().is_ok_and(|there: u32| there >= ROOM);
                if !is_enough {
                    fs::write(&path, ROOM.to_string()).with_context(context)?;
                    room.before.push((path, before));
                }
            }
        }
        Ok(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for (path, before) in self.before.drain(..).rev() {
            if let Err(error) = fs::write(&path, before) {
                eprintln!("{} stays larger: {error}", path.display());
            }
        }
    }
}
