//! What own load is made of, beside the connections that the kernel counts by itself (S202).

mod cpu;
mod listeners;
mod overflows;
mod pressure;
mod probe;
mod proc_file;
mod rate;
mod sampler;
mod sockets;
mod window;

use std::collections::VecDeque;
use std::time::Duration;

use balancer_common::types::Connections;

pub use self::listeners::Listeners;
pub use self::probe::Probe;
pub use self::rate::Rate;
pub use self::sampler::{Part, Sampler};
pub use self::sockets::{each_open, established};

use crate::cluster::Timestamp;

/// How long a first packet counts as a connection in the making. Who hasn't answered by then is slow or doesn't exist; two
/// repetitions of a lost SYN (1 s, 3 s) would go on being counted anyway, as first packets of their own.
const PATIENCE: Duration = Duration::from_secs(1);

/// First packets of one service that didn't become connections in time.
#[derive(Default)]
pub struct Handshakes {
    /// How many first packets had arrived at which time, oldest first; none older than [`PATIENCE`] but the first.
    arrived: VecDeque<(Timestamp, u64)>,
    /// Wraps below nothing where more became connections than arrived.
    given_up: u64,
}

impl Handshakes {
    /// Goes on from what a predecessor had given up.
    pub fn resume(given_up: u64) -> Self {
        Self {
            given_up,
            ..Self::default()
        }
    }

    /// First packets to give up on by now, since the maps were made. `connections` are the service's counts at `now`.
    pub fn given_up(&mut self, now: Timestamp, connections: &Connections) -> u64 {
        self.arrived.push_back((now, connections.arrived));
        while self
            .arrived
            .get(1)
            .is_some_and(|(then, _)| now.since(*then) >= PATIENCE)
        {
            self.arrived.pop_front();
        }
        // Connections from this host itself, such as checks, didn't arrive at the program. Not to be set against first
        // packets to come, which would then not count.
        let done = connections.established.wrapping_add(self.given_up);
        let ahead = done.wrapping_sub(connections.arrived).cast_signed();
        if ahead > 0 {
            self.given_up = self.given_up.wrapping_sub(ahead.cast_unsigned());
        }
        if let Some((then, arrived)) = self.arrived.front()
            && now.since(*then) >= PATIENCE
        {
            // Who arrived before then has become a connection, was given up before, or is given up now.
            let done = connections.established.wrapping_add(self.given_up);
            let overdue = arrived.wrapping_sub(done).cast_signed();
            if overdue > 0 {
                self.given_up = self.given_up.wrapping_add(overdue.cast_unsigned());
            }
        }
        self.given_up
    }
}

/// Connections that the kernel's count lacks, because they are older than the program, or has too many.
#[derive(Default)]
pub struct Uncounted {
    /// What it lacks; wraps below nothing.
    lacking: u64,
    settled: bool,
}

impl Uncounted {
    /// Whether nothing was lacking when last looked at: then nothing ever will be.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Compares the kernel's count with the socket table.
    pub fn compare(&mut self, open: u64, established: u64) -> u64 {
        self.lacking = established.wrapping_sub(open);
        self.settled = self.lacking == 0;
        self.lacking
    }

    /// What is lacking.
    pub fn lacking(&self) -> u64 {
        self.lacking
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::types::Service;

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(0) + Duration::from_millis(milliseconds)
    }

    fn counts(arrived: u64, established: u64) -> Connections {
        Connections {
            arrived,
            established,
            ..Connections::default()
        }
    }

    #[test]
    fn first_packets_are_given_up_after_a_second() {
        let mut handshakes = Handshakes::default();
        assert_eq!(handshakes.given_up(at(0), &counts(10, 0)), 0);
        assert_eq!(handshakes.given_up(at(500), &counts(15, 8)), 0);
        assert_eq!(handshakes.given_up(at(1_000), &counts(15, 8)), 2);
        assert_eq!(handshakes.given_up(at(1_500), &counts(15, 8)), 7);
        assert_eq!(handshakes.given_up(at(2_000), &counts(15, 8)), 7);
    }

    #[test]
    fn connections_that_were_made_are_not_given_up() {
        let mut handshakes = Handshakes::default();
        for step in 0..100 {
            let made = counts(step * 7 + 7, step * 7);
            assert_eq!(handshakes.given_up(at(step * 100), &made), 0, "step {step}");
        }
    }

    #[test]
    fn connections_that_never_arrived_hide_none_that_do() {
        let mut handshakes = Handshakes::default();
        let pending = |given_up: u64, counts: &Connections| {
            let sheet = Service {
                given_up,
                ..Service::default()
            };
            counts.pending(&sheet)
        };
        for step in 0..100 {
            let checked = counts(0, step);
            let given_up = handshakes.given_up(at(step * 100), &checked);
            assert_eq!(pending(given_up, &checked), 0, "step {step}");
            assert_eq!(pending(given_up, &counts(7, step)), 7, "step {step}");
        }
        let given_up = handshakes.given_up(at(10_000), &counts(7, 99));
        assert_eq!(pending(given_up, &counts(7, 99)), 7);
        let given_up = handshakes.given_up(at(11_000), &counts(7, 99));
        assert_eq!(pending(given_up, &counts(7, 99)), 0);
    }

    #[test]
    fn a_flood_counts_for_a_second_only() {
        let mut handshakes = Handshakes::default();
        for step in 0..=100 {
            let flood = counts(step * 1_000, 0);
            let given_up = handshakes.given_up(at(step * 100), &flood);
            assert!(
                flood.arrived - given_up <= 11_000,
                "step {step}: {given_up}"
            );
        }
    }

    #[test]
    fn what_was_open_before_is_settled_once_it_has_ended() {
        let mut uncounted = Uncounted::default();
        assert_eq!(uncounted.compare(0, 5), 5);
        assert!(!uncounted.is_settled());
        assert_eq!(uncounted.compare(3, 4), 1);
        assert_eq!(uncounted.compare(3, 2).cast_signed(), -1);
        assert_eq!(uncounted.compare(2, 2), 0);
        assert!(uncounted.is_settled());
    }
}
