//! What the simulated clusters have to do.

use balancer_common::decide::Policy;
use balancer_common::types::Service;
use clap::ValueEnum;

use super::queue::{Queue, Speed, Time};

/// A nanosecond's multiples.
pub const MILLISECOND: Time = 1_000_000;
/// A second.
pub const SECOND: Time = 1_000 * MILLISECOND;

/// How the servers and their clients differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// All alike.
    Even,
    /// 40 % of the requests go to the first server, or two thirds if there are three.
    Skewed,
    /// Every second server works half as fast as the others, and nobody has told its balancer.
    Uneven,
}

impl Shape {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Skewed => "skewed",
            Self::Uneven => "uneven",
        }
    }
}

/// How long requests take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mix {
    /// 90 % take 5 ms, 10 % take 50 ms.
    Short,
    /// 90 % take 500 ms, 10 % take 5 s.
    Long,
    /// Exponentially distributed, 10 ms on average.
    Exponential,
}

/// What servers tell of their load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Report {
    /// What to reckon with until the next report, as balancer does.
    Forecast,
    /// What it is at that moment; each connection that is steered since counts in full.
    Moment,
}

/// One experiment, the same for all policies.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub shape: Shape,
    pub servers: usize,
    /// Requests that a server works on at one time; also what its service's capacity is set to.
    pub workers: u32,
    pub mix: Mix,
    /// Work that arrives, as a share of what all workers can do.
    pub load: f64,
    /// From one report to the next.
    pub period: Time,
    /// Overload level, in percent.
    pub overload: u32,
    /// Margin, in points.
    pub margin: u32,
    pub report: Report,
    /// How long requests arrive.
    pub length: Time,
    pub seed: u64,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: Time,
    /// The server that it is addressed to.
    pub server: usize,
    /// How long a worker of speed 1,000 has to do with it.
    pub work: Time,
}

impl Scenario {
    /// The speed of a server's workers.
    pub fn speed(&self, server: usize) -> Speed {
        match self.shape {
            Shape::Uneven if server % 2 == 1 => 500,
            _ => 1_000,
        }
    }

    /// What servers go by.
    pub fn levels(&self, policy: Policy) -> Service {
        Service {
            overload: self.overload * 100,
            margin: self.margin * 100,
            policy: policy as u32,
            ..Service::default()
        }
    }

    /// The queue of one server.
    pub fn queue(&self, server: usize) -> Queue {
        Queue::new((0..self.workers).map(|_| self.speed(server)))
    }

    /// One queue before the workers of all servers.
    pub fn central_queue(&self) -> Queue {
        Queue::new(
            (0..self.servers).flat_map(|server| (0..self.workers).map(move |_| self.speed(server))),
        )
    }

    /// The requests, by their times: a Poisson process.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let power: Speed = (0..self.servers).map(|server| self.speed(server)).sum();
        let power = power as f64 / 1e3 * f64::from(self.workers);
        let gap = self.mix.mean() / (self.load * power);
        let mut at = 0.0;
        let scenario = *self;
        std::iter::from_fn(move || {
            at += gap * exponential(&mut random);
            let server = scenario.address(&mut random);
            let work = scenario.mix.draw(&mut random) as Time;
            (at < scenario.length as f64).then_some(Arrival {
                at: at as Time,
                server,
                work,
            })
        })
    }

    fn address(&self, random: &mut fastrand::Rng) -> usize {
        let first = match self.shape {
            Shape::Skewed => (2.0 / self.servers as f64).max(0.4),
            _ => 0.0,
        };
        if random.f64() < first {
            0
        } else if first > 0.0 {
            random.usize(1..self.servers)
        } else {
            random.usize(0..self.servers)
        }
    }
}

impl Report {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forecast => "forecast",
            Self::Moment => "moment",
        }
    }
}

impl Mix {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Exponential => "exponential",
        }
    }

    /// Mean time of a request, in nanoseconds.
    pub fn mean(self) -> f64 {
        match self {
            Self::Short => 9.5e6,
            Self::Long => 950e6,
            Self::Exponential => 10e6,
        }
    }

    fn draw(self, random: &mut fastrand::Rng) -> f64 {
        match self {
            Self::Exponential => self.mean() * exponential(random),
            Self::Short if random.f64() < 0.9 => 5e6,
            Self::Short => 50e6,
            Self::Long if random.f64() < 0.9 => 500e6,
            Self::Long => 5_000e6,
        }
    }
}

/// Exponentially distributed, 1 on average.
fn exponential(random: &mut fastrand::Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}
