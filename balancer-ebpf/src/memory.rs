//! `FLOWS`: what was decided on flows, and on fragmented packets.
//!
//! There is no lock. Of two CPUs that write one place at the same time one loses its entry, as if it were evicted, or the two halves of
//! an entry are of both: a flow's next packet then goes to the other one's peer. For that a first packet must come while another one,
//! of one flow in 131,072, is written, within a nanosecond or two.

use balancer_common::table::{Flow, FlowSet, Offer, Place, WAYS, sets_of};
use balancer_common::types::FlowKey;

use crate::maps::FLOWS;

/// Where in `FLOWS` a flow is.
pub struct Spot {
    set: &'static mut FlowSet,
    way: usize,
}

impl Spot {
    /// Where the flow with this hash is.
    #[inline(always)]
    pub fn of(tag: u64, mask: u32) -> Option<Self> {
        Self::at(balancer_find(tag, mask))
    }

    /// Where it is to be remembered: the place that is the first to be given up. None: all are taken.
    #[inline(always)]
    pub fn for_flow(tag: u64, mask: u32, now: u64) -> Option<Self> {
        let (mut place, mut best) = (NOWHERE, Offer::NONE);
        for set in sets_of(tag, mask) {
            let offer = Offer::from_number(balancer_offer(set, tag, now));
            if offer > best {
                (place, best) = (number(set, offer.way()), offer);
            }
        }
        Self::at(place)
    }

    #[inline(always)]
    fn at(number: u64) -> Option<Self> {
        let set = set_at((number / WAYS as u64) as u32)?;
        Some(Self {
            set,
            way: number as usize % WAYS,
        })
    }

    /// What the flow's packets are sent by.
    #[inline(always)]
    pub fn place(&mut self) -> &mut Place {
        &mut self.set.places[self.way]
    }

    /// Enters the flow in full. Not inlined, for the stack's sake.
    #[inline(never)]
    pub fn set_flow(&mut self, key: &FlowKey, now: u64) {
        self.set.flows[self.way] = Flow {
            key: *key,
            opened_ns: now,
        };
    }
}

/// No place of the table has this number.
const NOWHERE: u64 = u64::MAX;

/// The number of the place of the flow with this hash. A function of its own to the verifier (not inlined, and global), to whose callers
/// its result is any number: it goes through each of them once, not once for each place.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn balancer_find(tag: u64, mask: u32) -> u64 {
    let mut found = NOWHERE;
    for index in sets_of(tag, mask) {
        let Some(set) = set_at(index) else { break };
        for (way, place) in set.places.iter().enumerate() {
            if place.tag == tag {
                found = number(index, way);
            }
        }
    }
    found
}

/// What a set has to offer to the flow with this hash. A function of its own as above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn balancer_offer(set: u32, tag: u64, now: u64) -> u64 {
    set_at(set)
        .map_or(Offer::NONE, |set| set.offer(tag, now))
        .number()
}

#[inline(always)]
fn number(index: u32, way: usize) -> u64 {
    u64::from(index) * WAYS as u64 + way as u64
}

#[inline(always)]
fn set_at(index: u32) -> Option<&'static mut FlowSet> {
    let set = FLOWS.get_ptr_mut(index)?;
    // SAFETY: of a map that lives as long as the program; others may write it meanwhile, see above.
    Some(unsafe { &mut *set })
}
