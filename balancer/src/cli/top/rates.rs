//! What happened between two looks at a daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::control::status::Status;

/// How often something happens, a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// By service, by what became of a packet.
    pub services: BTreeMap<String, BTreeMap<String, f64>>,
    /// By the peer's id: new flows steered to it, and packets.
    pub peers: BTreeMap<String, (f64, f64)>,
}

impl Rates {
    /// From the counters before and after. Those of a daemon that was started anew in between begin again, and give 0.
    pub fn between(before: &Status, after: &Status, passed: Duration) -> Self {
        let rate = |before: u64, after: u64| {
            let seconds = passed.as_secs_f64().max(0.001);
            let count = u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX);
            f64::from(count) / seconds
        };
        let services = after.services.iter().filter_map(|service| {
            let known = before
                .services
                .iter()
                .find(|known| known.name == service.name)?;
            let counters = service.packets.iter().map(|(what, count)| {
                let was = known.packets.get(what).copied().unwrap_or(*count);
                (what.clone(), rate(was, *count))
            });
            Some((service.name.clone(), counters.collect()))
        });
        let peers = after.peers.iter().filter_map(|peer| {
            let known = before.peers.iter().find(|known| known.id == peer.id)?;
            let flows = rate(known.flows, peer.flows);
            Some((peer.id.clone(), (flows, rate(known.packets, peer.packets))))
        });
        Self {
            services: services.collect(),
            peers: peers.collect(),
        }
    }

    /// New flows of a service a second, of the sorts whose names begin so: `kept`, `steered_`, `guest`.
    pub fn flows(&self, service: &str, sort: &str) -> f64 {
        let counters = self.services.get(service).into_iter().flatten();
        counters
            .filter(|(what, _)| what.starts_with(sort) && !what.ends_with("_repeated"))
            // The sum of none would be -0.
            .fold(0.0, |sum, (_, rate)| sum + rate)
    }
}
