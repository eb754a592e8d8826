//! The changes on this host: addresses, rules and sysctls that let it take the packets which its peers steer to it.
//!
//! Every server has the identities of its peers ('foreign' addresses) on `lo`, so that a steered packet is delivered
//! here. That alone would keep this server's own traffic for a peer at home, too, so rules send what is made here out by
//! table `main`, before table `local` is asked, and let it fail where that knows no way. And ARP must not answer for addresses
//! on `lo`, on whatever link.
//!
//! Nothing of it may outlive balancer: each change is in an undo journal before it is made, and [`Host::restore`] undoes
//! them all, in this process or in one that comes after a crash.

pub mod announce;
pub mod arp;
mod change;
mod foreign;
mod identities;
mod journal;
mod kernel;
mod lock;
#[cfg(test)]
mod model;
pub mod ndp;
mod neighbours;
mod netlink;
mod other_links;
mod question;
mod route;
mod rules;
pub mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use nix::net::if_::if_indextoname;

pub use self::{
    change::Change,
    kernel::{Family, Rule},
    neighbours::Neighbour,
    other_links::ArpIgnore,
    route::Route,
};
use self::{journal::Journal, netlink::Netlink};

/// This host's addresses, rules and sysctls, and the journal of what was changed among them.
///
/// It acts on the network namespace of the thread that opens it; the same thread must go on to use it.
pub struct Host {
    journal: Journal,
    kernel: Netlink,
}

