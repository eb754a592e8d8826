//! This server's interfaces, which may change at any time: their Ethernet addresses by hand, or as a bond's first member does, and
//! whether they have a carrier.

use anyhow::Result;

use super::links::macs_of;
use super::prepare::Prepared;
use super::running::Running;
use super::takeover::held;
use crate::cluster::Status;
use crate::datapath::interface::{Interface, LinkState};
use crate::datapath::own;
use crate::exchange::clock;

impl Running {
    /// Some link of this host's has changed. A new Ethernet address goes into the maps, and peers and the link are told; as
    /// they are when a link carries again.
    pub(super) async fn on_links(&mut self, prepared: &mut Prepared) -> Result<()> {
        let (mut moved, mut returned) = (false, false);
        for index in 0..prepared.interfaces.len() {
            let interface = &mut prepared.interfaces[index];
            // What can't be looked up now, as an interface that has gone, stays as it was.
            let LinkState { mac, carrier } = match LinkState::of(interface.index).await {
                Ok(state) => state,
                Err(error) => {
                    log::warn!("cannot look at {}: {error:#}", interface.name);
                    continue;
                }
            };
            if carrier != interface.carrier {
                interface.carrier = carrier;
                returned |= carrier;
                let what = if carrier {
                    "is up again"
                } else {
                    "has no carrier"
                };
                let text = format!("{} {what}", interface.name);
                self.history.add(clock::monotonic(), text);
            }
            if mac == interface.mac {
                continue;
            }
            moved = true;
            interface.mac = mac;
            self.interfaces[index].0.mac = mac;
            self.table
                .set_own_mac(&mut self.datapath.maps, interface.index, mac)?;
            let octets = mac.map(|octet| format!("{octet:02x}")).join(":");
            let text = format!("{} has the Ethernet address {octets} now", interface.name);
            self.history.add(clock::monotonic(), text);
        }
        self.warn_of_links(prepared);
        if moved {
            let macs = prepared.interfaces.iter().map(|interface| interface.mac);
            self.settings.macs = own::macs(macs);
            self.write_settings()?;
            self.links.set_macs(macs_of(&prepared.interfaces));
            self.report(prepared)?;
            self.announce_all(prepared);
        }
        if returned {
            let now = clock::monotonic();
            if prepared.exchange.link_up() {
                // From now on, though it takes a moment until they can be asked for.
                self.note_return(now)?;
                self.grant_grace(&Vec::from_iter(held(prepared)))?;
            }
            self.find_neighbours(prepared).await?;
        }
        Ok(())
    }

    /// Warns of interfaces without a carrier, or takes that back.
    pub(super) fn warn_of_links(&mut self, prepared: &Prepared) {
        for Interface { name, carrier, .. } in &prepared.interfaces {
            let warning = (!carrier).then(|| {
                format!(
                    "{name} has no carrier: by it this server reaches neither peers nor clients"
                )
            });
            self.warnings.set(&format!("carrier of {name}"), warning);
        }
    }

    /// Has the kernel find the neighbours at once that it asked for while there was no link, and the peers.
    async fn find_neighbours(&self, prepared: &Prepared) -> Result<()> {
        let mut result = Ok(());
        for interface in &prepared.interfaces {
            result = result.and(prepared.host.ask_again(interface.index).await);
        }
        let peers = prepared.exchange.cluster().peers();
        let there = peers.filter(|peer| !matches!(peer.status, Status::Dead | Status::Left));
        result.and(self.introduce(prepared, there).await)
    }
}
