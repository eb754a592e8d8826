//! How many new connections a service gets in a second.

use balancer_common::types::FULL;

use super::window::{Reading, Window};
use crate::cluster::Timestamp;

/// New connections of one service, over the last seconds.
#[derive(Default)]
pub struct Rate {
    window: Window,
    /// In tenths of a connection a second.
    tenths: u32,
}

impl Rate {
    /// Takes in how many connections there have ever been at `now`.
    pub fn sample(&mut self, now: Timestamp, connections: u64) {
        let reading = Reading {
            part: connections,
            whole: now.0 / 1_000_000,
        };
        // Of a thousand milliseconds, in parts of ten thousand.
        self.tenths = self.window.since_first(now, reading);
    }

    /// New connections a second, of the last sample.
    pub fn per_second(&self) -> f64 {
        f64::from(self.tenths) / 10.0
    }

    /// The load that they are, in basis points, where so many a second are 100 %.
    pub fn load(&self, capacity: u32) -> u32 {
        let load = u64::from(self.tenths) * u64::from(FULL / 10) / u64::from(capacity.max(1));
        u32::try_from(load).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_the_last_seconds_only() {
        let at = |milliseconds| Timestamp(0) + Duration::from_millis(1_000_000 + milliseconds);
        let mut rate = Rate::default();
        // What was before the first look is of no account.
        rate.sample(at(0), 1_000_000);
        assert_eq!((rate.per_second(), rate.load(100)), (0.0, 0));
        for tick in 1..=20 {
            rate.sample(at(tick * 100), 1_000_000 + tick * 15);
            assert!((rate.per_second() - 150.0).abs() < 0.1, "tick {tick}");
        }
        assert_eq!((rate.load(100), rate.load(300)), (15_000, 5_000));
        // None come any more, as the window passes.
        for tick in 21..=60 {
            rate.sample(at(tick * 100), 1_000_300);
        }
        assert_eq!((rate.per_second(), rate.load(1)), (0.0, 0));
        // A flood of more than can be.
        rate.sample(at(6_100), u64::MAX);
        assert_eq!(rate.load(1), u32::MAX);
    }
}
