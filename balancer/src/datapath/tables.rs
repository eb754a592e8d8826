//! How many flows the kernel's tables can know, and what all maps take.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use serde::Serialize;

use super::maps::Maps;

/// The tables of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// How many flows `FLOWS` holds at the most.
    pub flows_size: usize,
    /// How many flows `HALF_OPEN` holds at the most.
    pub half_open_size: usize,
    /// Bytes of kernel memory that all maps take.
    pub memory: u64,
}

impl Tables {
    /// Those pinned in `pin_dir`.
    ///
    /// # Errors
    ///
    /// No balancer is attached, or the kernel refuses.
    pub fn of(pin_dir: &Path) -> Result<Self> {
        let maps = Maps::open(pin_dir)?;
        let info = MapData::from_pin(pin_dir.join("FLOWS"))
            .and_then(|map| map.info())
            .context("cannot open the pinned map FLOWS")?;
        Ok(Self {
            flows_size: info.max_entries() as usize,
            half_open_size: maps.half_open.size(),
            memory: Maps::memory(pin_dir)?,
        })
    }
}
