//! Counters, and the record of decisions.

use balancer_common::types::{Counters, FlowKey, PeerCounters, Reason};

use crate::maps::{COUNTERS, EVENTS, PEER_COUNTERS};

/// The entry of `COUNTERS` for packets of no service. A service's is one more than its index.
pub const NO_SERVICE: u32 = 0;

/// Counts a packet in an entry of `COUNTERS`.
#[inline(always)]
pub fn count(entry: u32, reason: Reason) {
    const COUNTERS_OF_ONE: usize = size_of::<Counters>() / size_of::<u64>();
    let place = reason.number() as usize;
    if place < COUNTERS_OF_ONE
        && let Some(counters) = COUNTERS.get_ptr_mut(entry)
    {
        // SAFETY: an entry is as many words, and this is one of them; this CPU's own copy.
        unsafe { *counters.cast::<u64>().add(place) += 1 };
    }
}

/// Counts what is sent to a peer.
#[inline(always)]
pub fn count_peer(index: u32, counter: impl FnOnce(&mut PeerCounters) -> &mut u64) {
    if let Some(counters) = PEER_COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own copy.
        unsafe { *counter(&mut *counters) += 1 };
    }
}

/// Tells whoever listens of a decision.
#[inline(always)]
pub fn tell(now: u64, flow: &FlowKey, service: u32, reason: Reason, peer: u32, load: u32) {
    let Some(mut record) = EVENTS.reserve(0) else {
        // Nobody listens fast enough.
        return count(service + 1, Reason::UNTOLD);
    };
    let event = record.as_mut_ptr();
    // SAFETY: the record is as long as an event; each field is written where it is, since the stack is short.
    unsafe {
        (*event).time_ns = now;
        (*event).flow = *flow;
        (*event).reason = reason.number();
        (*event).service = service;
        (*event).peer = peer;
        (*event).load = load;
    }
    record.submit(0);
}
