//! What this server announces on its links, and what it sees there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, watch};

use crate::datapath::host::{announce::announce, watch::Watch};
use crate::datapath::interface::Interface;

/// When a new holder announces an identity: frames get lost, and a host that was asleep should hear it, too.
const ANNOUNCEMENTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Another host that was seen to use an identity of this server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The identity.
    pub address: IpAddr,
    /// The host's Ethernet address.
    pub mac: [u8; 6],
}

/// The identities that this server holds, as its links are to know and show.
pub struct Links {
    held: watch::Sender<BTreeSet<IpAddr>>,
    /// The Ethernet addresses of its interfaces.
    macs: watch::Sender<Vec<[u8; 6]>>,
}

impl Links {
    /// Begins to watch the interfaces. Must be called within a tokio runtime.
    pub fn watch(interfaces: &[Interface], sighted: &mpsc::Sender<Sighting>) -> Result<Self> {
        let (held, holds) = watch::channel(BTreeSet::new());
        let macs: Vec<_> = interfaces.iter().map(|interface| interface.mac).collect();
        let (macs, own) = watch::channel(macs);
        for interface in interfaces {
            let watch = Watch::open(interface.index, interface.mac)
                .with_context(|| format!("cannot watch {}", interface.name))?;
            let (holds, sighted) = (holds.clone(), sighted.clone());
            let (name, own) = (interface.name.clone(), own.clone());
            tokio::spawn(async move {
                loop {
                    match watch.next().await {
                        Ok((address, mac)) => {
                            if own.borrow().contains(&mac) || !holds.borrow().contains(&address) {
                                continue;
                            }
                            if sighted.send(Sighting { address, mac }).await.is_err() {
                                return;
                            }
                        }
                        // The interface is down.
                        Err(error) => {
                            log::debug!("watching {name}: {error}");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            });
        }
        Ok(Self { held, macs })
    }

    /// What this server holds from now on.
    pub fn set_held(&self, held: BTreeSet<IpAddr>) {
        self.held.send_replace(held);
    }

    /// The Ethernet addresses of this server's interfaces from now on.
    pub fn set_macs(&self, macs: Vec<[u8; 6]>) {
        self.macs.send_replace(macs);
    }

    /// Announces `address` on its link, now and some times later, as long as this server holds it.
    pub fn announce(&self, interface: &Interface, address: IpAddr) {
        let holds = self.held.subscribe();
        let (index, mac, name) = (interface.index, interface.mac, interface.name.clone());
        tokio::spawn(async move {
            let mut before = Duration::ZERO;
            for at in ANNOUNCEMENTS {
                tokio::time::sleep(at.saturating_sub(before)).await;
                before = at;
                if !holds.borrow().contains(&address) {
                    return;
                }
                if let Err(error) = announce(index, mac, address) {
                    log::warn!("cannot announce {address} on {name}: {error}; trying on");
                }
            }
        });
    }
}
