//! What the daemon does about identities: takes them over, lets them go, announces them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;

use super::links::Sighting;
use super::prepare::Prepared;
use super::probes::Subject;
use super::running::Running;
use crate::cluster::{Assumed, Require, ServerId};
use crate::exchange::clock;

impl Running {
    /// Whether this server may be given identities of others: it serves something.
    pub(super) fn may_take_over(&self, prepared: &Prepared) -> bool {
        prepared.options.config.takeover != Require::Never
            && !self.foreign_pending
            && !self.drain.is_active()
            && self.services.iter().any(|service| service.healthy)
    }

    /// Adds an identity of another server to this host and tells its link.
    pub(super) async fn assume(&mut self, prepared: &mut Prepared, assumed: Assumed) -> Result<()> {
        let address = assumed.address.addr();
        let Some(interface) = self.on_link(address).cloned() else {
            prepared.exchange.renounce(address);
            return Ok(());
        };
        // Before the first packet comes it is known that only services are to be served there, and unknown flows not reset.
        prepared.assumed.insert(address, interface.index);
        self.set_held(prepared)?;
        self.recover(vec![address], None)?;
        let added = prepared
            .host
            .assume(
                interface.index,
                assumed.address,
                assumed.home.0,
                assumed.term,
            )
            .await;
        if let Err(error) = added {
            prepared.exchange.renounce(address);
            prepared.assumed.remove(&address);
            self.set_held(prepared)?;
            return Err(error.context(format!("cannot take over {address}")));
        }
        self.links.announce(&interface, address);
        // It isn't foreign any more. But the next one that is to be taken over comes first.
        if prepared.exchange.cluster().is_moving() {
            return Ok(());
        }
        self.set_foreign(prepared).await
    }

    /// Removes an identity of another server from this host.
    pub(super) async fn release(&mut self, prepared: &mut Prepared, address: IpAddr) -> Result<()> {
        // As long as the address is there, none but services are served on it.
        prepared.host.release(address).await?;
        prepared.assumed.remove(&address);
        self.set_held(prepared)?;
        self.set_foreign(prepared).await
    }

    /// Tells the link of an identity once more who has it.
    pub(super) fn announce(&self, address: IpAddr) {
        let usable = !self.unusable.contains(&address);
        if let Some(interface) = self.on_link(address).filter(|_| usable) {
            self.links.announce(interface, address);
        }
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
    pub(super) fn probe_unusable(&self, prepared: &Prepared) {
        for address in &self.unusable {
            self.spawn_probe(prepared, Subject::Unusable(*address), *address);
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

    /// Tells the links of all identities that this server holds.
    pub(super) fn announce_all(&self, prepared: &Prepared) {
        self.links.set_held(held(prepared));
        for address in held(prepared) {
            self.announce(address);
        }
    }

    /// Another host uses an identity of this server's.
    pub(super) fn on_sighting(&mut self, prepared: &mut Prepared, sighting: Sighting) {
        let Sighting { address, mac } = sighting;
        let cluster = prepared.exchange.cluster();
        let known = cluster
            .peers()
            .any(|peer| peer.report.links.iter().any(|link| link.mac == mac));
        let home = prepared.identities.iter().any(|own| own.addr() == address);
        if home && !known {
            let mac = mac_text(mac);
            let text = format!(
                "{address} is this server's, and the host with the Ethernet address {mac}, no server of this cluster, uses it \
                 as well: take it away from one of them"
            );
            self.warnings.set(&format!("{mac} {address}"), Some(text));
        }
        prepared.exchange.conflict(address, mac);
    }

    /// Logs who has an identity now.
    pub(super) fn on_moved(&mut self, prepared: &Prepared, address: IpAddr) {
        let cluster = prepared.exchange.cluster();
        let mut identities = cluster.identities();
        let Some(identity) = identities.find(|identity| identity.address.addr() == address) else {
            return;
        };
        let holder = match identity.holder {
            Some(holder) => server_name(prepared, holder),
            None => "nobody".into(),
        };
        let text = format!(
            "{address} (home {}): {holder} has it now, term {}: {}",
            server_name(prepared, identity.home),
            identity.term,
            identity.reason
        );
        self.history.add(clock::monotonic(), text);
    }

    fn set_held(&mut self, prepared: &Prepared) -> Result<()> {
        self.links.set_held(held(prepared));
        self.table
            .set_assumed(&mut self.datapath.maps, prepared.assumed.clone())?;
        self.write_settings()
    }
}

/// An Ethernet address as people write it; what is said of a host that is no server begins with it.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// What people call a server.
pub(super) fn server_name(prepared: &Prepared, id: ServerId) -> String {
    if id == prepared.id {
        return prepared.options.config.server.name.to_string();
    }
    let peer = prepared.exchange.cluster().peer(id);
    peer.map_or_else(|| id.to_string(), |peer| peer.report.name.clone())
}

/// The identities that this server holds.
pub(super) fn held(prepared: &Prepared) -> BTreeSet<IpAddr> {
    let own = prepared.identities.iter().map(ipnet::IpNet::addr);
    own.chain(prepared.assumed.keys().copied()).collect()
}
