//! How many flows the kernel's tables can know, and what all maps take.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::maps::Maps;

/// The table of flows, and all maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// How many flows `FLOWS` holds at the most.
    pub flows_size: usize,
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
        Ok(Self {
            flows_size: maps.flows.size(),
            memory: maps.memory(pin_dir)?,
        })
    }
}
