//! What this server announces on its links, and what it sees there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

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
    macs: watch::Sender<Macs>,
    /// One task for each identity.
    announcing: BTreeMap<IpAddr, AbortOnDrop>,
}

/// The Ethernet addresses of this server's interfaces, by index.
pub type Macs = BTreeMap<u32, [u8; 6]>;

/// Says who has an address: by the interface with this index and Ethernet address.
type Tell = fn(u32, [u8; 6], IpAddr) -> io::Result<()>;

/// A task that ends when this is dropped.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Links {
    /// Begins to watch the interfaces. Must be called within a tokio runtime.
    pub fn watch(interfaces: &[Interface], sighted: &mpsc::Sender<Sighting>) -> Result<Self> {
        let links = Self::new(macs_of(interfaces));
        let (holds, own) = (links.held.subscribe(), links.macs.subscribe());
        for interface in interfaces {
            let watch = Watch::open(interface.index, interface.mac)
                .with_context(|| format!("cannot watch {}", interface.name))?;
            let (holds, sighted) = (holds.clone(), sighted.clone());
            let (name, own) = (interface.name.clone(), own.clone());
            tokio::spawn(async move {
                loop {
                    match watch.next().await {
                        Ok((address, mac)) => {
                            if own.borrow().values().any(|own| *own == mac)
                                || !holds.borrow().contains(&address)
                            {
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
        Ok(links)
    }

    fn new(macs: Macs) -> Self {
        Self {
            held: watch::Sender::new(BTreeSet::new()),
            macs: watch::Sender::new(macs),
            announcing: BTreeMap::new(),
        }
    }

    /// What this server holds from now on.
    pub fn set_held(&mut self, held: BTreeSet<IpAddr>) {
        self.announcing.retain(|address, _| held.contains(address));
        self.held.send_replace(held);
    }

    /// The Ethernet addresses of this server's interfaces from now on.
    pub fn set_macs(&self, macs: Macs) {
        self.macs.send_replace(macs);
    }

    /// Announces `address` on its link, now and some times later, as long as this server holds it. What is left of announcements begun
    /// before isn't sent.
    pub fn announce(&mut self, interface: &Interface, address: IpAddr) {
        self.announce_by(interface.index, interface.name.clone(), address, announce);
    }

    fn announce_by(&mut self, index: u32, name: String, address: IpAddr, tell: Tell) {
        // It may have been given up since somebody wanted it announced.
        if !self.held.borrow().contains(&address) {
            return;
        }
        let macs = self.macs.subscribe();
        let task = tokio::spawn(async move {
            let mut before = Duration::ZERO;
            for at in ANNOUNCEMENTS {
                tokio::time::sleep(at.saturating_sub(before)).await;
                before = at;
                // It may have changed since the last time.
                let Some(mac) = macs.borrow().get(&index).copied() else {
                    return;
                };
                if let Err(error) = tell(index, mac, address) {
                    log::warn!("cannot announce {address} on {name}: {error}; trying on");
                }
            }
        });
        self.announcing.insert(address, AbortOnDrop(task));
    }
}

/// The Ethernet addresses of interfaces.
pub fn macs_of(interfaces: &[Interface]) -> Macs {
    let mac = |interface: &Interface| (interface.index, interface.mac);
    interfaces.iter().map(mac).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const OLD: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const NEW: [u8; 6] = [2, 0, 0, 0, 0, 2];

    #[tokio::test]
    async fn the_last_announcement_goes_on_with_the_ethernet_address_of_the_moment() {
        static TOLD: Mutex<Vec<[u8; 6]>> = Mutex::new(Vec::new());
        let tell: Tell = |_, mac, _| {
            TOLD.lock().unwrap().push(mac);
            Ok(())
        };
        let told = || std::mem::take(&mut *TOLD.lock().unwrap());
        let wait = async |millis| tokio::time::sleep(Duration::from_millis(millis)).await;
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut links = Links::new([(2, OLD)].into());
        links.set_held([address].into());
        for _ in 0..10 {
            links.announce_by(2, "eth0".into(), address, tell);
        }
        wait(90).await;
        assert_eq!(told(), [OLD; 2]);
        links.set_macs([(2, NEW)].into());
        wait(400).await;
        assert_eq!(told(), [NEW]);
        links.set_held(BTreeSet::new());
        links.announce_by(2, "eth0".into(), address, tell);
        wait(700).await;
        assert_eq!(told(), [[0; 6]; 0]);
    }
}
