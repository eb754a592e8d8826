//! What the daemon does about identities: takes them over, lets them go, announces them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;

use super::prepare::Prepared;
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
        self.warnings.set(&topic(address), None);
        let Some(interface) = self.on_link(address).cloned() else {
            prepared.exchange.renounce(address);
            return Ok(());
        };
        // Before the first packet comes it is known that only services are to be served there, and unknown flows not reset.
        prepared.assumed.insert(address, interface.index);
        self.set_held(prepared)?;
        let now = clock::monotonic();
        self.doubt_flows_before(now)?;
        self.recovery.note_got(address, now);
        self.recover(vec![address], None, true)?;
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
            self.recovery.forget(address);
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

    /// Removes an identity of another server from this host. Where that fails it is tried again, by [`Self::release_left`].
    pub(super) async fn release(&mut self, prepared: &mut Prepared, address: IpAddr) -> Result<()> {
        self.recovery.forget(address);
        self.links.set_held(held(prepared));
        let released = prepared.host.release(address).await;
        let warning = released.as_ref().err().map(|error| {
            format!("{address} is not this server's any more, but can't be given up yet: {error:#}")
        });
        self.warnings.set(&topic(address), warning);
        // As long as the address is there, none but services are served on it.
        if released.is_err() {
            return Ok(());
        }
        prepared.assumed.remove(&address);
        self.set_held(prepared)?;
        self.set_foreign(prepared).await
    }

    /// Removes what this host has and this server doesn't hold: it could not be removed before.
    pub(super) async fn release_left(&mut self, prepared: &mut Prepared) -> Result<()> {
        let held = held(prepared);
        let there = prepared
            .host
            .assumed()
            .chain(prepared.assumed.keys().copied());
        let left: BTreeSet<_> = there.filter(|address| !held.contains(address)).collect();
        for address in left {
            self.release(prepared, address).await?;
        }
        Ok(())
    }

    /// Tells the link of an identity once more who has it.
    pub(super) fn announce(&mut self, address: IpAddr) {
        let usable = !self.unusable.contains(&address);
        if let Some(interface) = self.on_link(address).filter(|_| usable).cloned() {
            self.links.announce(&interface, address);
        }
    }

    /// Tells the links of all identities that this server holds.
    pub(super) fn announce_all(&mut self, prepared: &Prepared) {
        self.links.set_held(held(prepared));
        for address in held(prepared) {
            self.announce(address);
        }
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

/// What people call a server.
pub(super) fn server_name(prepared: &Prepared, id: ServerId) -> String {
    if id == prepared.id {
        return prepared.options.config.server.name.to_string();
    }
    let peer = prepared.exchange.cluster().peer(id);
    peer.map_or_else(|| id.to_string(), |peer| peer.report.name.clone())
}

/// The identities that this server holds. Its host may have others, which it couldn't remove yet.
pub(super) fn held(prepared: &Prepared) -> BTreeSet<IpAddr> {
    let identities = prepared.exchange.cluster().identities();
    identities
        .filter(|identity| identity.holder == Some(prepared.id))
        .map(|identity| identity.address.addr())
        .collect()
}

fn topic(address: IpAddr) -> String {
    format!("{address} given up")
}
