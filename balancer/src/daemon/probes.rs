//! Finding out whether the host of a silent peer lives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

use super::prepare::Prepared;
use super::running::{Running, TICK};
use crate::cluster::{ServerId, Timestamp};
use crate::datapath::host::{arp, ndp};
use crate::datapath::interface::{Interface, LinkState};
use crate::exchange::clock;

/// How long a host may take to answer a probe: as long as there is until the time-out, and no longer than this.
const PROBE: Duration = Duration::from_millis(200);

/// The least time that a host has to answer, and that is between two probes of the same: however often peers report, the link isn't
/// flooded. At reports each 10 ms a host that is dead is known to be so within the 30 ms of the time-out.
const LEAST: Duration = Duration::from_millis(10);

/// How much later than it should a probe may end. A process that was stopped meanwhile may have missed an answer, and what it asks
/// now must not be answered by that.
const LATE: Duration = Duration::from_millis(50);

/// When the last probes began.
#[derive(Default)]
pub struct Pace(BTreeMap<Subject, Timestamp>);

impl Pace {
    /// Whether a probe may begin now: then it does. Where it may not, the answer to the one before stands, or is still to come.
    fn begins(&mut self, subject: Subject, now: Timestamp) -> bool {
        self.0.retain(|_, begun| now.since(*begun) < LEAST);
        let rests = self.0.contains_key(&subject);
        if !rests {
            self.0.insert(subject, now);
        }
        !rests
    }
}

/// What a probe was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The host of a peer.
    Host(ServerId),
    /// Whoever uses an identity.
    Identity(IpAddr),
    /// Whoever uses one that this server has as well.
    Own(IpAddr),
    /// Whoever uses one of this server's own that it can't use.
    Unusable(IpAddr),
}

/// What a probe gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// What it was about.
    pub subject: Subject,
    /// Somebody answered.
    pub answered: bool,
}

impl Running {
    /// Asks by ARP or neighbour solicitation, on the link that the peer shares with this server, whether its host lives.
    pub(super) fn probe(&mut self, prepared: &Prepared, id: ServerId) {
        let address = prepared.exchange.cluster().peer(id).and_then(|peer| {
            let addresses = peer.report.links.iter().flat_map(|link| &link.addresses);
            addresses
                .map(IpNet::addr)
                .find(|address| self.on_link(*address).is_some())
        });
        if let Some(address) = address {
            self.spawn_probe(prepared, Subject::Host(id), address);
        }
    }

    /// Asks for `address`, which is on a link of ours. The answer comes back as an input; of an address that can't be asked
    /// for there is none, and the peer's flows go on.
    pub(super) fn spawn_probe(&mut self, prepared: &Prepared, subject: Subject, address: IpAddr) {
        let Some(interface) = self.on_link(address).cloned() else {
            return;
        };
        if !self.pace.begins(subject, clock::monotonic()) {
            return;
        }
        let others = match subject {
            Subject::Host(id) => others(prepared, id, address),
            _ => BTreeSet::new(),
        };
        let probed = self.probed.clone();
        let time = match subject {
            // It is asked again at each tick.
            Subject::Unusable(_) => TICK / 2,
            _ => prepared
                .exchange
                .cluster()
                .timing()
                .period
                .clamp(LEAST, PROBE),
        };
        tokio::spawn(async move {
            let (index, mac) = (interface.index, interface.mac);
            // Without a carrier nobody could answer, and silence would say nothing.
            match LinkState::of(index).await {
                Ok(state) if state.carrier => {}
                Ok(_) => return,
                Err(error) => log::warn!("cannot see whether {} is up: {error:#}", interface.name),
            }
            let begun = clock::monotonic();
            let answer = match address {
                IpAddr::V4(target) => {
                    let nobody = Ipv4Addr::UNSPECIFIED;
                    arp::probe(index, mac, nobody, target, &others, time).await
                }
                IpAddr::V6(target) => {
                    let nobody = Ipv6Addr::UNSPECIFIED;
                    ndp::probe(index, mac, nobody, target, &others, time).await
                }
            };
            match answer {
                // The daemon has ended meanwhile if nobody receives this.
                Ok(answer) => {
                    let answered = answer.is_some();
                    if !answered && clock::monotonic().since(begun) > time + LATE {
                        return;
                    }
                    let _ = probed.send(Probed { subject, answered }).await;
                }
                // A question that couldn't be asked has no answer. It is asked again after a time-out.
                Err(error) => log::warn!("cannot ask who has {address}: {error}"),
            }
        });
    }

    pub(super) fn on_link(&self, address: IpAddr) -> Option<&Interface> {
        let on_link =
            |interface: &&Interface| interface.addresses.iter().any(|net| net.contains(&address));
        self.interfaces
            .iter()
            .map(|(interface, _)| interface)
            .find(on_link)
    }

    /// Passes a probe's answer on.
    pub(super) async fn on_probed(
        &mut self,
        prepared: &mut Prepared,
        probed: Probed,
    ) -> Result<()> {
        let Probed { subject, answered } = probed;
        let id = match subject {
            Subject::Host(id) => id,
            Subject::Identity(address) => {
                prepared.exchange.identity_probe_result(address, answered);
                return Ok(());
            }
            Subject::Own(_) | Subject::Unusable(_) if answered => return Ok(()),
            Subject::Own(address) => {
                self.on_undisputed(address);
                return Ok(());
            }
            Subject::Unusable(address) => return self.revive(prepared, address).await,
        };
        if prepared.exchange.cluster().peer(id).is_some() {
            prepared.exchange.probe_result(id, answered);
        } else if !answered {
            log::info!("peer {id}, known to the balancer before this one, is dead");
            self.forget(prepared, id).await?;
        }
        Ok(())
    }
}

/// Who doesn't count if it answers for peer `id` at `address`: where a host's own address is an identity, its caretaker has it when it
/// is dead.
fn others(prepared: &Prepared, id: ServerId, address: IpAddr) -> BTreeSet<[u8; 6]> {
    let cluster = prepared.exchange.cluster();
    let is_its_own = cluster
        .identities()
        .any(|identity| identity.address.addr() == address && identity.home == id);
    // A peer that only a predecessor has heard of may have held the address for another server, to which it has returned since.
    if cluster.peer(id).is_none() && !is_its_own {
        return BTreeSet::new();
    }
    cluster.macs_of_others(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_not_probed_again_at_once() {
        let mut pace = Pace::default();
        let host = Subject::Host(ServerId(1));
        let at = |millis| Timestamp(0) + Duration::from_millis(millis);
        let begun = (0..30).filter(|millis| pace.begins(host, at(*millis)));
        assert_eq!(begun.collect::<Vec<_>>(), [0, 10, 20]);
        assert!(pace.begins(Subject::Host(ServerId(2)), at(21)));
        assert!(pace.begins(Subject::Identity([10, 0, 0, 1].into()), at(21)));
        assert_eq!(pace.0.len(), 3);
    }
}
