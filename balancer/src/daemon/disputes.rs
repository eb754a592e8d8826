//! Identities that this server has, and another host as well.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use super::links::Sighting;
use super::prepare::Prepared;
use super::probes::Subject;
use super::running::Running;
use super::takeover::held;
use crate::cluster::{Identity, Reason, Status, Timestamp};

/// How often a server looks whether another host has its addresses. Answers to clients' questions it doesn't see.
const DOUBT: Duration = Duration::from_secs(5);

impl Running {
    /// Another host uses an identity of this server's.
    pub(super) fn on_sighting(&mut self, prepared: &mut Prepared, sighting: Sighting) {
        let Sighting { address, mac } = sighting;
        let peer = prepared.exchange.cluster().peer_by_mac(mac);
        let home = prepared.identities.iter().any(|own| own.addr() == address);
        let warning = match peer {
            None => {
                let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
                Some(format!(
                    "{address} is this server's, and the host with the Ethernet address {mac}, whose balancer isn't heard, \
                     uses it as well: take it away from one of them, or start balancer there"
                ))
            }
            // It lets go of it, or is its home, too, which its reports tell. Or it is too soon to say: this server's link was down,
            // and comes first.
            Some(peer) if matches!(peer.status, Status::Online | Status::Suspect) => None,
            // It took it over, and its daemon has ended since.
            Some(peer) => Some(format!(
                "{address} is back here, and {0}, whose balancer isn't heard, uses it as well: start balancer on {0}, or end \
                 what it left with `balancer detach`",
                peer.report.name
            )),
        };
        if home {
            self.warnings.set(&topic(address), warning);
        }
        prepared.exchange.conflict(address, mac);
        self.warn_of_mute(prepared);
    }

    /// Warns of servers that have an identity and can't be told to let go of it, or takes that back.
    fn warn_of_mute(&mut self, prepared: &Prepared) {
        let cluster = prepared.exchange.cluster();
        let seen = |identity: &&Identity| identity.reason == Reason::SeenElsewhere;
        let mute = cluster.identities().filter(seen).filter_map(|identity| {
            let peer = cluster.peer(identity.holder?)?;
            (peer.status != Status::Online).then_some((identity.address.addr(), &peer.report.name))
        });
        let texts: Vec<_> = mute
            .map(|(address, name)| format!("{address} is left to {name}"))
            .collect();
        let warning = (!texts.is_empty()).then(|| {
            format!(
                "{}: its host was seen to use it, and its balancer isn't heard. Start balancer there, or end what it left with \
                 `balancer detach`",
                texts.join(", ")
            )
        });
        self.warnings.set("mute holders", warning);
    }

    /// Asks now and then whether other hosts have what this server has. Who answers is seen on the link.
    pub(super) fn doubt(&mut self, prepared: &Prepared, now: Timestamp) {
        if now.since(self.doubted) < DOUBT {
            return;
        }
        self.doubted = now;
        self.warn_of_mute(prepared);
        for address in held(prepared) {
            self.spawn_probe(prepared, Subject::Own(address), address);
        }
    }

    /// Nobody else has what this server has.
    pub(super) fn on_undisputed(&mut self, address: IpAddr) {
        self.warnings.set(&topic(address), None);
    }

    /// Looks for identities of this server's that this host can't use: when it started, or its link came up, their
    /// caretaker had them.
    pub(super) async fn find_unusable(&mut self, prepared: &Prepared) -> Result<()> {
        self.unusable.clear();
        for (interface, _) in &self.interfaces {
            let found = prepared.host.unusable(interface.index).await?;
            let own =
                |address: &IpAddr| prepared.identities.iter().any(|own| own.addr() == *address);
            self.unusable.extend(found.into_iter().filter(own));
        }
        let addresses: Vec<_> = self.unusable.iter().map(IpAddr::to_string).collect();
        let warning = (!addresses.is_empty()).then(|| {
            format!(
                "{} can't be used here yet: another host was found to have it",
                addresses.join(", ")
            )
        });
        self.warnings.set("unusable addresses", warning);
        Ok(())
    }

    /// Asks whether such identities have been given back.
    pub(super) fn probe_unusable(&mut self, prepared: &Prepared) {
        for address in self.unusable.clone() {
            self.spawn_probe(prepared, Subject::Unusable(address), address);
        }
    }

    /// Nobody else uses an identity of this server's any more.
    pub(super) async fn revive(&mut self, prepared: &Prepared, address: IpAddr) -> Result<()> {
        if !self.unusable.remove(&address) {
            return Ok(());
        }
        if let Some(interface) = self.on_link(address) {
            prepared.host.revive(interface.index, address).await?;
        }
        self.announce(address);
        self.find_unusable(prepared).await
    }
}

fn topic(address: IpAddr) -> String {
    format!("{address} elsewhere")
}
