//! How full the kernel's tables of flows are, and what all maps take.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use serde::Serialize;

use super::maps::Maps;

/// The tables of flows at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// Flows in `FLOWS`.
    pub flows: usize,
    /// How many there can be.
    pub flows_size: usize,
    /// Flows and fragmented packets in `HALF_OPEN`, of which only first packets were seen.
    pub half_open: usize,
    /// How many there can be.
    pub half_open_size: usize,
    /// Bytes of kernel memory that all maps take.
    pub memory: u64,
}

impl Tables {
    /// Counts what the maps pinned in `pin_dir` hold at `now_ns`. Takes a second for a million flows.
    ///
    /// # Errors
    ///
    /// No balancer is attached, or the kernel refuses.
    pub fn count(pin_dir: &Path, now_ns: u64) -> Result<Self> {
        let maps = Maps::open(pin_dir)?;
        let info = MapData::from_pin(pin_dir.join("FLOWS"))
            .and_then(|map| map.info())
            .context("cannot open the pinned map FLOWS")?;
        let flows_size = info.max_entries() as usize;
        Ok(Self {
            // Bounded: who lists a table that changes may begin anew.
            flows: maps.flows.keys().take(flows_size).flatten().count(),
            flows_size,
            half_open: maps.half_open.count(now_ns)?,
            half_open_size: maps.half_open.size(),
            memory: Maps::memory(pin_dir)?,
        })
    }
}
