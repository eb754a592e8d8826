//! What a server tells its peers of its load: not what it is at this moment, but what it will be until they hear of it again.
//!
//! Where connections last for hours, the load of now is the load of the next half second. Where they last for ten
//! milliseconds, it is one throw of a die that will be thrown fifty times before the next report, and a connection that a
//! peer adds will have come and gone: then the mean of the last seconds says more. [`Forecast`] weighs the two by how long
//! connections stay, which follows from their mean number and the rate at which they end (Little's law).
//!
//! `cargo xtask simulate` runs this code; `docs/policy.md` tells what it found.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "means and shares, none below zero, none that needs all its bits"
)]

use crate::types::{Connections, Service};

/// Means are of about this time, in nanoseconds. From 2 to 8 s it makes little difference; over less, chance shows.
const WINDOW_NS: f64 = 4e9;

/// How one service has been. Nothing is known at first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Mean load, in basis points.
    load: f64,
    /// Mean number of connections.
    connections: f64,
    /// Connections that end in a nanosecond.
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
    /// Connections that have ever ended; wraps.
    pub ended: u64,
    /// What one connection adds to the load while it is open, in 1/65,536 of a basis point.
    pub cost: u32,
}

impl Moment {
    /// What the maps say at `now_ns`.
    pub fn from_maps(now_ns: u64, service: &Service, connections: &Connections) -> Self {
        Self {
            now_ns,
            load: connections.load(service),
            connections: connections.opened(service) + connections.pending(service),
            ended: connections.established.wrapping_sub(connections.open),
            cost: service.cost,
        }
    }
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
                // The counts are read one after the other, so that this may have gone back.
                let ended = moment.ended.wrapping_sub(last.ended).cast_signed().max(0) as f64;
                let part = (elapsed / WINDOW_NS).min(1.0);
                self.load += (load - self.load) * part;
                self.connections += (connections - self.connections) * part;
                self.rate += (ended / elapsed - self.rate) * part;
            }
        }
        let stay = self.stay(period_ns);
        Outlook {
            load: (self.load + (load - self.load) * stay) as u32,
            cost: (f64::from(moment.cost) * between(stay)) as u32,
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

/// What a connection counts that stays for this `share` of the period: `share` to the power of 3/4.
///
/// Of the mean load it takes no more than the share. But then a peer that looked lower than it is would get far too many
/// until its next report; counted in full, it would get far too few. This did best in simulations.
fn between(share: f64) -> f64 {
    square_root(share * square_root(share))
}

/// Of a number from 0 to 1. `core` has no root for fractions.
fn square_root(share: f64) -> f64 {
    const SCALE: f64 = 2_147_483_648.0;
    ((share * SCALE * SCALE) as u64).isqrt() as f64 / SCALE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::cost_of;

    const PERIOD_NS: u64 = 500_000_000;
    const TICK_NS: u64 = 100_000_000;

    /// The outlook after 40 seconds of `rate` new connections a second, with these numbers of connections by turns.
    fn after(rate: u64, connections: [u64; 2]) -> Outlook {
        let mut forecast = Forecast::default();
        let mut outlook = Outlook::default();
        for tick in 0..=400 {
            let connections = connections[(tick % 2) as usize];
            let moment = Moment {
                now_ns: 1 + tick * TICK_NS,
                load: connections as u32 * 1_000,
                connections,
                ended: tick * rate / 10,
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
            // A hundredth of the period, which to the power of 3/4 is a 32nd.
            let small = cost_of(320);
            assert!(outlook.cost.abs_diff(small) < small / 20, "{outlook:?}");
        }
    }

    #[test]
    fn a_burst_of_connections_that_stay_is_told_at_once() {
        let mut forecast = Forecast::default();
        let moment = |tick: u64, connections: u64| Moment {
            now_ns: 1 + tick * TICK_NS,
            load: connections as u32 * 1_000,
            connections,
            ended: 0,
            cost: cost_of(10),
        };
        forecast.update(&moment(0, 0), PERIOD_NS);
        let outlook = forecast.update(&moment(1, 40), PERIOD_NS);
        assert_eq!((outlook.load, outlook.cost), (40_000, cost_of(10)));
    }

    #[test]
    fn a_moment_is_what_the_maps_say() {
        let service = Service {
            cost: cost_of(10),
            sample: 100,
            uncounted: 2,
            ..Service::default()
        };
        let connections = Connections {
            open: 3,
            arrived: 9,
            established: 8,
            steered: 5,
        };
        let moment = Moment {
            now_ns: 77,
            load: 6_000,
            connections: 6,
            ended: 5,
            cost: cost_of(10),
        };
        assert_eq!(Moment::from_maps(77, &service, &connections), moment);
    }

    #[test]
    fn a_service_that_hangs_is_seen_to() {
        let mut forecast = Forecast::default();
        let mut outlook = Outlook::default();
        // 1,000 a second, five at a time; after ten seconds none ends any more. One second later:
        for tick in 0..=110_u64 {
            let connections = 5 + tick.saturating_sub(100) * 100;
            let moment = Moment {
                now_ns: 1 + tick * TICK_NS,
                load: connections as u32 * 1_000,
                connections,
                ended: tick.min(100) * 100,
                cost: cost_of(10),
            };
            outlook = forecast.update(&moment, PERIOD_NS);
        }
        assert!(outlook.load > 300_000, "{outlook:?}");
        assert!(outlook.cost > cost_of(30), "{outlook:?}");
    }

    #[test]
    fn the_first_look_is_taken_as_it_is() {
        let moment = Moment {
            now_ns: 77,
            load: 7_000,
            connections: 7,
            ended: 1_000_000,
            cost: cost_of(10),
        };
        let outlook = Forecast::default().update(&moment, PERIOD_NS);
        assert_eq!((outlook.load, outlook.cost), (7_000, cost_of(10)));
        // A clock that stands still and counts that go back do no harm.
        let mut forecast = Forecast::default();
        forecast.update(&moment, PERIOD_NS);
        let back = Moment { ended: 0, ..moment };
        assert_eq!(forecast.update(&back, PERIOD_NS), outlook);
    }

    #[test]
    fn roots_are_roots() {
        for share in [0.0, 1e-6, 0.01, 0.25, 0.5, 1.0_f64] {
            assert!((square_root(share) - share.sqrt()).abs() < 1e-6, "{share}");
        }
    }
}
