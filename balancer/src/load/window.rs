//! Averages over the last seconds.

use std::collections::VecDeque;
use std::time::Duration;

use balancer_common::types::FULL;

use crate::cluster::Timestamp;

/// Samples are averaged over this time. Servers compare themselves with reports of half a second ago: a load that jumps
/// faster than that would send flows to and fro.
const WINDOW: Duration = Duration::from_secs(4);

/// A share that is averaged.
#[derive(Default)]
pub struct Window {
    /// Oldest first; all but the first within [`WINDOW`].
    readings: VecDeque<(Timestamp, Reading)>,
}

/// What a counter of the kernel says, and one that rises with it where all is in use. Both since the host started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The part.
    pub part: u64,
    /// The whole.
    pub whole: u64,
}

impl Window {
    /// Takes in what the counters say at `now`. Returns the part of the whole by which they rose over the last seconds, in
    /// basis points; for the first seconds that since the host started.
    pub fn add(&mut self, now: Timestamp, reading: Reading) -> u32 {
        if self.readings.is_empty() {
            self.readings.push_back((now, Reading::default()));
        }
        self.since_first(now, reading)
    }

    /// As [`Self::add`], but for the first seconds that since the first reading: 0 at that one.
    pub fn since_first(&mut self, now: Timestamp, reading: Reading) -> u32 {
        self.readings.push_back((now, reading));
        while self
            .readings
            .get(1)
            .is_some_and(|(then, _)| now.since(*then) >= WINDOW)
        {
            self.readings.pop_front();
        }
        let oldest = self.readings[0].1;
        let part = reading.part.saturating_sub(oldest.part);
        let whole = reading.whole.saturating_sub(oldest.whole).max(1);
        let share = u128::from(part) * u128::from(FULL) / u128::from(whole);
        u32::try_from(share).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_over_the_window() {
        let at = |seconds| Timestamp(0) + Duration::from_secs(seconds);
        let mut window = Window::default();
        let mut add = |seconds, part, whole| window.add(at(seconds), Reading { part, whole });
        assert_eq!(add(0, 100, 1_000), 1_000);
        assert_eq!(add(2, 200, 1_200), 1_666);
        // From here on what was before the first sample is out of the window.
        assert_eq!(add(4, 400, 1_400), 7_500);
        assert_eq!(add(6, 1_000, 1_600), 20_000);
        assert_eq!(add(7, u64::MAX, 1_601), u32::MAX);
        assert_eq!(add(8, 0, 0), 0);
    }
}
