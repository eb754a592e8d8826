//! Accept queues that overflow, as the kernel counts them in a network namespace.

use anyhow::{Context as _, Result};

use super::proc_file::ProcFile;

/// The calling thread's network namespace is the one that counts.
const FILE: &str = "/proc/thread-self/net/netstat";

/// `ListenOverflows`: connections that found the accept queue of their listening socket full (Linux'
/// `Documentation/networking/snmp_counter.rst`, `TcpExtListenOverflows`).
#[derive(Default)]
pub struct Overflows {
    /// Opened when it is needed.
    file: Option<ProcFile>,
    counted: Option<u64>,
}

impl Overflows {
    /// Whether a queue of this network namespace has overflowed since this was last asked. At first none has.
    pub fn rose(&mut self) -> Result<bool> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let file = ProcFile::open(FILE).with_context(|| format!("cannot read {FILE}"))?;
                empty.insert(file)
            }
        };
        let counted = overflows(file.read()?)
            .with_context(|| format!("{FILE} doesn't have ListenOverflows as Linux writes it"))?;
        let before = self.counted.replace(counted);
        Ok(before.is_some_and(|before| counted != before))
    }
}

/// A line of names, then a line of numbers, each beginning with `TcpExt:`.
fn overflows(text: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt:"))
        .map(str::split_ascii_whitespace);
    let (mut names, mut numbers) = (lines.next()?, lines.next()?);
    let place = names.position(|name| name == "ListenOverflows")?;
    numbers.nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 20 21\n\
                    IpExt: InNoRoutes ListenOverflows\nIpExt: 3 4\n";
        assert_eq!(overflows(text), Some(20));
        assert_eq!(overflows("TcpExt: ListenOverflows\n"), None);
        assert_eq!(overflows("TcpExt: TW\nTcpExt: 7\n"), None);
        let here = std::fs::read_to_string(FILE).expect("Linux has it");
        assert!(overflows(&here).is_some(), "{here}");
    }
}
