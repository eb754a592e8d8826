//! What a server tells its peers of its load: not what it is at this moment, but what it will be until they hear of it again.
//!
//! Where connections last for hours, the load of now is the load of the next half second. Where they last for ten
//! milliseconds, it is one throw of a die that will be thrown fifty times before the next report, and a connection that a
//! peer adds will have come and gone: then the mean of the last seconds says more. [`Forecast`] weighs the two by how long
//! connections stay, which follows from their mean number and the rate at which they come (Little's law).
//!
//! `cargo xtask simulate` runs this code; `docs/policy.md` tells what it found.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "means and shares, none below zero, none that needs all its bits"
)]

/// Means are of about this time, in nanoseconds.
const WINDOW_NS: f64 = 2e9;

/// How one service has been. Nothing is known at first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Mean load, in basis points.
    load: f64,
    /// Mean number of connections.
    connections: f64,
    /// New connections in a nanosecond.
    rate: f64,
    /// The moment that was looked at last.
    last: Option<Moment>,
}

/// A service at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub now_ns: u64,
    /// Own load (S202), in basis points.
    pub load: u32,
    /// Connections open and in the making.
    pub connections: u64,
    /// Connections that have ever been made.
    pub established: u64,
    /// What one connection adds to the load while it is open, in 1/65,536 of a basis point.
    pub cost: u32,
}

/// What peers are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The load to reckon with until the next report, in basis points.
    pub load: u32,
    /// What to add to it for each connection that is steered there, in 1/65,536 of a basis point.
    pub cost: u32,
}

impl Forecast {
    /// Takes note of a moment. Returns the outlook for a period of `period_ns`.
    pub fn update(&mut self, moment: &Moment, period_ns: u64) -> Outlook {
        let load = f64::from(moment.load);
        let connections = moment.connections as f64;
        match self.last.replace(*moment) {
            None => (self.load, self.connections) = (load, connections),
            Some(last) => {
                let elapsed = moment.now_ns.saturating_sub(last.now_ns).max(1) as f64;
                let made = moment.established.saturating_sub(last.established) as f64;
                let part = (elapsed / WINDOW_NS).min(1.0);
                self.load += (load - self.load) * part;
                self.connections += (connections - self.connections) * part;
                self.rate += (made / elapsed - self.rate) * part;
            }
        }
        let stay = self.stay(period_ns);
        Outlook {
            load: (self.load + (load - self.load) * stay) as u32,
            cost: (f64::from(moment.cost) * square_root(stay)) as u32,
        }
    }

    /// What part of a period a connection is there.
    fn stay(&self, period_ns: u64) -> f64 {
        if self.rate <= 0.0 {
            return 1.0;
        }
        let lasts = self.connections / self.rate;
        lasts / (lasts + period_ns as f64)
    }
}

/// Of a number from 0 to 1.
///
/// A connection that stays for a hundredth of the period takes a hundredth of its cost from the mean load. Yet counted so
/// little, a peer that looked lower than it is would get far too many until its next report; counted in full, it would get
/// far too few. The square root of the two did best in simulations.
fn square_root(share: f64) -> f64 {
    const SCALE: f64 = 2_147_483_648.0;
    // `core` has no root of its own for fractions.
    ((share * SCALE * SCALE) as u64).isqrt() as f64 / SCALE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::cost_of;

    const PERIOD_NS: u64 = 500_000_000;
    const TICK_NS: u64 = 100_000_000;

    /// The outlook after ten seconds of `rate` new connections a second, with these numbers of connections by turns.
    fn after(rate: u64, connections: [u64; 2]) -> Outlook {
        let mut forecast = Forecast::default();
        let mut outlook = Outlook::default();
        for tick in 0..=100 {
            let connections = connections[(tick % 2) as usize];
            let moment = Moment {
                now_ns: 1 + tick * TICK_NS,
                load: connections as u32 * 1_000,
                connections,
                established: tick * rate / 10,
                cost: cost_of(10),
            };
            outlook = forecast.update(&moment, PERIOD_NS);
        }
        outlook
    }

    #[test]
    fn connections_that_stay_count_as_they_are() {
        assert_eq!(after(0, [4, 6]).load, 4_000);
        assert_eq!(after(0, [6, 4]).load, 6_000);
        assert_eq!(after(0, [6, 4]).cost, cost_of(10));
    }

    #[test]
    fn connections_that_come_and_go_count_by_their_mean() {
        // Five of them, each for 5 ms.
        for connections in [[4, 6], [6, 4]] {
            let outlook = after(1_000, connections);
            assert!(outlook.load.abs_diff(5_000) < 100, "{outlook:?}");
            // A hundredth of the period.
            let tenth = cost_of(100);
            assert!(outlook.cost.abs_diff(tenth) < tenth / 20, "{outlook:?}");
        }
    }

    #[test]
    fn a_service_that_hangs_is_seen_to() {
        let mut forecast = Forecast::default();
        let mut outlook = Outlook::default();
        // 1,000 a second, five at a time; after ten seconds none ends any more.
        for tick in 0..=110_u64 {
            let connections = 5 + tick.saturating_sub(100) * 100;
            let moment = Moment {
                now_ns: 1 + tick * TICK_NS,
                load: connections as u32 * 1_000,
                connections,
                established: tick * 100,
                cost: cost_of(10),
            };
            outlook = forecast.update(&moment, PERIOD_NS);
        }
        assert!(outlook.load > 400_000, "{outlook:?}");
        assert!(outlook.cost > cost_of(20), "{outlook:?}");
    }

    #[test]
    fn the_first_look_is_taken_as_it_is() {
        let moment = Moment {
            now_ns: 77,
            load: 7_000,
            connections: 7,
            established: 1_000_000,
            cost: cost_of(10),
        };
        let outlook = Forecast::default().update(&moment, PERIOD_NS);
        assert_eq!((outlook.load, outlook.cost), (7_000, cost_of(10)));
        // A clock that stands still and counts that go back do no harm.
        let mut forecast = Forecast::default();
        forecast.update(&moment, PERIOD_NS);
        let back = Moment {
            established: 0,
            ..moment
        };
        assert_eq!(forecast.update(&back, PERIOD_NS), outlook);
    }

    #[test]
    fn roots_are_roots() {
        for share in [0.0, 1e-6, 0.01, 0.25, 0.5, 1.0_f64] {
            assert!((square_root(share) - share.sqrt()).abs() < 1e-6, "{share}");
        }
    }
}
