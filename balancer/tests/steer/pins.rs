//! Where a test's programs are loaded and pinned.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// A bpffs of the test's own. Test runs look for sockets in the network namespace of their thread: from here on that is a
/// new one, where nothing listens. The mount is in a mount namespace of the thread's, and ends with it at the latest.
pub struct Pins {
    dir: TempDir,
}

impl Pins {
    /// `None`, and says so: there are no privileges to load programs.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("BALANCER_REQUIRE_ROOT").is_none(),
                "BALANCER_REQUIRE_ROOT is set: run as root"
            );
            println!("skipped: needs root");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        let pins = Self {
            dir: tempfile::Builder::new()
                .prefix("bf-")
                .tempdir_in("/tmp")
                .unwrap(),
        };
        mount(
            Some("bpffs"),
            pins.dir.path(),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        Some(pins)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // No assertion: it would abort where the test already failed.
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
