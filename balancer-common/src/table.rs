//! `FLOWS`, the table of flows: sets of four places, each flow in one of the two sets that its hash tells. The program and the daemon go by
//! the same rules for it.
//!
//! What is looked at for each packet, the four places, is one cache line; the flows' addresses stand behind them. There is no lock and no
//! list to keep in order: a SYN flood costs a cache line or two a packet.

use crate::types::FlowKey;

/// Flows of one set.
pub const WAYS: usize = 4;

/// A first packet within this time of the last packet of its flow, in nanoseconds, is a repetition; after it, a new flow that
/// happens to have the same ports. As long as Linux' TIME-WAIT.
pub const SAME_FLOW_NS: u64 = 60_000_000_000;

/// A UDP flow without a packet for this long, in nanoseconds, has ended: its next packet is a first one. As long as Linux'
/// `nf_conntrack_udp_timeout_stream`.
pub const UDP_FLOW_NS: u64 = 120_000_000_000;

/// A TCP flow that has had a packet within this time, in nanoseconds, gives its place to no other.
pub const BUSY_FLOW_NS: u64 = 300_000_000_000;

/// Flows whose hashes fall together. Value of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSet {
    /// In no order.
    pub places: [Place; WAYS],
    /// Of each place.
    pub flows: [Flow; WAYS],
}

/// Where a flow goes. It is known by its hash under the secret seed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The flow's hash; 0: the place is free.
    pub tag: u64,
    /// `CLOCK_MONOTONIC` of the last packet, in milliseconds; wraps.
    pub seen_ms: u32,
    /// Index into `PEERS`, or [`NO_PEER`] for a flow that is kept.
    pub peer: u16,
    /// Index into `SERVICES`.
    pub service: u8,
    /// [`HALF_OPEN`], [`OPEN_TCP`], [`OPEN_UDP`] or [`CLOSING`].
    pub state: u8,
}

/// [`Place::peer`]: the flow is kept.
pub const NO_PEER: u16 = u16::MAX;

/// [`Place::state`]: only first packets were seen, or it is a fragmented packet.
pub const HALF_OPEN: u8 = 0;
/// [`Place::state`]: more than first packets of a TCP flow were seen.
pub const OPEN_TCP: u8 = 1;
/// [`Place::state`]: more than one datagram of a UDP flow was seen.
pub const OPEN_UDP: u8 = 2;
/// [`Place::state`]: the client of a TCP flow has sent its FIN, or a reset.
pub const CLOSING: u8 = 3;

/// A flow in full: written when more than first packets were seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Whose it is.
    pub key: FlowKey,
    /// `CLOCK_MONOTONIC` of its second packet, in nanoseconds, to a few milliseconds.
    pub opened_ns: u64,
}

/// Indices of the sets where the flow with this hash can be. `mask` is the number of sets, a power of two, less one.
#[inline(always)]
pub const fn sets_of(tag: u64, mask: u32) -> [u32; 2] {
    [(tag >> 32) as u32 & mask, tag as u32 & mask]
}

impl Place {
    /// Whether the last packet is at most `limit_ns` older than `now_ns`, for limits of up to some weeks.
    #[inline(always)]
    pub const fn is_fresh(&self, now_ns: u64, limit_ns: u64) -> bool {
        self.age_ms(now_ns) <= (limit_ns / 1_000_000) as u32
    }

    /// Milliseconds from the last packet to `now_ns`; 0 if another CPU has seen it since then.
    #[inline(always)]
    pub const fn age_ms(&self, now_ns: u64) -> u32 {
        let age = millis(now_ns).wrapping_sub(self.seen_ms);
        if age.cast_signed() < 0 { 0 } else { age }
    }

