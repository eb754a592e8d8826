//! The way of a packet of a service.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use balancer_common::hash::flow_hash;
use balancer_common::types::{
    ASSUMED, Address, FOREIGN, Flow, HELD, HalfOpen, Identity, KEPT, NO_PEER, PEER_ALIVE, Peer,
    Reason, SAME_FLOW_NS, SAME_PACKET_NS, Settings, UDP_FLOW_NS,
};
use balancer_common::wire::{self, Kind, Packet};

use crate::carry::Verdict;
use crate::choice;
use crate::maps::{FLOWS, IDENTITIES, PEER_MACS, PEERS};
use crate::memory::{forget, recall, remember};
use crate::packet::XdpFrame;

/// `CLOCK_MONOTONIC`, to a few milliseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a plain helper call.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// A packet on its way.
pub struct Passage<'a> {
    pub frame: &'a XdpFrame<'a>,
    pub packet: Packet,
    /// Its service's entry in `COUNTERS`: one more than the index into `SERVICES`.
    pub entry: u32,
    pub settings: &'static Settings,
    pub now: u64,
}

impl Passage<'_> {
    #[inline(always)]
    pub fn verdict(&self) -> Verdict {
        match self.packet.kind {
            Kind::Tcp | Kind::Udp => match self.known_flow() {
                Some(verdict) => verdict,
                None => self.unknown_flow(),
            },
            Kind::Fragment => self.fragment(),
            Kind::Error => self.error(),
        }
    }

    /// A flow that has an entry in FLOWS.
    #[inline(always)]
    fn known_flow(&self) -> Option<Verdict> {
        let entry = FLOWS.get_ptr_mut(&self.packet.flow)?;
        // SAFETY: the kernel frees no entry of a table that is allocated as a whole. It may give this one to another flow
        // meanwhile: then this packet goes where that one does, as if its own entry had been evicted a moment before.
        let flow = unsafe { &mut *entry };
        let idle = self.now.saturating_sub(flow.last_seen_ns);
        let ended = if self.is_udp() {
            idle > UDP_FLOW_NS
        } else {
            self.packet.opens() && idle > SAME_FLOW_NS
        };
        let lost = flow.peer != KEPT && living_peer(flow.peer).is_none();
        if ended || lost {
            let _ = FLOWS.remove(&self.packet.flow);
            return (!ended && !self.is_first()).then_some(Verdict::Local(Reason::FALLEN_BACK));
        }
        if flow.peer != KEPT && self.from_peer() {
            return Some(Verdict::Local(Reason::NOT_STEERED_TWICE));
        }
        flow.last_seen_ns = self.now;
        Some(match flow.peer {
            KEPT => Verdict::Local(Reason::LOCAL),
            peer => Verdict::Forward(Reason::STEERED, peer),
        })
    }

    #[inline(always)]
    fn unknown_flow(&self) -> Verdict {
        let tag = self.hash();
        if let Some(verdict) = self.half_open(tag) {
            return verdict;
        }
        if self.is_first() {
            self.first_packet(tag)
        } else {
            self.stranger()
        }
    }

    /// A flow of which only first packets were seen. None: it isn't known, or is to be decided on anew.
    #[inline(always)]
    fn half_open(&self, tag: u64) -> Option<Verdict> {
        let flow = recall(tag, self.settings.half_open_mask, self.now)?;
        let lost = flow.peer != NO_PEER && living_peer(flow.peer.into()).is_none();
        if lost && !self.is_first() {
            return Some(Verdict::Local(Reason::FALLEN_BACK));
        }
        if !lost && flow.peer != NO_PEER && self.from_peer() {
            return Some(if self.packet.opens() {
                Verdict::Admit(Reason::NOT_STEERED_TWICE)
            } else {
                Verdict::Local(Reason::NOT_STEERED_TWICE)
            });
        }
        if !lost && self.packet.opens() {
            return Some(self.repeated(&flow));
        }
        // If it is decided anew and kept, its later packets must not find this entry. One that goes on keeps it: while this CPU
        // enters the flow in FLOWS, another may have its third packet, and not find it there yet.
        if lost || (flow.peer == NO_PEER && !self.is_udp()) {
            forget(tag, self.settings.half_open_mask);
        }
        (!lost).then(|| self.second_packet(&flow))
    }

    /// The first packet of a TCP flow that was decided on a moment ago.
    #[inline(always)]
    fn repeated(&self, flow: &HalfOpen) -> Verdict {
        match flow.peer {
            NO_PEER => Verdict::Local(Reason::KEPT_REPEATED),
            peer => Verdict::Forward(Reason::STEERED_REPEATED, peer.into()),
        }
    }

    /// Another packet of a flow of which first ones were seen: it is more than a SYN of a flood.
    #[inline(always)]
    fn second_packet(&self, flow: &HalfOpen) -> Verdict {
        let peer = match flow.peer {
            NO_PEER => KEPT,
            peer => peer.into(),
        };
        choice::keep_client_with(self, peer);
        // Of a TCP flow that is kept the kernel's own socket knows.
        if peer != KEPT || self.is_udp() {
            self.establish(peer);
        }
        match peer {
            KEPT => Verdict::Local(Reason::LOCAL),
            peer => Verdict::Forward(Reason::STEERED, peer),
        }
    }

    /// A packet in the midst of a flow without an entry: one that is kept, or one that was lost sight of.
    #[inline(always)]
    fn stranger(&self) -> Verdict {
        let grace = self.now < self.settings.grace_until_ns
            && self
                .identity()
                .is_some_and(|identity| self.now < identity.grace_until_ns);
        if grace && !choice::has_socket(self) {
            return Verdict::Drop(Reason::GRACE);
        }
        Verdict::Local(Reason::LOCAL)
    }

    /// The first packet of a flow: S201 to S209.
    #[inline(always)]
    fn first_packet(&self, tag: u64) -> Verdict {
        let verdict = match self.identity() {
            Some(identity) => match identity.kind {
                HELD | ASSUMED => choice::choose(self, tag),
                FOREIGN => Verdict::Admit(Reason::GUEST),
                _ => return Verdict::Local(Reason::NOT_OURS),
            },
            None => return Verdict::Local(Reason::NOT_OURS),
        };
        let peer = match verdict {
            Verdict::Steer(_, peer) => peer as u16,
            // A TCP flow that is kept needs no memory: its socket tells. But the client's next ones may have to follow.
            Verdict::Admit(_) if self.is_udp() || choice::affinity_ns(self.service()) != 0 => {
                NO_PEER
            }
            _ => return verdict,
        };
        let (mask, service) = (self.settings.half_open_mask, self.service());
        remember(tag, mask, self.now, peer, service);
        verdict
    }

    /// A later fragment follows its first one.
    #[inline(always)]
    fn fragment(&self) -> Verdict {
        match recall(self.hash(), self.settings.half_open_mask, self.now) {
            Some(packet) if packet.is_fresh(self.now, SAME_PACKET_NS) => {
                self.follow(Reason::STEERED_FRAGMENT, packet.peer.into())
            }
            _ => Verdict::Local(Reason::LOCAL),
        }
    }

    /// An ICMP error follows the flow that it is about.
    #[inline(always)]
    fn error(&self) -> Verdict {
        // SAFETY: one word is read, at once.
        if let Some(flow) = unsafe { FLOWS.get(&self.packet.flow) } {
            return self.follow(Reason::STEERED_ERROR, flow.peer);
        }
        match recall(self.hash(), self.settings.half_open_mask, self.now) {
            Some(flow) => self.follow(Reason::STEERED_ERROR, flow.peer.into()),
            None => Verdict::Local(Reason::LOCAL),
        }
    }

    #[inline(always)]
    fn follow(&self, reason: Reason, peer: u32) -> Verdict {
        if living_peer(peer).is_none() || self.from_peer() {
            return Verdict::Local(Reason::LOCAL);
        }
        Verdict::Forward(reason, peer)
    }

    /// A packet that came out of a peer's tunnel: steered once, and never again.
    #[inline(always)]
    pub fn unpacked(&self) -> Verdict {
        let held = self
            .identity()
            .is_some_and(|identity| matches!(identity.kind, FOREIGN | HELD | ASSUMED));
        if !held {
            return Verdict::Drop(Reason::TUNNEL_REFUSED);
        }
        if !self.is_first() {
            return Verdict::Local(Reason::DECAPSULATED);
        }
        if self.is_udp() {
            let (tag, mask) = (self.hash(), self.settings.half_open_mask);
            let known = recall(tag, mask, self.now).is_some();
            remember(tag, mask, self.now, NO_PEER, self.service());
            if known {
                return Verdict::Local(Reason::DECAPSULATED);
            }
        }
        Verdict::Admit(Reason::GUEST)
    }

    #[inline(always)]
    fn establish(&self, peer: u32) {
        let flow = Flow {
            last_seen_ns: self.now,
            peer,
            service: self.service(),
        };
        // A table that refuses is like one that forgets.
        let _ = FLOWS.insert(&self.packet.flow, &flow, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn identity(&self) -> Option<Identity> {
        identity(&self.packet.flow.identity)
    }

    /// Whether this is how flows begin: of UDP each packet may be.
    #[inline(always)]
    fn is_first(&self) -> bool {
        self.is_udp() || self.packet.opens()
    }

    #[inline(always)]
    pub fn is_udp(&self) -> bool {
        self.packet.kind == Kind::Udp
    }

    /// Index into `SERVICES`.
    #[inline(always)]
    pub fn service(&self) -> u32 {
        self.entry.wrapping_sub(1)
    }

    /// The flow's hash under the secret seed.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        flow_hash(&self.packet.flow, self.settings.seed)
    }

    /// Whether a peer sent the frame: then it was steered already, or is the peer's own request.
    #[inline(always)]
    pub fn from_peer(&self) -> bool {
        // SAFETY: only whether the entry is there counts.
        wire::source_mac(self.frame).is_some_and(|mac| unsafe { PEER_MACS.get(&mac) }.is_some())
    }
}

/// What address of the cluster this is.
#[inline(always)]
pub fn identity(address: &Address) -> Option<Identity> {
    // SAFETY: the value is copied at once.
    unsafe { IDENTITIES.get(address) }.copied()
}

/// The peer at `index`, unless its host is dead.
#[inline(always)]
pub fn living_peer(index: u32) -> Option<&'static Peer> {
    PEERS.get(index).filter(|peer| peer.state == PEER_ALIVE)
}
