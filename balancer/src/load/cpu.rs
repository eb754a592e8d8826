//! CPU time in use, of all CPUs.

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use balancer_common::types::FULL;

use crate::cluster::Timestamp;

/// Samples are averaged over this time. Servers compare themselves with reports of half a second ago: a load that jumps
/// faster than that would send flows to and fro.
const WINDOW: Duration = Duration::from_secs(4);

/// Readings of `/proc/stat`.
#[derive(Default)]
pub struct Cpu {
    /// Oldest first; all but the first within [`WINDOW`].
    readings: VecDeque<(Timestamp, Reading)>,
}

/// CPU time since the host started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    busy: u64,
    total: u64,
}

impl Cpu {
    /// CPU time in use over the last seconds, in basis points; for the first seconds that since the host started.
    pub fn sample(&mut self, now: Timestamp) -> Result<u32> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let reading = parse(&stat).context("/proc/stat has no line `cpu` as Linux writes it")?;
        Ok(self.add(now, reading))
    }

    fn add(&mut self, now: Timestamp, reading: Reading) -> u32 {
        if self.readings.is_empty() {
            self.readings
                .push_back((now, Reading { busy: 0, total: 0 }));
        }
        self.readings.push_back((now, reading));
        while self
            .readings
            .get(1)
            .is_some_and(|(then, _)| now.since(*then) >= WINDOW)
        {
            self.readings.pop_front();
        }
        let oldest = self.readings[0].1;
        let busy = reading.busy.saturating_sub(oldest.busy);
        let total = reading.total.saturating_sub(oldest.total).max(1);
        (busy.min(total) * u64::from(FULL) / total) as u32
    }
}

/// `proc_stat(5)`: user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user time.
fn parse(stat: &str) -> Option<Reading> {
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
    Some(Reading {
        busy: total - idle - iowait,
        total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "cpu  10 1 5 80 4 0 2 3 1 0\ncpu0 10 1 5 80 4 0 2 3 1 0\nintr 5\n";
        assert_eq!(
            parse(stat),
            Some(Reading {
                busy: 21,
                total: 105
            })
        );
        assert_eq!(parse("cpu  1 2 x 4 5\n"), None);
        assert_eq!(parse("intr 5\n"), None);
    }

    #[test]
    fn averages_over_the_window() {
        let at = |seconds| Timestamp(0) + Duration::from_secs(seconds);
        let mut cpu = Cpu::default();
        let mut add = |seconds, busy, total| cpu.add(at(seconds), Reading { busy, total });
        assert_eq!(add(0, 100, 1_000), 1_000);
        assert_eq!(add(2, 200, 1_200), 1_666);
        // From here on what was before the first sample is out of the window.
        assert_eq!(add(4, 400, 1_400), 7_500);
        assert_eq!(add(6, 600, 1_600), 10_000);
    }
}
