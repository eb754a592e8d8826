//! The way of a packet of a service.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use balancer_common::hash::flow_hash;
use balancer_common::table::{CLOSING, HALF_OPEN, NO_PEER, OPEN_TCP, OPEN_UDP, Place, millis};
use balancer_common::types::{
    ASSUMED, Address, DOUBT_NS, FOREIGN, FlowKey, HELD, Identity, Mac, PEER_ALIVE, Peer, Reason,
    SAME_PACKET_NS, STRANGER_NS, Settings,
};
use balancer_common::wire::{self, Kind, Packet};

use crate::carry::Verdict;
use crate::choice;
use crate::maps::{AT_HAND, IDENTITIES, PEER_MACS, PEERS};
use crate::memory::Spot;
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
    /// But for its flow.
    pub packet: Packet,
    /// Its flow, which would take too much of the stack.
    pub flow: &'static FlowKey,
    /// The hash of its flow under the secret seed.
    pub tag: u64,
    /// Its service's entry in `COUNTERS`: one more than the index into `SERVICES`.
    pub entry: u32,
    pub settings: &'static Settings,
    pub now: u64,
}

impl<'a> Passage<'a> {
    #[inline(always)]
    pub fn new(
        frame: &'a XdpFrame<'a>,
        packet: Packet,
        entry: u32,
        settings: &'static Settings,
    ) -> Option<Self> {
        let at_hand = AT_HAND.get_ptr_mut(0)?;
        // SAFETY: each CPU has one, and handles one packet at a time.
        let flow = unsafe { &mut (*at_hand).flow };
        *flow = packet.flow;
        Some(Self {
            frame,
            packet,
            flow,
            tag: flow_hash(flow, settings.seed),
            entry,
            settings,
            now: now(),
        })
    }

    #[inline(always)]
    pub fn verdict(&self) -> Verdict {
        match self.packet.kind {
            Kind::Tcp | Kind::Udp => self.flow(),
            Kind::Fragment => self.fragment(),
            Kind::Error => self.error(),
        }
    }

    #[inline(always)]
    fn flow(&self) -> Verdict {
        if let Some(verdict) = self.known_flow() {
            return verdict;
        }
        if self.is_first() {
            self.first_packet()
        } else {
            self.stranger()
        }
    }

    /// A flow that has a place in FLOWS. None: it hasn't, or not one to go by, or is to be decided on anew.
    #[inline(always)]
    fn known_flow(&self) -> Option<Verdict> {
        let mut spot = Spot::of(self.tag, self.settings.flows_mask)?;
        let flow = *spot.place();
        let steered = flow.peer != NO_PEER;
        if steered && self.is_doubtful(flow) {
            if self.packet.opens() {
                spot.place().tag = 0;
            }
            return None;
        }
        let ended = flow.has_ended(self.now, self.packet.opens());
        let lost = steered && living_peer(flow.peer.into()).is_none();
        if ended || lost {
            spot.place().tag = 0;
            return (!ended && !self.is_first()).then_some(Verdict::Local(Reason::FALLEN_BACK));
        }
        let repeated = flow.state == HALF_OPEN && self.packet.opens();
        if steered && self.from_peer() {
            return Some(if repeated {
                Verdict::Admit(Reason::NOT_STEERED_TWICE)
            } else {
                Verdict::Local(Reason::NOT_STEERED_TWICE)
            });
        }
        spot.place().seen_ms = millis(self.now);
        if !repeated {
            self.go_on(&mut spot, flow);
        }
        Some(match (steered, repeated) {
            (false, false) => Verdict::Local(Reason::LOCAL),
            (false, true) => Verdict::Local(Reason::KEPT_REPEATED),
            (true, false) => Verdict::Forward(Reason::STEERED, flow.peer.into()),
            (true, true) => Verdict::Forward(Reason::STEERED_REPEATED, flow.peer.into()),
        })
    }

    /// Remembers what the packet tells of its flow, if that is anything new.
    #[inline(always)]
    fn go_on(&self, spot: &mut Spot, flow: Place) {
        if flow.state == HALF_OPEN {
            // It is more than a SYN of a flood.
            choice::keep_client_with(self, flow.peer);
            if flow.peer == NO_PEER && !self.is_udp() {
                // The kernel's own socket knows of it.
                spot.place().tag = 0;
                return;
            }
            spot.set_flow(self.flow, self.now);
            spot.place().state = self.state();
        } else if (flow.state == OPEN_TCP && self.packet.closes())
            || (flow.state == CLOSING && self.packet.opens())
        {
            spot.place().state = self.state();
        }
    }

    /// The state of a flow that this packet is not the first of.
    #[inline(always)]
    fn state(&self) -> u8 {
        if self.is_udp() {
            OPEN_UDP
        } else if self.packet.closes() {
            CLOSING
        } else {
            OPEN_TCP
        }
    }

