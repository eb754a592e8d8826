//! `HALF_OPEN` as user space sees it: sets of entries, found by hash.

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use balancer_common::types::{HalfOpen, HalfOpenSet, SAME_FLOW_NS, WAYS};

/// The map. What `balancer-ebpf/src/memory.rs` does in the kernel is done here rarely, for explanations and repairs.
pub struct HalfOpenTable {
    sets: Array<MapData, HalfOpenSet>,
}

impl HalfOpenTable {
    pub(super) fn new(sets: Array<MapData, HalfOpenSet>) -> Self {
        Self { sets }
    }

    /// Sets, a power of two, less one: the part of a hash that tells the set.
    pub fn mask(&self) -> u32 {
        self.sets.len() - 1
    }

    /// The entry of the flow with this hash.
    pub fn get(&self, tag: u64) -> Result<Option<HalfOpen>> {
        let set = self.set(self.index(tag))?;
        Ok(set.ways.into_iter().find(|flow| flow.tag == tag))
    }

    /// Enters a flow, in the place of an entry of its own or of any other.
    pub fn insert(&mut self, flow: HalfOpen) -> Result<()> {
        let index = self.index(flow.tag);
        let mut set = self.set(index)?;
        let own = set.ways.iter().position(|way| way.tag == flow.tag);
        let free = set.ways.iter().position(|way| way.tag == 0);
        set.ways[own.or(free).unwrap_or(0)] = flow;
        self.write(index, set)
    }

    /// Drops the flow with this hash.
    pub fn remove(&mut self, tag: u64) -> Result<()> {
        self.drop_from(self.index(tag), |flow| flow.tag == tag)
    }

    /// Drops all flows that are steered to the peer in `slot`.
    pub fn forget_peer(&mut self, slot: u32) -> Result<()> {
        for index in 0..self.sets.len() {
            self.drop_from(index, |flow| flow.tag != 0 && u32::from(flow.peer) == slot)?;
        }
        Ok(())
    }

    /// How many flows it knows at `now_ns`.
    pub fn count(&self, now_ns: u64) -> Result<usize> {
        let known = |flow: &&HalfOpen| flow.tag != 0 && flow.is_fresh(now_ns, SAME_FLOW_NS);
        let mut count = 0;
        for index in 0..self.sets.len() {
            count += self.set(index)?.ways.iter().filter(known).count();
        }
        Ok(count)
    }

    /// How many entries there can be.
    pub fn size(&self) -> usize {
        self.sets.len() as usize * WAYS
    }

    fn index(&self, tag: u64) -> u32 {
        (tag >> 32) as u32 & self.mask()
    }

    fn drop_from(&mut self, index: u32, goes: impl Fn(&HalfOpen) -> bool) -> Result<()> {
        let mut set = self.set(index)?;
        if set.ways.iter().any(&goes) {
            for flow in set.ways.iter_mut().filter(|flow| goes(flow)) {
                *flow = HalfOpen::default();
            }
            self.write(index, set)?;
        }
        Ok(())
    }

    fn set(&self, index: u32) -> Result<HalfOpenSet> {
        self.sets
            .get(&index, 0)
            .context("cannot read the map HALF_OPEN")
    }

    fn write(&mut self, index: u32, set: HalfOpenSet) -> Result<()> {
        self.sets
            .set(index, set, 0)
            .context("cannot write the map HALF_OPEN")
    }
}
