//! A drain: new connections go to peers, open ones to their ends, until this server may be switched off.
//!
//! What must have ended before that: the connections that are open here, and those that this server steered to peers, since
//! their packets come by way of it. The kernel counts the first. The second only those can count who serve them: each peer
//! reports what it has open on this server's identities, from its socket table, as long as this server drains.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use balancer_common::decide::Candidate;
use balancer_common::types::PEER_ALIVE;

use super::prepare::{Prepared, state_file};
use super::running::Running;
use crate::cluster::Timestamp;
use crate::control::status;
use crate::exchange::clock;
use crate::run_dir::RunDir;

/// How long a flow may be on its way to a peer's count: its handshake with one repetition, the second between two counts,
/// and the next reports, of which one may be lost.
const ON_ITS_WAY: Duration = Duration::from_secs(3);

/// Whether this server drains.
///
/// A file says so, too: a drain outlasts the daemon, whether that is restarted, upgraded or killed, but not the next boot,
/// with which everything in /run is gone.
pub struct Drain {
    marker: PathBuf,
    active: Option<Active>,
}

struct Active {
    since: Timestamp,
    /// Flows that this server has steered since its maps were made, and when that last changed.
    steered: (u64, Timestamp),
    /// The marker's.
    _directory: RunDir,
}

impl Drain {
    /// Goes on with the drain that was begun before the daemon that has its pins in `pin_dir` started, if any.
    pub fn resume(pin_dir: &Path, now: Timestamp) -> Result<Self> {
        let mut drain = Self {
            marker: state_file(pin_dir, "drain"),
            active: None,
        };
        let text = match fs::read_to_string(&drain.marker) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(drain),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read {}", drain.marker.display()));
            }
        };
        log::warn!("draining, as before the start: `balancer undrain` ends it");
        drain.activate(Timestamp(text.trim().parse().unwrap_or(now.0)).min(now))?;
        Ok(drain)
    }

    /// Begins. One that has begun goes on.
    fn begin(&mut self, now: Timestamp) -> Result<()> {
        if self.is_active() {
            return Ok(());
        }
        self.activate(now)?;
        fs::write(&self.marker, now.0.to_string())
            .inspect_err(|_| self.active = None)
            .with_context(|| format!("cannot write {}", self.marker.display()))?;
        log::warn!("draining: new connections go to peers");
        Ok(())
    }

    /// Ends it, if there is one.
    fn end(&mut self) -> Result<()> {
        remove(&self.marker)?;
        if self.active.take().is_some() {
            log::info!("no longer draining");
        }
        Ok(())
    }

    /// Whether new connections are to go to peers.
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    fn activate(&mut self, since: Timestamp) -> Result<()> {
        self.active = Some(Active {
            since,
            steered: (0, since),
            _directory: RunDir::of(&self.marker)?,
        });
        Ok(())
    }
}

/// Ends the drain of a daemon that has its pins in `pin_dir`, and that leaves this host.
pub fn forget(pin_dir: &Path) -> Result<()> {
    remove(&state_file(pin_dir, "drain"))
}

fn remove(marker: &Path) -> Result<()> {
    match fs::remove_file(marker) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", marker.display()))
        }
        _ => Ok(()),
    }
}

impl Running {
    /// Sends new connections to peers, or takes them again. Maps and peers know it when this returns.
    pub(super) fn set_drain(&mut self, prepared: &mut Prepared, on: bool) -> Result<()> {
        if on {
            self.drain.begin(clock::monotonic())?;
        } else {
            self.drain.end()?;
        }
        prepared.http.set_finishing(on);
        self.report(prepared)?;
        self.review_drain()
    }

    /// Looks at what becomes of the drain, if there is one.
    pub(super) fn review_drain(&mut self) -> Result<()> {
        let stranded = self.stranded()?;
        let warning = (!stranded.is_empty()).then(|| {
            format!(
                "no peer can take new connections of {}: this server goes on serving them",
                stranded.join(", ")
            )
        });
        self.warnings.set("drain", warning);
        let Some(active) = &mut self.drain.active else {
            return Ok(());
        };
        let mut steered = 0;
        for index in 0..self.services.count() {
            steered += self.datapath.maps.connections.get(&index, 0)?.steered;
        }
        if active.steered.0 != steered {
            active.steered = (steered, clock::monotonic());
        }
        Ok(())
    }

    /// What is left to wait for; `None` without a drain.
    pub(super) fn drain_status(&self, prepared: &Prepared) -> Result<Option<status::Drain>> {
        let Some(active) = &self.drain.active else {
            return Ok(None);
        };
        let now = clock::monotonic();
        let maps = &self.datapath.maps;
        let mut connections = 0;
        for index in 0..self.services.count() {
            let sheet = maps.services.get(&index, 0)?;
            let counts = maps.connections.get(&index, 0)?;
            connections += counts.opened(&sheet) + counts.pending(&sheet);
        }
        let cluster = prepared.exchange.cluster();
        let own = cluster.timing();
        let (mut steered, mut unheard, mut period) = (0, Vec::new(), own.period);
        for peer in cluster.peers().filter(|peer| peer.status.is_alive()) {
            period = period.max(peer.timing(own).period);
            let mut guests = peer.report.guests.iter();
            match guests.find(|guests| guests.of == prepared.id) {
                Some(guests) => steered += u64::from(guests.connections),
                None => unheard.push(peer.report.name.clone()),
            }
        }
        let quiet = now.since(active.steered.1.max(active.since));
        let settled = quiet > ON_ITS_WAY + period * 2;
        let stranded = self.stranded()?;
        let is_waited_for = !unheard.is_empty() || !stranded.is_empty();
        Ok(Some(status::Drain {
            for_ms: now.since(active.since).as_millis() as u64,
            connections,
            steered,
            ended: connections == 0 && steered == 0 && !is_waited_for && settled,
            unheard,
            stranded,
            settled,
        }))
    }

    /// The services of which no peer can take new connections, while this server drains.
    fn stranded(&self) -> Result<Vec<String>> {
        let mut stranded = Vec::new();
        if self.drain.is_active() {
            for (index, service) in (0..).zip(self.services.iter()) {
                if !self.has_taker(index)? {
                    stranded.push(service.config.name.to_string());
                }
            }
        }
        Ok(stranded)
    }

    fn has_taker(&self, service: u32) -> Result<bool> {
        let maps = &self.datapath.maps;
        let now = clock::monotonic();
        for slot in 0..self.table.count() {
            let peer = maps.peers.get(&slot, 0)?;
            let online = peer.state == PEER_ALIVE
                && now.0.saturating_sub(peer.last_report_ns) <= peer.timeout_ns;
            let candidate = Candidate::from_report(&maps.load(slot, service)?);
            if online && candidate.is_some_and(|candidate| candidate.ready) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
