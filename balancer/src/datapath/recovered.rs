//! Flows that peers tell of when this server gets an identity, and those that it tells them of.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use balancer_common::hash::flow_hash;
use balancer_common::table::{Flow, HALF_OPEN, NO_PEER, OPEN_TCP, OPEN_UDP, Place, millis};
use balancer_common::types::{Address, FlowKey};
use balancer_common::wire::UDP;

use super::flows::FlowView;
use super::maps::Maps;
use crate::cluster::{FlowAt, GRACE, Timestamp};

/// What this server's own knowledge of the flows on an identity is worth.
#[derive(Clone, Copy, Debug)]
pub struct Tenure {
    /// When it got the identity. What it knew before may have changed meanwhile.
    pub got: Timestamp,
    /// When it began to look for the flows on it. What it decided since then it decided without knowing them.
    pub asked: Timestamp,
    /// It has just taken it over, or its network was away until now: what it knew before that isn't worth anything.
    pub acquired: bool,
}

/// The table, for flows to be entered.
pub struct Ledger<'a> {
    view: &'a FlowView,
    seed: u64,
}

impl<'a> Ledger<'a> {
    /// Opens it.
    pub fn open(maps: &'a Maps) -> Result<Self> {
        let settings = maps.settings.get(&0, 0);
        Ok(Self {
            view: maps.flows.view()?,
            seed: settings.context("cannot read the map SETTINGS")?.seed,
        })
    }

    /// Has the packets of a flow sent on to the peer in slot `peer` from now on. One that isn't sure doesn't change what is known since
    /// this server got the identity, and none changes what stands. False: the table has no room for it.
    pub fn enter(
        &self,
        flow: &FlowAt,
        peer: u32,
        service: u32,
        tenure: Tenure,
        now: Timestamp,
    ) -> bool {
        let tag = flow_hash(&key(flow), self.seed);
        if let Some((place, known)) = self.view.get_in_full(tag)
            && if flow.sure {
                tenure.stands(place, known, now)
            } else {
                !tenure.is_worthless(place, now)
            }
        {
            return true;
        }
        self.send_on(flow, peer, service, now)
    }

    /// Has the packets of a flow sent on to the peer in slot `peer` from now on, whatever was known of it. False: the table has no room
    /// for it.
    pub fn send_on(&self, flow: &FlowAt, peer: u32, service: u32, now: Timestamp) -> bool {
        let key = key(flow);
        let place = Place {
            tag: flow_hash(&key, self.seed),
            seen_ms: millis(now.0),
            peer: peer as u16,
            service: service as u8,
            state: if flow.protocol == UDP {
                OPEN_UDP
            } else {
                OPEN_TCP
            },
        };
        let opened_ns = now.0;
        self.view.enter(place, Flow { key, opened_ns }, now.0)
    }

    /// Whether the packets of a flow are sent on.
    pub fn is_sent_on(&self, flow: &FlowAt) -> bool {
        let place = self.view.get(flow_hash(&key(flow), self.seed));
        place.is_some_and(|place| place.peer != NO_PEER)
    }

    /// Has the packets of a flow stay here from now on that a socket of this server's has, unless it had one since this server has the
    /// identity: what was known before that was another connection's, from the same port of the client's.
    pub fn keep_own(&self, flow: &FlowAt, tenure: Tenure, now: Timestamp) {
        let place = self.view.get(flow_hash(&key(flow), self.seed));
        if place.is_some_and(|place| place.peer != NO_PEER && tenure.is_worthless(place, now)) {
            self.keep(flow);
        }
    }

    /// Has the packets of a flow stay here from now on.
    pub fn keep(&self, flow: &FlowAt) {
        self.view.remove(flow_hash(&key(flow), self.seed));
    }
}

fn key(flow: &FlowAt) -> FlowKey {
    FlowKey {
        client: Address::from(flow.client.ip()),
        identity: Address::from(flow.identity.ip()),
        client_port: flow.client.port(),
        port: flow.identity.port(),
        protocol: flow.protocol.into(),
    }
}

impl Tenure {
    /// Whether a flow in the table had no packet since this server has the identity, which it has just acquired.
    fn is_worthless(self, place: Place, now: Timestamp) -> bool {
        self.acquired && self.is_older(place, now)
    }

    fn is_older(self, place: Place, now: Timestamp) -> bool {
        u128::from(place.age_ms(now.0)) > now.since(self.got).as_millis()
    }

