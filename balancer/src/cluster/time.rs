//! Time as the cluster core sees it: handed in, never read.

use serde::Serialize;
use std::ops::Add;
use std::time::Duration;

/// Nanoseconds of `CLOCK_MONOTONIC`: the clock that the XDP program reads, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Later than all others.
    pub const NEVER: Self = Self(u64::MAX);

    /// How much later this is than `earlier`; zero if it isn't.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// However long the period is, what matters is told within this, and a question is answered within twice as much.
const LONGEST_GAP: Duration = Duration::from_millis(50);

/// The least time between two probes of the same. At reports each 10 ms the time-out is longer.
const LEAST_PROBING: Duration = Duration::from_millis(20);

/// How often servers report, and when their silence means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one report to the next.
    pub period: Duration,
    timeout_periods: u32,
}

impl Timing {
    /// Reports each `period` (at least 1 ms), silence of `timeout_periods` (at least 2: one to miss a report, one to ask
    /// for it) is suspect.
    pub fn new(period: Duration, timeout_periods: u32) -> Self {
        Self {
            period: period.max(Duration::from_millis(1)),
            timeout_periods: timeout_periods.max(2),
        }
    }

    /// The same number of another period's.
    #[must_use]
    pub fn with_period(self, period: Duration) -> Self {
        Self::new(period, self.timeout_periods)
    }

    /// The silence after which a peer is suspect.
    pub fn timeout(self) -> Duration {
        self.period * self.timeout_periods
    }

    /// The silence after which a peer is asked why: leaves it one period to answer.
    pub fn patience(self) -> Duration {
        self.period * (self.timeout_periods - 1)
    }

    /// The least time between two reports, however much there is to say.
    pub fn gap(self) -> Duration {
        (self.period / 10)
            .clamp(Duration::from_millis(10), LONGEST_GAP)
            .min(self.period)
    }

    /// From one probe of a silent host, or of an address, to the next: the time-out, but whoever reports each millisecond isn't asked as often.
    pub fn probing(self) -> Duration {
        self.timeout().max(LEAST_PROBING)
    }

    /// How long an answer to a question proves that its server is there: for the time-out, but at least for as long as a server
    /// of a longer period may take.
    pub fn validity(self) -> Duration {
        self.timeout().max(LONGEST_GAP * 4)
    }
}