    /// A packet in the midst of a flow without an entry: one that is kept, or one that was lost sight of.
    #[inline(always)]
    fn stranger(&self) -> Verdict {
        if self.is_in_grace() && !choice::has_socket(self) {
            return Verdict::Drop(Reason::GRACE);
        }
        Verdict::Local(Reason::LOCAL)
    }

    /// Whether it isn't known yet which flows there are on this identity.
    #[inline(always)]
    fn is_in_grace(&self) -> bool {
        self.now < self.settings.grace_until_ns
            && self
                .identity()
                .is_some_and(|identity| self.now < identity.grace_until_ns)
    }

    /// Whether who had the identity before this server got it knows better: the client's port may be another connection's by now.
    #[inline(always)]
    fn is_doubtful(&self, flow: Place) -> bool {
        let had_ns = self.now.saturating_sub(self.settings.got_ns);
        had_ns < DOUBT_NS
            && !self.is_udp()
            && !flow.is_fresh(self.now, had_ns)
            && self.is_in_grace()
    }

    /// The first packet of a flow: S201 to S209.
    #[inline(always)]
    fn first_packet(&self) -> Verdict {
        let verdict = match self.identity() {
            Some(identity) => match identity.kind {
                HELD | ASSUMED => choice::choose(self),
                FOREIGN => Verdict::Admit(Reason::GUEST),
                _ => return Verdict::Local(Reason::NOT_OURS),
            },
            None => return Verdict::Local(Reason::NOT_OURS),
        };
        match verdict {
            Verdict::Steer(_, peer) if !self.remember(self.tag, peer as u16) => {
                Verdict::Admit(Reason::KEPT_NO_ROOM)
            }
            // A TCP flow that is kept needs no memory: its socket tells. But the client's next ones may have to follow.
            Verdict::Admit(_) if self.is_udp() || choice::affinity_ns(self.service()) != 0 => {
                self.remember(self.tag, NO_PEER);
                verdict
            }
            _ => verdict,
        }
    }

    /// Remembers where a flow goes, or a fragmented packet. False: there is no room.
    #[inline(always)]
    pub fn remember(&self, tag: u64, peer: u16) -> bool {
        let Some(mut spot) = Spot::for_flow(tag, self.settings.flows_mask, self.now) else {
            return false;
        };
        *spot.place() = Place {
            tag,
            seen_ms: millis(self.now),
            peer,
            service: self.service() as u8,
            state: HALF_OPEN,
        };
        true
    }

    /// What is known of the flow.
    #[inline(always)]
    fn recall(&self) -> Option<Place> {
        Spot::of(self.tag, self.settings.flows_mask).map(|mut spot| *spot.place())
    }

    /// A later fragment follows its first one.
    #[inline(always)]
    fn fragment(&self) -> Verdict {
        match self.recall() {
            Some(packet) if packet.is_fresh(self.now, SAME_PACKET_NS) => {
                self.follow(Reason::STEERED_FRAGMENT, packet.peer)
            }
            _ => Verdict::Local(Reason::LOCAL),
        }
    }

    /// An ICMP error follows the flow that it is about.
    #[inline(always)]
    fn error(&self) -> Verdict {
        match self.recall() {
            Some(flow) if !flow.has_ended(self.now, false) => {
                self.follow(Reason::STEERED_ERROR, flow.peer)
            }
            _ => Verdict::Local(Reason::LOCAL),
        }
    }

    #[inline(always)]
    fn follow(&self, reason: Reason, peer: u16) -> Verdict {
        let peer = peer.into();
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
            let known = self
                .recall()
                .is_some_and(|flow| !flow.has_ended(self.now, false));
            self.remember(self.tag, NO_PEER);
            if known {
                return Verdict::Local(Reason::DECAPSULATED);
            }
        }
        Verdict::Admit(Reason::GUEST)
    }

    #[inline(always)]
    fn identity(&self) -> Option<Identity> {
        identity(&self.flow.identity)
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

    /// Whether a peer sent the frame: then it was steered already, or is the peer's own request.
    #[inline(always)]
    pub fn from_peer(&self) -> bool {
        let (Some(sender), Some(at_hand)) =
            (wire::source_mac_number(self.frame), AT_HAND.get_ptr_mut(0))
        else {
            return false;
        };
        // SAFETY: as in `new`; its flow isn't touched here.
        let (stranger, until) =
            unsafe { (&mut (*at_hand).stranger, &mut (*at_hand).stranger_until_ns) };
        if sender == *stranger && self.now < *until {
            return false;
        }
        let [_, _, octets @ ..] = sender.to_be_bytes();
        // SAFETY: only whether the entry is there counts.
        let found = unsafe { PEER_MACS.get(&Mac::new(octets)) }.is_some();
        if !found {
            (*stranger, *until) = (sender, self.now + STRANGER_NS);
        }
        found
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
