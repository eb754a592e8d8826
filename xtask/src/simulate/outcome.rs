//! What comes of an experiment.

use super::queue::Time;
use super::scenario::{Arrival, SECOND, Scenario};

/// Requests that arrive in the first part of an experiment don't count: the servers were empty. One in so many.
const WARM_UP: Time = 5;

/// How often the servers' loads are compared.
const COMPARED: Time = SECOND / 100;

/// What comes of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// From arrival to answer.
    pub p50: Time,
    /// From arrival to answer.
    pub p99: Time,
    /// Share of the requests that were served elsewhere than where they arrived.
    pub steered: f64,
    /// The busiest server's mean jobs in a second against all servers' mean, in the worst of all seconds.
    pub imbalance: f64,
}

/// Where and when requests were served.
pub struct Record {
    begin: Time,
    latencies: Vec<Time>,
    steered: usize,
    /// Sums of jobs in this second, server by server.
    jobs: Vec<u64>,
    looked: Time,
    second: Time,
    imbalance: f64,
}

impl Record {
    pub fn new(scenario: &Scenario) -> Self {
        let begin = scenario.length / WARM_UP;
        Self {
            begin,
            latencies: Vec::new(),
            steered: 0,
            jobs: vec![0; scenario.servers],
            looked: begin,
            second: begin,
            imbalance: 1.0,
        }
    }

    /// Compares the servers' `jobs`, when it is time to.
    pub fn compare(&mut self, now: Time, mut jobs: impl FnMut(usize, Time) -> u64) {
        while self.looked + COMPARED <= now {
            self.looked += COMPARED;
            for (server, sum) in self.jobs.iter_mut().enumerate() {
                *sum += jobs(server, self.looked);
            }
            if self.looked >= self.second + SECOND {
                self.second = self.looked;
                let most = self.jobs.iter().max().copied().unwrap_or_default() as f64;
                let all: u64 = self.jobs.iter().sum();
                let mean = all as f64 / self.jobs.len() as f64;
                self.imbalance = self.imbalance.max(most / mean.max(1.0));
                self.jobs.fill(0);
            }
        }
    }

    /// Takes note of a request that is done at `end`.
    pub fn add(&mut self, request: &Arrival, place: usize, end: Time) {
        if request.at >= self.begin {
            self.latencies.push(end - request.at);
            self.steered += usize::from(place != request.server);
        }
    }

    pub fn finish(mut self) -> Outcome {
        let count = self.latencies.len().max(1);
        Outcome {
            p50: self.percentile(50),
            p99: self.percentile(99),
            steered: self.steered as f64 / count as f64,
            imbalance: self.imbalance,
        }
    }

    fn percentile(&mut self, percent: usize) -> Time {
        if self.latencies.is_empty() {
            return 0;
        }
        let rank = (self.latencies.len() * percent).div_ceil(100).max(1);
        *self.latencies.select_nth_unstable(rank - 1).1
    }
}
