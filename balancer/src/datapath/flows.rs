//! `FLOWS` as user space sees it: the kernel's own memory, mapped.
//!
//! The programs go on writing it meanwhile. As between two of their CPUs, what is read may be of two flows, and what is written may be
//! lost, if both happen within a nanosecond or two.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use balancer_common::table::{Flow, FlowSet, HALF_OPEN, Offer, Place, WAYS, sets_of};
use memmap2::{MmapOptions, MmapRaw};

use super::maps::{other_version, unpinned};

/// The map.
pub struct FlowTable {
    map: MapData,
    sets: u32,
    view: OnceLock<FlowView>,
}

impl FlowTable {
    /// The table of the programs whose other maps are pinned in `pin_dir`.
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        let map = unpinned(pin_dir, "FLOWS")?.with_context(|| {
            format!(
                "no program is loaded that goes by the maps in {}: `balancer detach IFACE` removes what is left of it",
                pin_dir.display()
            )
        })?;
        let info = map.info().context("cannot ask how large FLOWS is")?;
        if info.value_size() as usize != size_of::<FlowSet>() {
            return Err(other_version("the attached program"));
        }
        Ok(Self {
            map,
            sets: info.max_entries(),
            view: OnceLock::new(),
        })
    }

    pub(super) fn map(&self) -> &MapData {
        &self.map
    }

    /// Sets, a power of two, less one: the part of a hash that tells a set.
    pub fn mask(&self) -> u32 {
        self.sets - 1
    }

    /// How many flows there can be.
    pub fn size(&self) -> usize {
        self.sets as usize * WAYS
    }

    /// The table's memory, mapped when it is first asked for.
    pub fn view(&self) -> Result<&FlowView> {
        if let Some(view) = self.view.get() {
            return Ok(view);
        }
        let memory = MmapOptions::new()
            .len(self.sets as usize * size_of::<FlowSet>())
            .map_raw(self.map.fd().as_fd().as_raw_fd())
            .context("cannot map FLOWS into memory")?;
        let mask = self.mask();
        Ok(self.view.get_or_init(|| FlowView { memory, mask }))
    }
}

/// The table's memory.
pub struct FlowView {
    memory: MmapRaw,
    mask: u32,
}

impl FlowView {
    /// The place of the flow with this hash.
    pub fn get(&self, tag: u64) -> Option<Place> {
        self.find(tag).map(|(_, place)| place)
    }

    /// The same, with the flow in full: that of another one, if only first packets were seen.
    pub fn get_in_full(&self, tag: u64) -> Option<(Place, Flow)> {
        self.find(tag).map(|(slot, place)| {
            // SAFETY: within the mapping, aligned; any bytes make a value.
            (place, unsafe { self.pointers(slot).1.read_volatile() })
        })
    }

    /// Enters a flow in full, where the programs would. False: there is no room.
    pub fn enter(&self, place: Place, flow: Flow, now_ns: u64) -> bool {
        let offers = sets_of(place.tag, self.mask).map(|set| {
            let seen = FlowSet {
                places: std::array::from_fn(|way| self.place(Slot { set, way })),
                ..FlowSet::default()
            };
            (seen.offer(place.tag, now_ns), set)
        });
        let [first, second] = offers;
        let (offer, set) = if second.0 > first.0 { second } else { first };
        if offer <= Offer::NONE {
            return false;
        }
        let best = Slot {
            set,
            way: offer.way(),
        };
        let (at, flow_at) = self.pointers(best);
        // SAFETY: both lie within the mapping and are aligned. The programs' readers go by the place, which is written last.
        unsafe {
            flow_at.write_volatile(flow);
            at.write_volatile(place);
        }
        true
    }

    /// Drops the flow with this hash.
    pub fn remove(&self, tag: u64) {
        for slot in self.places_of(tag) {
            if self.place(slot).tag == tag {
                // SAFETY: within the mapping, aligned.
                unsafe { self.pointers(slot).0.write_volatile(Place::default()) };
            }
        }
    }

    /// Drops the flows that `goes` says.
    pub fn forget(&self, goes: impl Fn(&Place) -> bool) {
        for (slot, place) in self.iter() {
            if goes(&place) {
                // SAFETY: within the mapping, aligned.
                unsafe { self.pointers(slot).0.write_volatile(Place::default()) };
            }
        }
    }

    /// All flows of which more than first packets were seen.
    pub fn flows(&self) -> impl Iterator<Item = (Place, Flow)> {
        self.iter()
            .filter(|(_, place)| place.state != HALF_OPEN)
            .filter_map(|(slot, place)| {
                // SAFETY: within the mapping, aligned; any bytes make a value.
                let flow = unsafe { self.pointers(slot).1.read_volatile() };
                // It may have become another's meanwhile.
                (self.place(slot).tag == place.tag).then_some((place, flow))
            })
    }

    /// All places that are taken.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.iter().map(|(_, place)| place)
    }

    fn iter(&self) -> impl Iterator<Item = (Slot, Place)> {
        (0..=self.mask)
            .flat_map(|set| (0..WAYS).map(move |way| Slot { set, way }))
            .map(|slot| (slot, self.place(slot)))
            .filter(|(_, place)| place.tag != 0)
    }

    fn find(&self, tag: u64) -> Option<(Slot, Place)> {
        let places = self.places_of(tag).map(|slot| (slot, self.place(slot)));
        places.into_iter().find(|(_, place)| place.tag == tag)
    }

    fn places_of(&self, tag: u64) -> [Slot; 2 * WAYS] {
        let sets = sets_of(tag, self.mask);
        std::array::from_fn(|number| Slot {
            set: sets[number / WAYS],
            way: number % WAYS,
        })
    }

    fn place(&self, slot: Slot) -> Place {
        // SAFETY: within the mapping, aligned; any bytes make a value.
        unsafe { self.pointers(slot).0.read_volatile() }
    }

    #[expect(
        clippy::cast_ptr_alignment,
        reason = "the kernel maps memory by the page"
    )]
    fn pointers(&self, Slot { set, way }: Slot) -> (*mut Place, *mut Flow) {
        assert!(set <= self.mask && way < WAYS, "no such place");
        // SAFETY: the mapping has `mask + 1` sets.
        unsafe {
            let set = self.memory.as_mut_ptr().cast::<FlowSet>().add(set as usize);
            let (places, flows) = (&raw mut (*set).places, &raw mut (*set).flows);
            (
                places.cast::<Place>().add(way),
                flows.cast::<Flow>().add(way),
            )
        }
    }
}

/// Where in the table.
#[derive(Clone, Copy)]
struct Slot {
    set: u32,
    way: usize,
}
