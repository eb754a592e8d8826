//! A cluster of servers that report to each other and decide on each request as balancer does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use balancer_common::decide::{Candidate, Own, Peers, Verdict, decide};
use balancer_common::forecast::{Forecast, Moment, Outlook};
use balancer_common::hash::fold;
use balancer_common::types::{Connections, OFFERED, PeerLoad, READY, Service, cost_of};

use super::queue::{Queue, Time};
use super::scenario::{Arrival, MILLISECOND, Report, Scenario};

/// How often a daemon samples its own load.
const TICK: Time = 90 * MILLISECOND;

/// The servers.
pub struct Cluster {
    servers: Vec<Server>,
    /// What each server knows of each other one: `LOADS`, receiver by receiver.
    loads: Vec<PeerLoad>,
    period: Time,
    report: Report,
    /// Who samples its load next, and when.
    ticks: BinaryHeap<Reverse<(Time, usize)>>,
    seed: u64,
    requests: u64,
}

struct Server {
    queue: Queue,
    service: Service,
    connections: Connections,
    forecast: Forecast,
    /// When it has reported, and whether its load was above the level then.
    told: (Time, bool),
}

impl Cluster {
    /// Servers that go by these levels and this policy.
    pub fn new(scenario: &Scenario, levels: Service) -> Self {
        let count = scenario.servers;
        let cost = cost_of(scenario.workers);
        let servers = (0..count)
            .map(|server| Server {
                queue: scenario.queue(server),
                service: Service {
                    cost,
                    ready: 1,
                    ..levels
                },
                connections: Connections::default(),
                forecast: Forecast::default(),
                told: (0, false),
            })
            .collect();
        let load = PeerLoad {
            cost,
            weight: 65_535,
            flags: OFFERED | READY,
            ..PeerLoad::default()
        };
        // Nobody is in step with anybody.
        let ticks = (0..count)
            .map(|server| Reverse((fold(scenario.seed + server as u64) % TICK, server)))
            .collect();
        Self {
            servers,
            loads: vec![load; count * count],
            period: scenario.period,
            report: scenario.report,
            ticks,
            seed: scenario.seed,
            requests: 0,
        }
    }

    /// Serves a request. Returns where, and until when.
    pub fn arrive(&mut self, request: &Arrival) -> (usize, Time) {
        self.advance(request.at);
        self.requests += 1;
        let home = request.server;
        let count = self.servers.len();
        let server = &mut self.servers[home];
        server.connections.open = server.queue.jobs(request.at);
        let own = Own::from_maps(&server.service, &server.connections);
        let sight = Sight {
            home,
            loads: &self.loads[home * count..][..count],
        };
        let random = fold(self.seed ^ fold(self.requests));
        let place = match decide(&own, &sight, random) {
            Verdict::Steer(peer) => {
                server.connections.steered += 1;
                self.loads[home * count + peer as usize].sent += 1;
                peer as usize
            }
            Verdict::KeepBelowLevel | Verdict::KeepNoCandidate => home,
        };
        let server = &mut self.servers[place];
        server.connections.arrived += 1;
        server.connections.established += 1;
        (place, server.queue.arrive(request.at, request.work))
    }

    /// Jobs that a server has. `now` doesn't go back.
    pub fn jobs(&mut self, server: usize, now: Time) -> u64 {
        self.servers[server].queue.jobs(now)
    }

    /// Lets daemons sample and report until `now`.
    fn advance(&mut self, now: Time) {
        while let Some(&Reverse((at, server))) = self.ticks.peek()
            && at <= now
        {
            self.ticks.pop();
            self.ticks.push(Reverse((at + TICK, server)));
            self.tick(server, at);
        }
    }

    /// A server samples its load, and reports if it is time to or it has crossed its overload level.
    fn tick(&mut self, index: usize, now: Time) {
        let server = &mut self.servers[index];
        server.connections.open = server.queue.jobs(now);
        let moment = Moment::from_maps(now, &server.service, &server.connections);
        let outlook = match self.report {
            Report::Forecast => server.forecast.update(&moment, self.period),
            Report::Moment => Outlook {
                load: moment.load,
                cost: moment.cost,
            },
        };
        let over = outlook.load > server.service.overload;
        if over == server.told.1 && now < server.told.0 + self.period {
            return;
        }
        server.told = (now, over);
        let count = self.servers.len();
        for receiver in (0..count).filter(|receiver| *receiver != index) {
            let load = &mut self.loads[receiver * count + index];
            (load.load, load.cost, load.sent) = (outlook.load, outlook.cost, 0);
        }
    }
}

/// The peers of one server: all others.
struct Sight<'a> {
    home: usize,
    loads: &'a [PeerLoad],
}

impl Peers for Sight<'_> {
    fn count(&self) -> u32 {
        self.loads.len() as u32
    }

    fn candidate(&self, index: u32) -> Option<Candidate> {
        let index = index as usize;
        (index != self.home)
            .then(|| Candidate::from_report(&self.loads[index]))
            .flatten()
    }
}
