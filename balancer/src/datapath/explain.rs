//! The verdict of the attached program on the first packet of a flow, step by step, from the maps that it goes by.
//!
//! Follows `balancer-ebpf/src/steer.rs`; a test runs both on the same packets.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use balancer_common::decide::{self, Candidate, Own, Peers, Verdict};
use balancer_common::hash::flow_hash;
use balancer_common::types::{
    FOREIGN, Flow, FlowKey, HELD, Identity, MAX_SERVICES, PEER_ALIVE, Peer, PeerLoad, SAME_FLOW_NS,
    load_of,
};
use balancer_common::wire::TCP;
use serde::Serialize;

use super::maps::Maps;
use crate::cluster::Timestamp;

/// What becomes of a first packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Where the packet comes from.
    pub client: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// `keep`: this server serves it. `steer`: it goes on to `peer`. `pass`: balancer has nothing to do with it.
    pub verdict: Outcome,
    /// Name of the peer that gets it, or its id where the name is not known.
    pub peer: Option<String>,
    /// The reason in short: a name as in the map COUNTERS.
    pub reason: &'static str,
    /// How it comes to that.
    pub steps: Vec<Step>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// This server serves it.
    Keep,
    /// It goes on to a peer.
    Steer,
    /// It is not balancer's.
    Pass,
}

/// One step of the decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The patent's number for it, or `flow` for what comes before a decision.
    pub step: &'static str,
    /// What was found.
    pub text: String,
}

/// Explains the verdict on a SYN from `client` to `destination` that a client sends at `now`. `name` tells a peer's name by
/// its id.
pub fn explain(
    maps: &Maps,
    now: Timestamp,
    client: SocketAddr,
    destination: SocketAddr,
    name: impl Fn(u64) -> String,
) -> Result<Explanation> {
    let story = Story {
        maps,
        now: now.0,
        name,
        steps: RefCell::default(),
    };
    let (verdict, peer, reason) = story.tell(client, destination)?;
    let peer = peer.map(|slot| story.peer_name(slot)).transpose()?;
    Ok(Explanation {
        client,
        destination,
        verdict,
        peer,
        reason,
        steps: story.steps.into_inner(),
    })
}

struct Story<'a, N> {
    maps: &'a Maps,
    now: u64,
    name: N,
    steps: RefCell<Vec<Step>>,
}

type End = (Outcome, Option<u32>, &'static str);

impl<N: Fn(u64) -> String> Story<'_, N> {
    fn tell(&self, client: SocketAddr, destination: SocketAddr) -> Result<End> {
        let number = self.maps.ports.get(&u32::from(destination.port()), 0)?.tcp;
        let Some(service) = u32::from(number)
            .checked_sub(1)
            .filter(|index| *index < MAX_SERVICES)
        else {
            self.say(
                "flow",
                format!("port {}/tcp is of no service", destination.port()),
            );
            return Ok((Outcome::Pass, None, "not_ours"));
        };
        let key = FlowKey {
            client: client.ip().into(),
            identity: destination.ip().into(),
            client_port: client.port(),
            port: destination.port(),
            protocol: u32::from(TCP),
        };
        if let Some(slot) = self.known("FLOWS", self.maps.flows.get(&key, 0).ok())? {
            return Ok((Outcome::Steer, Some(slot), "steered"));
        }
        let interface = match self.maps.identities.get(&key.identity, 0).ok() {
            Some(Identity { kind: HELD, owner }) => {
                self.say(
                    "S201",
                    format!(
                        "a new flow to {}, which this server holds",
                        destination.ip()
                    ),
                );
                owner
            }
            Some(Identity {
                kind: FOREIGN,
                owner,
            }) => {
                let holder = self.peer_name(owner)?;
                self.say(
                    "flow",
                    format!(
                        "{} is {holder}'s: a packet for it that comes here was steered here",
                        destination.ip()
                    ),
                );
                return Ok((Outcome::Keep, None, "guest"));
            }
            _ => {
                self.say(
                    "flow",
                    format!(
                        "{} is no identity of the cluster that this server has",
                        destination.ip()
                    ),
                );
                return Ok((Outcome::Pass, None, "not_ours"));
            }
        };
        if let Some(slot) = self.known("HALF_OPEN", self.maps.half_open.get(&key, 0).ok())? {
            return Ok((Outcome::Steer, Some(slot), "steered_repeated"));
        }
        self.decide(service, interface, &key)
    }

    fn decide(&self, service: u32, interface: u32, key: &FlowKey) -> Result<End> {
        let settings = self.maps.settings.get(&0, 0)?;
        let sheet = self.maps.services.get(&service, 0)?;
        let connections = self.maps.connections.get(&service, 0)?;
        let own = Own::from_maps(&sheet, &connections);
        self.say(
            "S202",
            format!(
                "own load {}: {} connections open and {} in the making are {}, the last sample is {}",
                percent(own.load),
                connections.opened(&sheet),
                connections.pending(&sheet),
                percent(load_of(connections.opened(&sheet) + connections.pending(&sheet), sheet.cost)),
                percent(sheet.sample),
            ),
        );
        self.say_level(&own);
        let peers = Looks {
            story: self,
            service,
            interface,
            count: settings.peers,
            family: key.client.family(),
            timeout_ns: settings.timeout_ns,
            told: RefCell::default(),
        };
        let verdict = decide::decide(&own, &peers, flow_hash(key, settings.seed));
        match verdict {
            Verdict::KeepBelowLevel => {
                self.say("S204", "keep".into());
                Ok((Outcome::Keep, None, "kept_below_level"))
            }
            Verdict::KeepNoCandidate => {
                self.say("S206", "no candidate: keep (S204)".into());
                Ok((Outcome::Keep, None, "kept_no_candidate"))
            }
            Verdict::Steer(_) if self.maps.identities.get(&key.client, 0).is_ok() => {
                self.say("S204", "the client is a server of the cluster: keep".into());
                Ok((Outcome::Keep, None, "kept_for_peer"))
            }
            Verdict::Steer(slot) => {
                self.say(
                    "S208",
                    format!("{} chooses {}", own.policy.name(), self.peer_name(slot)?),
                );
                self.say("S209", format!("steer to {}", self.peer_name(slot)?));
                let reason = if own.ready {
                    "steered_new"
                } else {
                    "steered_not_ready"
                };
                Ok((Outcome::Steer, Some(slot), reason))
            }
        }
    }

    fn say_level(&self, own: &Own) {
        let level = percent(own.overload);
        let text = if !own.ready {
            "the service is down here, or this server is draining: any healthy peer is better"
                .into()
        } else if own.load <= own.overload {
            format!("not above the overload level of {level}")
        } else {
            format!(
                "above the overload level of {level}; peers lower by more than {} count",
                percent(own.margin)
            )
        };
        self.say("S203", text);
    }

    /// The slot that an entry of a flow steers to, if the program still goes by it.
    fn known(&self, map: &str, entry: Option<Flow>) -> Result<Option<u32>> {
        let Some(flow) = entry else { return Ok(None) };
        let age = self.now.saturating_sub(flow.last_seen_ns);
        let peer = self.maps.peers.get(&flow.peer, 0)?;
        let name = self.peer_name(flow.peer)?;
        let seconds = age / 1_000_000_000;
        if age > SAME_FLOW_NS {
            self.say(
                "flow",
                format!("{map} has an entry, {seconds} s old: this is a new flow"),
            );
        } else if peer.state != PEER_ALIVE {
            self.say(
                "flow",
                format!("{map} steers it to {name}, whose host is dead: this is a new flow"),
            );
        } else {
            self.say(
                "flow",
                format!("{map} steers it to {name}, last packet {seconds} s ago"),
            );
            return Ok(Some(flow.peer));
        }
        Ok(None)
    }

    fn peer_name(&self, slot: u32) -> Result<String> {
        Ok((self.name)(self.maps.peers.get(&slot, 0)?.id))
    }

    fn say(&self, step: &'static str, text: String) {
        self.steps.borrow_mut().push(Step { step, text });
    }
}

