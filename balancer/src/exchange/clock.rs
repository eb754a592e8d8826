//! The one place that reads clocks.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

use crate::cluster::Timestamp;

/// `CLOCK_MONOTONIC`, as the XDP program reads it with `bpf_ktime_get_ns`.
pub fn monotonic() -> Timestamp {
    Timestamp(0) + read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time that the calling thread has used.
pub fn thread_time() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: ClockId) -> Duration {
    // Every Linux has both, so there is always a time.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// `CLOCK_REALTIME`: since the beginning of 1970. Nothing in the exchange goes by it.
pub fn time_of_day() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_REALTIME);
    time.map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs() {
        let before = monotonic();
        assert!(before > Timestamp(0));
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic().since(before) >= Duration::from_millis(2));
    }
}
