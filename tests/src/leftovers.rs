//! What tests leave that were killed: namespaces, mounts, directories, undo journals. Their programs die with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

/// Begins the name of all that labs make; the id of their test's process follows.
const PREFIX: &str = "bt-";

/// Where the labs have their files.
const DIR: &str = "/run/balancer-tests";

/// Where the daemon has its undo journals, which are named after the pin directory.
const JOURNALS: &str = "/run/balancer";

/// The name of this process' lab with this `number`.
pub(crate) fn lab_name(number: u32) -> String {
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// The directory of the lab called `name`.
pub(crate) fn lab_dir(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// The undo journals that daemons of the lab called `name` have.
pub(crate) fn journals(name: &str) -> Vec<PathBuf> {
    // The daemon writes `/` as `-`, and `-` as `%2d`.
    let dir = lab_dir(name).display().to_string();
    let prefix = dir.replace('-', "%2d").replace('/', "-");
    entries(Path::new(JOURNALS), &format!("{}-", &prefix[1..]))
}

/// Removes the files of the lab called `name`, mounts first.
pub(crate) fn remove(name: &str) {
    let dir = lab_dir(name);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| Path::new(path).starts_with(&dir));
    // Whatever can't be removed now is left to the next sweep.
    for path in below {
        let _ = Command::new("umount").arg(path).status();
    }
    let _ = fs::remove_dir_all(&dir);
    for journal in journals(name) {
        let _ = fs::remove_file(journal);
    }
    let _ = fs::remove_dir(DIR);
    let _ = fs::remove_dir(JOURNALS);
}

/// Sweeps, once a process, what dead processes left. This one's id may have been a dead one's, too.
pub(crate) fn sweep() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        for path in entries(Path::new("/run/netns"), PREFIX) {
            if let Some(name) = name(&path).filter(|name| is_dead(name)) {
                let _ = Command::new("ip").args(["netns", "del", name]).status();
            }
        }
        for path in entries(Path::new(DIR), PREFIX) {
            if let Some(name) = name(&path).filter(|name| is_dead(name)) {
                remove(name);
            }
        }
    });
}

fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| name(path).is_some_and(|name| name.starts_with(prefix)))
        .collect()
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Whether the process is no more that made what has this name.
fn is_dead(name: &str) -> bool {
    let id = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next())
        .and_then(|id| id.parse::<u32>().ok());
    id.is_some_and(|id| id == std::process::id() || !Path::new(&format!("/proc/{id}")).exists())
}
