//! Verdicts carried out: counted, told of, and made a fate.

use balancer_common::hash::flow_hash;
use balancer_common::types::{Connections, KEPT, MAX_SERVICES, Reason};
use balancer_common::wire;

use crate::account::{count, count_peer, tell};
use crate::atomic::{add_u32, add_u64};
use crate::choice::own;
use crate::forward::Way;
use crate::maps::{CONNECTIONS, LOADS};
use crate::memory::Spot;
use crate::steer::{Passage, living_peer};

/// What is to become of a packet of a service.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// The local stack gets it.
    Local(Reason),
    /// As above, and it is a flow's first: part of the load until it has become a connection.
    Admit(Reason),
    /// Nobody gets it.
    Drop(Reason),
    /// The peer at this index gets it.
    Forward(Reason, u32),
    /// As above, and it is a flow's first.
    Steer(Reason, u32),
}

/// What becomes of a packet.
pub enum Fate {
    /// The local stack gets it.
    Local,
    /// Nobody gets it.
    Drop,
    /// It goes on to a peer.
    Forward(Way),
}

#[inline(always)]
pub fn carry_out(passage: &Passage, verdict: Verdict) -> Fate {
    match verdict {
        Verdict::Local(reason) => {
            if reason == Reason::FALLEN_BACK {
                tell_of(passage, reason, KEPT);
            }
            local(passage, reason)
        }
        Verdict::Admit(reason) => {
            // First, since the load it tells of is the one that was decided by.
            tell_of(passage, reason, KEPT);
            add(passage, |connections| &raw mut connections.arrived);
            local(passage, reason)
        }
        Verdict::Drop(reason) => {
            count(passage.entry, reason);
            Fate::Drop
        }
        Verdict::Forward(reason, peer) => forward(passage, reason, peer),
        Verdict::Steer(reason, peer) => {
            if let Some(load) = LOADS.get_ptr_mut(peer * MAX_SERVICES + passage.service()) {
                // SAFETY: an aligned word of a map that lives as long as the program.
                unsafe { add_u32(&raw mut (*load).sent, 1) };
            }
            add(passage, |connections| &raw mut connections.steered);
            count_peer(peer, |counters| &mut counters.flows);
            tell_of(passage, reason, peer);
            forward(passage, reason, peer)
        }
    }
}

#[inline(always)]
fn local(passage: &Passage, reason: Reason) -> Fate {
    if passage.packet.fragmented {
        // Its id may have been another packet's, which went to a peer.
        if let Some(mut spot) = Spot::of(fragments(passage), passage.settings.flows_mask) {
            spot.place().tag = 0;
        }
    }
    count(passage.entry, reason);
    Fate::Local
}

/// The hash that the packet's later fragments are known by.
#[inline(always)]
fn fragments(passage: &Passage) -> u64 {
    flow_hash(
        &wire::fragments(passage.flow, passage.packet.id),
        passage.settings.seed,
    )
}

/// On to a peer, unless the packet has come too far.
#[inline(always)]
fn forward(passage: &Passage, reason: Reason, index: u32) -> Fate {
    let packet = &passage.packet;
    // The local stack would reset a flow that it doesn't know.
    if packet.hops <= 1 {
        count(passage.entry, Reason::HOP_LIMIT);
        return Fate::Drop;
    }
    let Some(peer) = living_peer(index) else {
        return local(passage, Reason::ERRORS);
    };
    if packet.fragmented {
        // Where there is no room its later fragments go astray, and its sender sends it again.
        passage.remember(fragments(passage), index as u16);
    }
    count(passage.entry, reason);
    count_peer(index, |counters| &mut counters.packets);
    Fate::Forward(Way {
        peer,
        entry: passage.entry,
        at: packet.at,
        length: packet.length,
        redirect: passage.settings.redirect != 0,
        spread: if peer.tunnel == 0 {
            0
        } else {
            passage.tag as u16
        },
    })
}

#[inline(always)]
fn add(passage: &Passage, field: impl FnOnce(&mut Connections) -> *mut u64) {
    if let Some(connections) = CONNECTIONS.get_ptr_mut(passage.service()) {
        // SAFETY: an aligned word of a map that lives as long as the program.
        unsafe { add_u64(field(&mut *connections), 1) };
    }
}

/// Tells of a decision, if anybody listens.
#[inline(always)]
fn tell_of(passage: &Passage, reason: Reason, peer: u32) {
    if passage.now < passage.settings.trace_until_ns {
        let (now, service) = (passage.now, passage.service());
        let load = own(service).map_or(0, |own| own.load);
        tell(now, passage.flow, service, reason, peer, load);
    }
}
