//! The one place that reads clocks.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

use crate::cluster::Timestamp;

/// `CLOCK_MONOTONIC`, as the XDP program reads it with `bpf_ktime_get_ns`.
pub fn monotonic() -> Timestamp {
    Timestamp(0) + read(ClockId::CLOCK_MONOTONIC)
}

/// A number for a start of the daemon: the time of day in milliseconds.
pub fn boot_stamp() -> u64 {
    read(ClockId::CLOCK_REALTIME).as_millis() as u64
}

fn read(clock: ClockId) -> Duration {
    // Linux has had both clocks since before any kernel that balancer runs on, so there is always a time.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_run() {
        let before = monotonic();
        assert!(before > Timestamp(0));
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic().since(before) >= Duration::from_millis(2));
        assert!(boot_stamp() > 1_700_000_000_000, "the year 2023 is over");
    }
}