/// The peers, told of as they are looked at.
struct Looks<'a, N> {
    story: &'a Story<'a, N>,
    service: u32,
    /// Where the packet is taken to come in: the interface that has the identity.
    interface: u32,
    count: u32,
    family: u8,
    timeout_ns: u64,
    /// The peers that were told of.
    told: RefCell<BTreeSet<u32>>,
}

impl<N: Fn(u64) -> String> Looks<'_, N> {
    fn look(&self, peer: &Peer, report: &PeerLoad) -> (Option<Candidate>, String) {
        let name = (self.story.name)(peer.id);
        let age = self.story.now.saturating_sub(peer.last_report_ns);
        let milliseconds = age / 1_000_000;
        if peer.state != PEER_ALIVE {
            return (None, format!("{name} is dead (S207)"));
        }
        if peer.interface != self.interface {
            return (None, format!("{name} is on another link"));
        }
        if age > self.timeout_ns {
            return (
                None,
                format!("{name} is off-line (S207): silent for {milliseconds} ms"),
            );
        }
        if peer.families & self.family == 0 {
            return (None, format!("{name} has no address of the flow's family"));
        }
        match Candidate::from_report(report) {
            None => (None, format!("{name} doesn't offer the service")),
            Some(candidate) if !candidate.ready => {
                (Some(candidate), format!("{name} is down or draining"))
            }
            Some(candidate) => (
                Some(candidate),
                format!(
                    "{name} has {}: {} reported {milliseconds} ms ago, {} flows sent since",
                    percent(candidate.load),
                    percent(report.load),
                    report.sent
                ),
            ),
        }
    }
}

impl<N: Fn(u64) -> String> Peers for Looks<'_, N> {
    fn count(&self) -> u32 {
        self.count
    }

    fn candidate(&self, index: u32) -> Option<Candidate> {
        let peer = self.story.maps.peers.get(&index, 0).ok()?;
        let report = self.story.maps.load(index, self.service).ok()?;
        if peer.id == 0 {
            return None;
        }
        let (candidate, text) = self.look(&peer, &report);
        // Round-robin looks at each peer twice.
        if self.told.borrow_mut().insert(index) {
            self.story.say("S205", text);
        }
        candidate
    }
}

/// Basis points as a person reads them.
pub fn percent(basis_points: u32) -> String {
    format!("{:.1} %", f64::from(basis_points) / 100.0)
}
