//! CPU time in use, and how many tasks want it.

use anyhow::{Context as _, Result};
use balancer_common::types::FULL;

use super::proc_file::ProcFile;
use super::window::{Reading, Window};
use crate::cluster::Timestamp;

/// The CPUs, by `/proc/stat`.
pub struct Cpu {
    stat: ProcFile,
    time: Window,
    queue: Window,
    /// Tasks that ran or waited for a CPU, times nanoseconds; and CPUs times nanoseconds.
    queued: Reading,
    last: Timestamp,
}

/// What `/proc/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    /// CPU time since the host started, in ticks: in use, and all.
    time: Reading,
    cpus: u64,
    /// Tasks that run or wait for a CPU.
    running: u64,
}

impl Cpu {
    /// Opens `/proc/stat`, at `now`.
    pub fn open(now: Timestamp) -> Result<Self> {
        Ok(Self {
            stat: ProcFile::open("/proc/stat").context("cannot open /proc/stat")?,
            time: Window::default(),
            queue: Window::default(),
            queued: Reading::default(),
            last: now,
        })
    }

    /// CPU time in use over the last seconds, of all CPUs, and tasks that ran or waited for a CPU over the last seconds, for
    /// each CPU. Both in basis points; the second one may be more than 10,000.
    pub fn sample(&mut self, now: Timestamp) -> Result<(u32, u32)> {
        let stat = self.stat.read()?;
        let stat = parse(stat).context("/proc/stat is not as Linux writes it")?;
        // This process runs while it asks.
        let others = stat.running.saturating_sub(1);
        let passed = now.since(self.last).as_nanos() as u64;
        self.last = now;
        self.queued.part += others * passed;
        self.queued.whole += stat.cpus * passed;
        let time = self.time.add(now, stat.time).min(FULL);
        Ok((time, self.queue.add(now, self.queued)))
    }
}

/// `proc_stat(5)`. Of the line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user
/// time.
fn parse(stat: &str) -> Option<Stat> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [_, _, _, idle, iowait, ..] = ticks[..] else {
        return None;
    };
    let total = ticks.iter().sum::<u64>();
    let each = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    let running = stat
        .lines()
        .find_map(|line| line.strip_prefix("procs_running "))?;
    Some(Stat {
        time: Reading {
            part: total - idle - iowait,
            whole: total,
        },
        cpus: stat.lines().filter(each).count().max(1) as u64,
        running: running.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "cpu  10 1 5 80 4 0 2 3 1 0\ncpu0 10 1 5 80 4 0 2 3 1 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 5\nprocs_running 3\n";
        let expected = Stat {
            time: Reading {
                part: 21,
                whole: 105,
            },
            cpus: 2,
            running: 3,
        };
        assert_eq!(parse(stat), Some(expected));
        assert_eq!(parse("cpu  1 2 x 4 5\nprocs_running 3\n"), None);
        assert_eq!(parse("cpu  1 2 3 4 5\n"), None);
        assert_eq!(parse("intr 5\n"), None);
    }
}