    /// Whether the flow has ended before the packet that comes `now_ns`; `opens`: that is a SYN.
    #[inline(always)]
    pub const fn has_ended(&self, now_ns: u64, opens: bool) -> bool {
        let limit_ns = if self.state == OPEN_UDP {
            UDP_FLOW_NS
        } else if self.state == HALF_OPEN || opens {
            SAME_FLOW_NS
        } else {
            return false;
        };
        !self.is_fresh(now_ns, limit_ns)
    }

    /// How readily the place is given to the flow with this hash: the more, the sooner; 0: not at all.
    #[inline(always)]
    const fn rank(&self, tag: u64, now_ns: u64) -> u64 {
        let idle_ms = self.age_ms(now_ns) as u64;
        if self.tag == tag {
            OWN
        } else if self.tag == 0 {
            FREE
        } else if self.state == OPEN_TCP {
            if idle_ms > BUSY_FLOW_NS / 1_000_000 {
                IDLE | idle_ms
            } else {
                0
            }
        } else if self.state == OPEN_UDP && idle_ms <= UDP_FLOW_NS / 1_000_000 {
            IN_USE | idle_ms
        } else {
            SPARE | idle_ms
        }
    }
}

/// A TCP flow has it that hasn't had a packet for some time.
const IDLE: u64 = 1 << 32;
/// A UDP flow has it.
const IN_USE: u64 = 2 << 32;
/// A flow has it that is half open, closing or ended. A flood of first packets takes places from its like only.
const SPARE: u64 = 3 << 32;
/// Nobody has it.
const FREE: u64 = 4 << 32;
/// The flow itself has it, wherever there is more to spare.
const OWN: u64 = 1 << 60;

/// A set's place for a flow: the greater, the sooner to be taken. The lowest bits are the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offer(u64);

impl Offer {
    const WAY: u64 = WAYS as u64 - 1;

    /// No place at all.
    pub const NONE: Self = Self(Self::WAY);

    /// The offer with this number.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Which of the set's places.
    #[inline(always)]
    pub const fn way(self) -> usize {
        (self.0 & Self::WAY) as usize
    }
}

impl FlowSet {
    /// The set's place that is the first to be given to the flow with this hash, better than [`Offer::NONE`] if there is any.
    ///
    /// Of two sets the one with more places to spare gives one, so that flows fill the sets evenly; of places of one kind that of the flow
    /// idle for longest.
    #[inline(always)]
    pub fn offer(&self, tag: u64, now_ns: u64) -> Offer {
        let (mut best, mut room) = (0, 0);
        for (way, place) in self.places.iter().enumerate() {
            let rank = place.rank(tag, now_ns);
            let offer = rank << 2 | way as u64;
            if offer > best {
                best = offer;
            }
            room += u64::from(rank >= SPARE);
        }
        Offer(best | room << 48)
    }
}