    /// Whether a flow in the table is in use, and was decided on by one who could know: it had a packet since this server has the
    /// identity, and its first before this server asked its peers. What is older than that it has has been asked about before: until
    /// then the client's port may be another connection's, which came by way of whoever had the identity.
    fn stands(self, place: Place, flow: Flow, now: Timestamp) -> bool {
        let idle_ms = u128::from(place.age_ms(now.0));
        let decided = if place.state == HALF_OPEN {
            idle_ms > now.since(self.asked).as_millis()
        } else {
            let asked_before = self.got + GRACE <= self.asked;
            flow.opened_ns < self.asked.0 && (flow.opened_ns >= self.got.0 || asked_before)
        };
        decided && !self.is_older(place, now) && !place.has_ended(now.0, false)
    }
}

/// A flow in the table.
pub struct Entry {
    /// IP protocol number.
    pub protocol: u8,
    /// The client's end.
    pub client: SocketAddr,
    /// The identity, and the service's port.
    pub identity: SocketAddr,
    /// The slot of the peer that it is steered to; `None`: it is kept, and UDP.
    pub peer: Option<u32>,
}

/// Visits the flows on `identities` in the table, but UDP's that have ended.
pub fn each(
    maps: &Maps,
    identities: &[IpAddr],
    now: Timestamp,
    mut visit: impl FnMut(Entry),
) -> Result<()> {
    let view = maps.flows.view()?;
    for (place, Flow { key, .. }) in view.flows() {
        let identity = IpAddr::from(key.identity);
        if identities.contains(&identity) && !place.has_ended(now.0, false) {
            visit(Entry {
                protocol: key.protocol as u8,
                client: SocketAddr::new(IpAddr::from(key.client), key.client_port),
                identity: SocketAddr::new(identity, key.port),
                peer: (place.peer != NO_PEER).then_some(place.peer.into()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const GOT: Timestamp = Timestamp(1_000_000_000_000);

    fn at(millis: u64) -> Timestamp {
        GOT + Duration::from_millis(millis)
    }

    /// Got at 0 ms, asked at 5,000 ms, now 5,100 ms.
    fn stands(state: u8, opened: Timestamp, seen: Timestamp) -> bool {
        is_in_use(state, opened, seen, GOT)
    }

    /// As [`stands`], but got at another time.
    fn is_in_use(state: u8, opened: Timestamp, seen: Timestamp, got: Timestamp) -> bool {
        let tenure = Tenure {
            got,
            asked: at(5_000),
            acquired: true,
        };
        let place = Place {
            tag: 1,
            seen_ms: millis(seen.0),
            state,
            ..Place::default()
        };
        let flow = Flow {
            opened_ns: opened.0,
            ..Flow::default()
        };
        tenure.stands(place, flow, at(5_100))
    }

    #[test]
    fn only_what_is_from_before_an_acquisition_is_worthless() {
        let worthless = |acquired, seen: u64, got: Timestamp| {
            let tenure = Tenure {
                got,
                asked: at(5_000),
                acquired,
            };
            let place = Place {
                tag: 1,
                seen_ms: millis(at(seen).0),
                state: OPEN_TCP,
                ..Place::default()
            };
            tenure.is_worthless(place, at(5_100))
        };
        assert!(worthless(true, 4_900, at(5_000)));
        assert!(!worthless(true, 5_050, at(5_000)));
        // It has it all along: a peer has come back, or claims it.
        assert!(!worthless(false, 4_900, at(5_000)));
        assert!(!worthless(true, 100, Timestamp(0)));
    }

    #[test]
    fn what_is_in_use_here_stands_whatever_peers_say() {
        let long_ago = Timestamp(GOT.0 - 9_000_000_000);
        for state in [OPEN_TCP, OPEN_UDP] {
            assert!(stands(state, at(10), at(5_090)));
            assert!(stands(state, at(10), at(20)));
            assert!(stands(state, long_ago, at(20)), "it went on");
            assert!(!stands(state, long_ago, long_ago), "from the time before");
            assert!(
                !stands(state, at(5_001), at(5_090)),
                "decided before the answers were in"
            );
        }
        for got in [at(4_900), at(5_000)] {
            for seen in [4_800, 4_990, 5_050] {
                assert!(
                    !is_in_use(OPEN_TCP, long_ago, at(seen), got),
                    "its port may be another connection's, which came while this server was away"
                );
            }
        }
        assert!(is_in_use(OPEN_TCP, at(4_950), at(5_050), at(4_900)));
        assert!(
            is_in_use(OPEN_TCP, long_ago, at(5_050), Timestamp(0)),
            "it was never away"
        );
        assert!(stands(HALF_OPEN, long_ago, at(4_900)));
        assert!(!stands(HALF_OPEN, long_ago, at(5_001)));
    }
}
