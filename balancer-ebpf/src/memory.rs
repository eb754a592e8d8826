//! `HALF_OPEN`: what was decided on flows of which only first packets were seen, and on fragmented packets.
//!
//! A table of sets of four, found by hash: a SYN flood costs a cache line a packet and evicts nothing but its like. It has no
//! lock. Of two CPUs that write one place at the same time one loses its entry, as if it were evicted, or the two halves of an entry are
//! of both: a flow's next packet then goes to the other one's peer. For that a first packet must come while another one, of
//! one flow in 65,536, is written, within a nanosecond or two.

use balancer_common::types::{HalfOpen, HalfOpenSet, SAME_FLOW_NS, WAYS, millis};

use crate::maps::HALF_OPEN;

/// What is remembered of the flow with this hash, unless it is too old.
#[inline(always)]
pub fn recall(tag: u64, mask: u32, now: u64) -> Option<HalfOpen> {
    let set = set_of(tag, mask)?;
    // Whole from the start: the verifier would meet an Option's fields before they are set.
    let mut found = HalfOpen {
        tag: !tag,
        ..HalfOpen::default()
    };
    for way in &set.ways {
        if way.tag == tag {
            found = *way;
        }
    }
    (found.tag == tag && found.is_fresh(now, SAME_FLOW_NS)).then_some(found)
}

/// Remembers a flow in the place of an older entry of its own, or of the one not seen for longest.
#[inline(always)]
pub fn remember(tag: u64, mask: u32, now: u64, peer: u16, service: u32) {
    let Some(set) = set_of(tag, mask) else { return };
    let now_ms = millis(now);
    let (mut oldest, mut age) = (0, 0);
    for (index, way) in set.ways.iter().enumerate() {
        // Its own first, then a free one, then the oldest.
        let its_age = if way.tag == tag {
            u64::MAX
        } else if way.tag == 0 {
            u64::MAX - 1
        } else {
            u64::from(way.age_ms(now)) + 1
        };
        if its_age > age {
            (oldest, age) = (index, its_age);
        }
    }
    set.ways[oldest & (WAYS - 1)] = HalfOpen {
        tag,
        seen_ms: now_ms,
        peer,
        service: service as u16,
    };
}

/// Forgets a flow.
#[inline(always)]
pub fn forget(tag: u64, mask: u32) {
    let Some(set) = set_of(tag, mask) else { return };
    for way in &mut set.ways {
        if way.tag == tag {
            way.tag = 0;
        }
    }
}

#[inline(always)]
fn set_of(tag: u64, mask: u32) -> Option<&'static mut HalfOpenSet> {
    let set = HALF_OPEN.get_ptr_mut((tag >> 32) as u32 & mask)?;
    // SAFETY: of a map that lives as long as the program; others may write it meanwhile, see above.
    Some(unsafe { &mut *set })
}
