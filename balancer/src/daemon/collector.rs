//! This server's flows on some identities, as the kernel knows them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use balancer_common::wire::{TCP, UDP};

use crate::cluster::{FlowAt, ServerId};
use crate::config::{Protocol, Service};
use crate::datapath::connections::{self, Connection};
use crate::datapath::maps::Maps;
use crate::datapath::recovered;
use crate::exchange::clock;

/// Times that the kernel is asked: it may be short of memory for a moment.
const TRIES: u32 = 3;

/// From one to the next: those who ask wait no longer than a fraction of a second.
const PAUSE: Duration = Duration::from_millis(20);

/// The TCP connections on `identities` that end here.
pub(super) fn connections(identities: &[IpAddr]) -> Result<Vec<Connection>> {
    insist(|| connections::on(identities)).context("this server's connections cannot be read")
}

/// What was found, and why that isn't all.
pub struct Flows {
    /// The flows.
    pub flows: Vec<FlowAt>,
    /// What could not be read.
    pub failed: Option<Error>,
}

/// Reads this server's flows on some identities, for a peer.
pub(super) struct Collector {
    pub(super) me: ServerId,
    pub(super) pin_dir: PathBuf,
    pub(super) services: Vec<Service>,
    /// By slot: its id, and whether it answers for itself.
    pub(super) peers: BTreeMap<u32, (ServerId, bool)>,
    pub(super) identities: Vec<IpAddr>,
}

impl Collector {
    /// Reads them all, or as many as can be read.
    pub(super) fn collect(&self) -> Flows {
        // Of TCP the sockets tell. Where they can't be asked, only the one who steered knows.
        let udp = |service: &Service| {
            service
                .ports
                .iter()
                .any(|range| range.protocol == Protocol::Udp)
        };
        let steered =
            if self.services.iter().any(udp) || self.peers.values().any(|(_, answers)| !answers) {
                insist(|| self.steered()).context("the flows that are steered cannot be read")
            } else {
                Ok(Vec::new())
            };
        let mut found = join(
            connections(&self.identities).map(|open| self.ended_here(&open)),
            steered,
        );
        found
            .flows
            .retain(|flow| self.services.iter().any(|service| serves(service, flow)));
        found
    }

    fn ended_here(&self, connections: &[Connection]) -> Vec<FlowAt> {
        let flow = |connection| flow(self.me, connection);
        connections.iter().map(flow).collect()
    }

    fn steered(&self) -> Result<Vec<FlowAt>> {
        let maps = Maps::open(&self.pin_dir)?;
        let mut flows = Vec::new();
        recovered::each(&maps, &self.identities, clock::monotonic(), |entry| {
            let owner = match entry.peer {
                None => Some(self.me),
                Some(slot) => self
                    .peers
                    .get(&slot)
                    .filter(|(_, answers)| entry.protocol == UDP || !answers)
                    .map(|(id, _)| *id),
            };
            if let Some(owner) = owner {
                flows.push(FlowAt {
                    protocol: entry.protocol,
                    client: entry.client,
                    identity: entry.identity,
                    owner,
                    sure: owner == self.me,
                });
            }
        })?;
        Ok(flows)
    }
}

/// A connection of this server's, `me`, as peers are told of it.
pub(super) fn flow(me: ServerId, connection: &Connection) -> FlowAt {
    FlowAt {
        protocol: TCP,
        client: connection.client,
        identity: connection.local,
        owner: me,
        sure: connection.established,
    }
}

/// What both tell: one that fails doesn't silence the other.
fn join(connections: Result<Vec<FlowAt>>, steered: Result<Vec<FlowAt>>) -> Flows {
    let (mut flows, mut failed) = (Vec::new(), None);
    for read in [connections, steered] {
        match read {
            Ok(some) => flows.extend(some),
            Err(error) => failed = Some(error),
        }
    }
    Flows { flows, failed }
}

fn insist<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        if let Ok(found) = read() {
            return Ok(found);
        }
        thread::sleep(PAUSE);
    }
    read()
}

/// Whether the flow is one of the service's.
pub(super) fn serves(service: &Service, flow: &FlowAt) -> bool {
    let protocol = match flow.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return false,
    };
    service.has(protocol, flow.identity.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::net::SocketAddr;

    #[test]
    fn what_fails_once_or_twice_is_read_again() {
        for failures in 0..5 {
            let mut left = failures;
            let read = insist(|| {
                if left > 0 {
                    left -= 1;
                    bail!("no memory");
                }
                Ok(7)
            });
            assert_eq!(read.ok(), (failures < TRIES).then_some(7), "{failures}");
        }
    }

    #[test]
    fn one_failure_does_not_mute_the_whole_answer() {
        let flow = FlowAt {
            protocol: UDP,
            client: SocketAddr::from(([192, 0, 2, 1], 1_024)),
            identity: SocketAddr::from(([10, 0, 0, 1], 53)),
            owner: ServerId(1),
            sure: true,
        };
        let no = || Err(Error::msg("no memory"));
        let half = join(no(), Ok(vec![flow]));
        assert_eq!(half.flows, [flow]);
        assert!(half.failed.is_some());
        assert!(join(Ok(vec![flow]), no()).failed.is_some());
        assert!(join(Ok(vec![flow]), Ok(Vec::new())).failed.is_none());
    }
}
