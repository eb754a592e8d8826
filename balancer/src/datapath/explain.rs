//! The verdict of the attached program on the first packet of a flow, step by step, from the maps that it goes by.
//!
//! Follows `balancer-ebpf/src/steer.rs` and `choice.rs`; a test runs both on the same packets.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use balancer_common::decide::{self, Candidate, Own, Peers, Verdict};
use balancer_common::hash::flow_hash;
use balancer_common::table::{HALF_OPEN, NO_PEER};
use balancer_common::types::{
    ASSUMED, ClientKey, FOREIGN, FlowKey, HELD, KEPT, MAX_SERVICES, PEER_ALIVE, Peer, PeerLoad,
    Reason, Settings, load_of,
};
use balancer_common::wire::{TCP, UDP};
use serde::Serialize;

use super::maps::Maps;
use super::own::NEVER;
use crate::cluster::Timestamp;
use crate::config::Protocol;

/// What becomes of a first packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Its protocol.
    pub protocol: &'static str,
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

/// Explains the verdict on a packet (for TCP, a SYN) from `client` to `destination` that comes at `now`. `name` tells a peer's
/// name by its id.
pub fn explain(
    maps: &Maps,
    now: Timestamp,
    protocol: Protocol,
    client: SocketAddr,
    destination: SocketAddr,
    name: impl Fn(u64) -> String,
) -> Result<Explanation> {
    let story = Story {
        maps,
        settings: maps.settings.get(&0, 0)?,
        now: now.0,
        protocol,
        name,
        steps: RefCell::default(),
    };
    let (verdict, peer, reason) = story.tell(client, destination)?;
    let peer = peer.map(|slot| story.peer_name(slot)).transpose()?;
    Ok(Explanation {
        protocol: protocol.name(),
        client,
        destination,
        verdict,
        peer,
        reason: reason.name(),
        steps: story.steps.into_inner(),
    })
}

struct Story<'a, N> {
    maps: &'a Maps,
    settings: Settings,
    now: u64,
    protocol: Protocol,
    name: N,
    steps: RefCell<Vec<Step>>,
}

type End = (Outcome, Option<u32>, Reason);