impl Host {
    /// Opens the host with its undo journal in the file `journal`, and adopts the changes in it if it exists: they are then
    /// kept where they are wanted, and undone like those made from now on. Changes nothing on the host.
    ///
    /// The journal is this one's alone until it is dropped. Must be called within a tokio runtime. Fails on a journal that
    /// another balancer has open, that is of another network namespace or that cannot be trusted, naming it.
    #[expect(
        clippy::unused_async,
        reason = "it spawns, so a caller without a runtime should not get past the compiler"
    )]
    pub async fn open(journal: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            journal: Journal::open(journal)?,
            kernel: Netlink::open()?,
        })
    }

    /// The next hop to `address`; `None`: there is none, or it isn't known yet.
    pub async fn route_to(&self, address: IpAddr) -> anyhow::Result<Option<Route>> {
        route::find(self.kernel.handle(), address).await
    }

    /// Tells the kernel the Ethernet addresses of neighbours who were just heard, but of those that it knows. A question of its own
    /// that was lost, or that a host doesn't answer which has this one's address, it would repeat a second later.
    pub async fn introduce(&self, neighbours: &[Neighbour]) -> anyhow::Result<()> {
        neighbours::introduce(self.kernel.handle(), neighbours).await
    }

    /// Has the kernel ask again at once for those neighbours on an interface that it has asked for in vain.
    pub async fn ask_again(&self, interface: u32) -> anyhow::Result<()> {
        neighbours::ask_again(self.kernel.handle(), interface).await
    }

    /// Makes `interfaces` answer and ask by ARP for their own addresses alone, never for those on `lo`, and their IPv6
    /// traffic start from their own addresses. The other links of this host don't tell of peers' addresses either.
    pub async fn accept_steered(&mut self, interfaces: &[String]) -> anyhow::Result<()> {
        for interface in interfaces {
            // The first value is ours; others that follow are at least as strict, and are left.
            self.set_sysctl("ipv4", interface, "arp_ignore", &["1", "2"])?;
            self.set_sysctl("ipv4", interface, "arp_announce", &["2"])?;
            // Neighbour solicitations need no such care. But where the destination is one of the host's own addresses, on
            // whatever interface, source address selection takes that (RFC 6724, rule 1), and nothing else in it comes
            // first: a packet of ours to a foreign address would reach its owner with the owner's address as its source.
            // An interface without an address of its own must be left to borrow one.
            if self.kernel.has_global_v6(interface).await? {
                self.set_sysctl("ipv6", interface, "use_oif_addrs_only", &["1"])?;
            }
        }
        for link in other_links::names(self.kernel.handle(), interfaces).await? {
            match self.tell_nothing(&link) {
                // It has gone meanwhile, or has no IPv4.
                Err(_) if !sysctl("ipv4", &link, "arp_ignore").exists() => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn tell_nothing(&mut self, link: &str) -> anyhow::Result<()> {
        if let Some(ArpIgnore { whose, value }) = ArpIgnore::needed(link) {
            self.set_sysctl("ipv4", &whose, "arp_ignore", &[value])?;
        }
        self.set_sysctl("ipv4", link, "arp_announce", &["2"])
    }

    /// Makes `wanted`, addresses of peers, the set of foreign addresses. Only after [`Host::accept_steered`], or ARP would
    /// answer for them.
    ///
    /// An address that this host has itself is left out, or it would be cut off from it. Returns these, with the names of
    /// the interfaces that have them.
    ///
    /// Call it again with the same set from time to time: this repairs what another program removed, and lets go of an
    /// address that an interface has got since. A rule that was there before balancer is left alone. After an error some
    /// changes may be made and others not; the next call goes on.
    pub async fn set_foreign(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<BTreeMap<IpAddr, String>> {
        let own = foreign::converge(&mut self.journal, &self.kernel, wanted).await?;
        Ok(own
            .into_iter()
            .map(|(address, interface)| (address, interface_name(interface)))
            .collect())
    }

    /// Makes `identities` addresses of the interface with index `interface`. One that is there already is left alone.
    pub async fn add_identities(
        &mut self,
        interface: u32,
        identities: &[IpNet],
    ) -> anyhow::Result<()> {
        for &identity in identities {
            identities::add(&mut self.journal, &self.kernel, interface, identity).await?;
        }
        Ok(())
    }

    /// Makes `identity` of the server `home` one of the interface with index `interface`: taken over under the claim `term`.
    pub async fn assume(
        &mut self,
        interface: u32,
        identity: IpNet,
        home: u64,
        term: u64,
    ) -> anyhow::Result<()> {
        let assumed = Change::IdentityAssumed {
            interface,
            identity,
            home,
            term,
        };
        identities::assume(&mut self.journal, &self.kernel, assumed).await
    }

    /// Forgets identities that a predecessor had taken over, and that this host hasn't any more: they are others' to take.
    pub async fn forget_lost(&mut self) -> anyhow::Result<()> {
        identities::forget_lost(&mut self.journal, &self.kernel).await
    }

    /// Removes an identity that was taken over.
    pub async fn release(&mut self, address: IpAddr) -> anyhow::Result<()> {
        self.undo(|change| {
            matches!(change, Change::IdentityAssumed { identity, .. } if identity.addr() == address)
        })
        .await
    }

    /// The identities that were added or taken over, and are still there.
    pub fn added(&self) -> impl Iterator<Item = IpAddr> {
        self.changes().iter().filter_map(Change::identity)
    }

    /// The identities that were taken over, and are still there.
    pub fn assumed(&self) -> impl Iterator<Item = IpAddr> {
        let assumed = |change: &&Change| matches!(change, Change::IdentityAssumed { .. });
        self.changes()
            .iter()
            .filter(assumed)
            .filter_map(Change::identity)
    }

    /// Removes all identities that were added or taken over, so that others may have them. After an error those that it is about
    /// are still there: [`Self::added`].
    pub async fn release_all(&mut self) -> anyhow::Result<()> {
        self.undo(|change| change.identity().is_some()).await
    }

    /// The IPv6 addresses of an interface that can't be used, since another host was found to have them, or may be (RFC 4862,
    /// section 5.4).
    pub async fn unusable(&self, interface: u32) -> anyhow::Result<BTreeSet<IpAddr>> {
        self.kernel.unusable(interface).await
    }

    /// Brings such an address into use, as no other host has it any more.
    pub async fn revive(&self, interface: u32, address: IpAddr) -> anyhow::Result<()> {
        self.kernel.revive(interface, address).await
    }

    /// What was done to this host and not undone, oldest first.
    pub fn changes(&self) -> &[Change] {
        self.journal.changes()
    }

    /// Undoes some changes, the last one first. After an error those that it is about are left.
    async fn undo(&mut self, of: impl Fn(&Change) -> bool) -> anyhow::Result<()> {
        identities::undo(&mut self.journal, &self.kernel, of).await
    }

    /// Whether a predecessor left changes to adopt.
    pub fn has_adopted(&self) -> bool {
        !self.journal.changes().is_empty()
    }

    /// Records a change that the caller is about to make, so that [`Host::restore`] undoes it.
    pub fn record(&mut self, change: Change) -> anyhow::Result<()> {
        self.journal.record(change)
    }

    /// Undoes all changes, the last one first, and removes the journal.
    ///
    /// A change that cannot be undone does not keep the others from being undone. All such are in the error, and stay in
    /// the journal for another attempt.
    pub async fn restore(self) -> anyhow::Result<()> {
        self.journal.undo(&self.kernel).await
    }

    fn set_sysctl(
        &mut self,
        protocol: &str,
        interface: &str,
        name: &str,
        sufficient: &[&str],
    ) -> anyhow::Result<()> {
        let path = sysctl(protocol, interface, name);
        change::set_sysctl(&mut self.journal, &path, sufficient)
    }
}

fn sysctl(protocol: &str, interface: &str, name: &str) -> PathBuf {
    Path::new("/proc/sys/net")
        .join(protocol)
        .join("conf")
        .join(interface)
        .join(name)
}

fn interface_name(index: u32) -> String {
    // It may be gone by now.
    if_indextoname(index).map_or_else(
        |_| format!("interface {index}"),
        |name| name.to_string_lossy().into_owned(),
    )
}