/// Milliseconds of a time as [`Place::seen_ms`] has them.
#[inline(always)]
pub const fn millis(now_ns: u64) -> u32 {
    (now_ns / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn place(state: u8, idle_ns: u64) -> Place {
        Place {
            tag: 7,
            seen_ms: millis(NOW - idle_ns),
            state,
            ..Place::default()
        }
    }

    #[test]
    fn places_are_given_up_in_order() {
        let own = Place {
            tag: 9,
            ..place(OPEN_TCP, 0)
        };
        let order = [
            own,
            Place::default(),
            place(OPEN_UDP, 130 * SECOND),
            place(CLOSING, 90 * SECOND),
            place(HALF_OPEN, 70 * SECOND),
            place(HALF_OPEN, 0),
            place(OPEN_UDP, 119 * SECOND),
            place(OPEN_UDP, 0),
            place(OPEN_TCP, 900 * SECOND),
            place(OPEN_TCP, 301 * SECOND),
            place(OPEN_TCP, 299 * SECOND),
        ];
        let ranks = order.map(|place| place.rank(9, NOW));
        assert!(ranks.is_sorted_by(|a, b| a > b), "{ranks:?}");
        assert_eq!(ranks[ranks.len() - 1], 0);
        assert_eq!(place(OPEN_TCP, 0).rank(9, NOW), 0);
    }

    #[test]
    fn the_set_with_more_to_spare_gives_a_place() {
        let (busy, spare) = (place(OPEN_TCP, 0), place(HALF_OPEN, SECOND));
        let offer = |places| {
            let set = FlowSet {
                places,
                ..FlowSet::default()
            };
            set.offer(9, NOW)
        };
        let idle = place(OPEN_TCP, 400 * SECOND);
        let own = Place { tag: 9, ..busy };
        let sets = [
            [busy, busy, own, busy],
            [Place::default(), Place::default(), spare, spare],
            [busy, spare, place(HALF_OPEN, 9 * SECOND), spare],
            [busy, Place::default(), busy, spare],
            [Place::default(), busy, busy, busy],
            [busy, spare, busy, busy],
            [idle, busy, place(OPEN_UDP, 0), busy],
            [busy, busy, busy, idle],
            [busy; WAYS],
        ];
        let offers = sets.map(offer);
        assert!(offers.is_sorted_by(|a, b| a > b), "{offers:?}");
        assert_eq!(offers.map(Offer::way)[..8], [2, 1, 2, 1, 0, 1, 2, 3]);
        assert!(offers[7] > Offer::NONE && offers[8] <= Offer::NONE);
    }

    /// All flows of a table are in use: how full it can be.
    #[test]
    fn two_thirds_of_the_places_can_be_in_use() {
        const SETS: usize = 1 << 14;
        let mut table = vec![FlowSet::default(); SETS];
        let flows = (SETS * WAYS * 2 / 3) as u64;
        let lost = (1..=flows).map(crate::hash::fold).filter(|tag| {
            let sets = sets_of(*tag, SETS as u32 - 1).map(|set| set as usize);
            let offers = sets.map(|set| (table[set].offer(*tag, NOW), set));
            let (offer, set) = offers.into_iter().max().unwrap();
            if offer > Offer::NONE {
                table[set].places[offer.way()] = Place {
                    tag: *tag,
                    ..place(OPEN_TCP, 0)
                };
            }
            offer <= Offer::NONE
        });
        let lost = lost.count() as u64;
        assert!(lost < flows / 500, "{lost} of {flows} flows found no place");
    }

    #[test]
    fn flows_end() {
        let ended = |state, seconds, opens| place(state, seconds * SECOND).has_ended(NOW, opens);
        assert!(!ended(HALF_OPEN, 60, false) && ended(HALF_OPEN, 61, false));
        assert!(!ended(OPEN_UDP, 120, false) && ended(OPEN_UDP, 121, false));
        for state in [OPEN_TCP, CLOSING] {
            assert!(!ended(state, 900, false));
            assert!(!ended(state, 60, true) && ended(state, 61, true));
        }
    }

    /// CPUs read the clock at different times: who has just been seen by another must not look older than anybody.
    #[test]
    fn what_was_seen_a_moment_later_is_fresh() {
        let now_ns = 7_000_000_000_000_000;
        for (ahead_ms, age_ms) in [(0, 0), (4, 0), (1_000_u32.wrapping_neg(), 1_000)] {
            let place = Place {
                seen_ms: millis(now_ns).wrapping_add(ahead_ms),
                ..Place::default()
            };
            assert_eq!(place.age_ms(now_ns), age_ms);
            assert!(place.is_fresh(now_ns, SECOND));
            assert_eq!(place.is_fresh(now_ns, SECOND - 1_000_000), age_ms < 1_000);
        }
    }

    #[test]
    fn both_sets_are_within_the_table_and_differ() {
        let same = (0..1_000u64)
            .map(|tag| crate::hash::fold(tag + 1))
            .filter(|tag| {
                let [a, b] = sets_of(*tag, 1_023);
                assert!(a < 1_024 && b < 1_024);
                a == b
            })
            .count();
        assert!(same < 10, "{same} of 1,000 have one set for two");
    }
}
