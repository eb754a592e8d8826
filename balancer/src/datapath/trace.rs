//! The XDP program's decisions, one by one, as it takes them.
//!
//! It writes them to the ring buffer EVENTS while `Settings::trace_until_ns` lies ahead, which the daemon moves on as often
//! as it is asked to: a tracer that is killed costs nothing two seconds later.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::ProgramInfo;
use balancer_common::types::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::maps::{map_of, other_version};

/// How long decisions are told of after each request.
pub const TOLD_FOR: Duration = Duration::from_secs(2);

/// The decisions of the instance that is pinned in a directory. One reads them at a time.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    /// The directory, locked (flock(2)): what one reads, another doesn't get.
    _alone: File,
}

impl Events {
    /// Opens the ring buffer of `program`, which is pinned in `pin_dir`, and throws away what is left in it. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// It can't be opened, or another process reads it.
    pub fn open(pin_dir: &Path, program: &ProgramInfo) -> Result<Self> {
        let alone =
            File::open(pin_dir).with_context(|| format!("cannot open {}", pin_dir.display()))?;
        match alone.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another `balancer trace` reads the decisions already, and only one can: `fuser -v {}` shows it",
                pin_dir.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", pin_dir.display()));
            }
        }
        // It has no pin: `bpftool map dump` of one fails, and a successor's program has its own.
        let ring =
            map_of(program, "EVENTS")?.ok_or_else(|| other_version("the attached program"))?;
        let mut ring =
            RingBuf::try_from(Map::RingBuf(ring)).context("cannot map the ring buffer EVENTS")?;
        while ring.next().is_some() {}
        // SAFETY: a RingBuf has the same open descriptor until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(std::io::Error::from)
            .context("cannot wait for the ring buffer EVENTS")?;
        Ok(Self {
            ring,
            _alone: alone,
        })
    }

    /// Waits for decisions, and hands each to `take`.
    pub async fn read(&mut self, mut take: impl FnMut(&Event) -> Result<()>) -> Result<()> {
        let mut ready = self
            .ring
            .readable_mut()
            .await
            .context("cannot wait for the ring buffer EVENTS")?;
        let ring = ready.get_inner_mut();
        while let Some(record) = ring.next() {
            if let Some(event) = event(&record) {
                take(&event)?;
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

/// The event in a record; `None`: it is none.
fn event(record: &[u8]) -> Option<Event> {
    if record.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: the record is as long as an event, which may be of any bytes (it is Pod) and is copied from wherever it lies.
    Some(unsafe { record.as_ptr().cast::<Event>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_is_no_event() {
        assert!(event(&[0; size_of::<Event>() - 1]).is_none());
        let mut record = [0; size_of::<Event>() + 8];
        record[0] = 7;
        assert_eq!(
            event(&record).map(|event| event.time_ns),
            Some(u64::from_ne_bytes([7, 0, 0, 0, 0, 0, 0, 0]))
        );
    }
}
