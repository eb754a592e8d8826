//! Pressure stall information: how long tasks waited for what they lack (Linux' Documentation/accounting/psi.rst).

use anyhow::{Context as _, Result};

use super::proc_file::ProcFile;
use super::window::{Reading, Window};
use crate::cluster::Timestamp;

/// Pressure of one kind.
pub struct Pressure {
    file: ProcFile,
    /// The line that counts.
    share: &'static str,
    window: Window,
}

impl Pressure {
    /// Time in which some task waited for a CPU. `None` where the kernel doesn't measure it.
    pub fn cpu() -> Option<Self> {
        Self::open("/proc/pressure/cpu", "some ")
    }

    /// Time in which every task that was not idle waited for memory.
    pub fn memory() -> Option<Self> {
        Self::open("/proc/pressure/memory", "full ")
    }

    /// Time in which every task that was not idle waited for a disk.
    pub fn io() -> Option<Self> {
        Self::open("/proc/pressure/io", "full ")
    }

    fn open(path: &'static str, share: &'static str) -> Option<Self> {
        let mut pressure = Self {
            file: ProcFile::open(path).ok()?,
            share,
            window: Window::default(),
        };
        // Where it is switched off (`psi=0`) there is a file that can't be read.
        pressure.file.read().ok()?;
        Some(pressure)
    }

    /// The share of the last seconds, in basis points.
    pub fn sample(&mut self, now: Timestamp) -> Result<u32> {
        let text = self.file.read()?;
        let part = stalled(text, self.share)
            .context("a file of /proc/pressure is not as Linux writes it")?;
        // The kernel counts microseconds since it started, as its clock does.
        let whole = now.since(Timestamp(0)).as_micros() as u64;
        Ok(self.window.add(now, Reading { part, whole }))
    }
}

/// Microseconds, as in `some avg10=0.00 avg60=0.00 avg300=0.00 total=457957`.
fn stalled(text: &str, share: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(share))?;
    line.rsplit_once("total=")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let text = "some avg10=1.00 avg60=0.50 avg300=0.10 total=457957\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=203028\n";
        assert_eq!(stalled(text, "some "), Some(457_957));
        assert_eq!(stalled(text, "full "), Some(203_028));
        assert_eq!(stalled("some avg10=1.00", "some "), None);
        assert_eq!(stalled("", "some "), None);
    }
}