impl<N: Fn(u64) -> String> Story<'_, N> {
    fn tell(&self, client: SocketAddr, destination: SocketAddr) -> Result<End> {
        let entry = self.maps.ports.get(&u32::from(destination.port()), 0)?;
        let (number, protocol) = match self.protocol {
            Protocol::Tcp => (entry.tcp, TCP),
            Protocol::Udp => (entry.udp, UDP),
        };
        let Some(service) = u32::from(number)
            .checked_sub(1)
            .filter(|index| *index < MAX_SERVICES)
        else {
            let (port, protocol) = (destination.port(), self.protocol.name());
            self.say("flow", format!("port {port}/{protocol} is of no service"));
            return Ok((Outcome::Pass, None, Reason::NOT_OURS));
        };
        let key = FlowKey {
            client: client.ip().into(),
            identity: destination.ip().into(),
            client_port: client.port(),
            port: destination.port(),
            protocol: u32::from(protocol),
        };
        if let Some(end) = self.remembered(&key)? {
            return Ok(end);
        }
        let identity = self.maps.identities.get(&key.identity, 0).ok();
        let address = destination.ip();
        match identity.map(|identity| (identity.kind, identity.owner)) {
            Some((HELD | ASSUMED, _)) => {
                self.say(
                    "S201",
                    format!("a new flow to {address}, which this server holds"),
                );
                self.decide(service, &key)
            }
            Some((FOREIGN, owner)) => {
                let holder = self.peer_name(owner)?;
                let text = format!(
                    "{address} is {holder}'s: a packet for it that comes here was steered here"
                );
                self.say("flow", text);
                Ok((Outcome::Keep, None, Reason::GUEST))
            }
            _ => {
                let text = format!("{address} is no identity of the cluster that this server has");
                self.say("flow", text);
                Ok((Outcome::Pass, None, Reason::NOT_OURS))
            }
        }
    }

    /// What FLOWS says of the flow.
    fn remembered(&self, key: &FlowKey) -> Result<Option<End>> {
        let tag = flow_hash(key, self.settings.seed);
        let Some(flow) = self.maps.flows.view()?.get(tag) else {
            return Ok(None);
        };
        let tcp = self.protocol == Protocol::Tcp;
        let seconds = flow.age_ms(self.now) / 1_000;
        if flow.has_ended(self.now, tcp) {
            let text = format!("FLOWS has an entry, {seconds} s old: this is a new flow");
            self.say("flow", text);
            return Ok(None);
        }
        let repeated = tcp && flow.state == HALF_OPEN;
        if flow.peer == NO_PEER {
            let text = format!("FLOWS keeps it here, last packet {seconds} s ago");
            self.say("flow", text);
            let reason = if repeated {
                Reason::KEPT_REPEATED
            } else {
                Reason::LOCAL
            };
            return Ok(Some((Outcome::Keep, None, reason)));
        }
        let slot = u32::from(flow.peer);
        let (peer, name) = (self.maps.peers.get(&slot, 0)?, self.peer_name(slot)?);
        if peer.state != PEER_ALIVE {
            let text = format!("FLOWS steers it to {name}, whose host is dead: this is a new flow");
            self.say("flow", text);
            return Ok(None);
        }
        let text = format!("FLOWS steers it to {name}, last packet {seconds} s ago");
        self.say("flow", text);
        let reason = if repeated {
            Reason::STEERED_REPEATED
        } else {
            Reason::STEERED
        };
        Ok(Some((Outcome::Steer, Some(slot), reason)))
    }

    fn decide(&self, service: u32, key: &FlowKey) -> Result<End> {
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
        let peers = Looks {
            story: self,
            service,
            count: self.settings.peers,
            family: key.client.family(),
            told: RefCell::default(),
        };
        if let Some(end) = self.affine(service, sheet.affinity_ns, key, &own, &peers)? {
            return Ok(end);
        }
        self.say_level(&own);
        match decide::decide(&own, &peers, flow_hash(key, self.settings.seed)) {
            Verdict::KeepBelowLevel => {
                self.say("S204", "keep".into());
                Ok((Outcome::Keep, None, Reason::KEPT_BELOW_LEVEL))
            }
            Verdict::KeepNoCandidate => {
                self.say("S206", "no candidate: keep (S204)".into());
                Ok((Outcome::Keep, None, Reason::KEPT_NO_CANDIDATE))
            }
            Verdict::Steer(slot) => {
                let text = format!("{} chooses {}", own.policy.name(), self.peer_name(slot)?);
                self.say("S208", text);
                let reason = if own.ready {
                    Reason::STEERED_NEW
                } else {
                    Reason::STEERED_NOT_READY
                };
                self.steer(slot, key, reason)
            }
        }
    }

    /// Where the client's last flow went, if that counts and can still be.
    fn affine(
        &self,
        service: u32,
        affinity_ns: u64,
        key: &FlowKey,
        own: &Own,
        peers: &Looks<N>,
    ) -> Result<Option<End>> {
        let client = ClientKey {
            client: key.client,
            service: service.into(),
        };
        let Ok(last) = self.maps.clients.get(&client, 0) else {
            return Ok(None);
        };
        let age = self.now.saturating_sub(last.last_seen_ns);
        if affinity_ns == 0 || age > affinity_ns {
            return Ok(None);
        }
        let seconds = age / 1_000_000_000;
        if last.peer == KEPT && own.ready {
            self.say(
                "flow",
                format!("the client's last flow, {seconds} s ago, was kept here"),
            );
            return Ok(Some((Outcome::Keep, None, Reason::KEPT_BY_AFFINITY)));
        }
        if last.peer == KEPT || !peers.candidate(last.peer).is_some_and(|peer| peer.ready) {
            return Ok(None);
        }
        let name = self.peer_name(last.peer)?;
        self.say(
            "flow",
            format!("the client's last flow, {seconds} s ago, went to {name}"),
        );
        self.steer(last.peer, key, Reason::STEERED_BY_AFFINITY)
            .map(Some)
    }

    fn steer(&self, slot: u32, key: &FlowKey, reason: Reason) -> Result<End> {
        if self.maps.identities.get(&key.client, 0).is_ok() {
            self.say("S204", "the client is a server of the cluster: keep".into());
            return Ok((Outcome::Keep, None, Reason::KEPT_FOR_PEER));
        }
        self.say("S209", format!("steer to {}", self.peer_name(slot)?));
        Ok((Outcome::Steer, Some(slot), reason))
    }

    fn say_level(&self, own: &Own) {
        let level = percent(own.overload);
        let text = if !own.ready {
            "the service is down here, or this server is draining: any healthy peer is better"
                .into()
        } else if own.overload == NEVER {
            "its requests are routed one by one: a server that is ready steers none of its connections (`balancer explain http`)"
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
    count: u32,
    family: u8,
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
        if age > peer.timeout_ns {
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
                    "{name} has {}: {} reported {milliseconds} ms ago, {} flows sent since{}",
                    percent(candidate.load),
                    percent(report.load),
                    report.sent,
                    if peer.tunnel == 0 { "" } else { "; by tunnel" }
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
