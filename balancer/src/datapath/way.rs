//! How packets get to a peer: by its Ethernet address where it is on a link of ours, else by a tunnel.

use std::net::IpAddr;

use balancer_common::types::{Address, Peer};
use ipnet::IpNet;

use super::host::Route;
use super::interface::Interface;
use crate::cluster::{Link, Report};

/// The way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    interface: u32,
    mac: [u8; 6],
    own_mac: [u8; 6],
    mtu: u16,
    tunnel: Option<(IpAddr, IpAddr)>,
}

impl Way {
    /// To a peer on the interface's link.
    pub fn on_link(interface: &Interface, link: &Link) -> Self {
        Self {
            interface: interface.index,
            mac: link.mac,
            own_mac: interface.mac,
            mtu: bytes(interface.mtu),
            tunnel: None,
        }
    }

    /// Through a tunnel with these ends.
    pub fn tunnel(interface: &Interface, route: Route, from: IpAddr, to: IpAddr) -> Self {
        Self {
            interface: interface.index,
            mac: route.mac,
            own_mac: interface.mac,
            mtu: bytes(route.mtu.unwrap_or(interface.mtu)),
            tunnel: Some((from, to)),
        }
    }

    /// Enters it in a peer's entry.
    pub fn enter(self, peer: &mut Peer) {
        peer.interface = self.interface;
        peer.mac = self.mac;
        peer.own_mac = self.own_mac;
        peer.mtu = self.mtu;
        (peer.tunnel, peer.tunnel_from, peer.tunnel_to) = match self.tunnel {
            None => (0, Address::default(), Address::default()),
            Some((from, to)) => {
                let to = Address::from(to);
                (to.family(), from.into(), to)
            }
        };
    }
}

/// The first of our interfaces that has a network in common with a link of the peer's.
pub fn shared_link<'a>(
    interfaces: &'a [Interface],
    report: &'a Report,
) -> Option<(&'a Interface, &'a Link)> {
    let in_ours = |interface: &Interface, theirs: &IpNet| {
        let mut ours = interface.addresses.iter();
        ours.any(|ours| ours.contains(&theirs.addr()))
    };
    interfaces.iter().find_map(|interface| {
        let mut links = report.links.iter();
        let link = links.find(|link| {
            link.addresses
                .iter()
                .any(|theirs| in_ours(interface, theirs))
        });
        link.map(|link| (interface, link))
    })
}

/// The ends of a server's tunnels, over IPv4 and over IPv6: its first address that is no identity, which might move to another
/// server; else an identity. Each server comes to the same result on itself and on its peers.
pub fn endpoints<'a>(
    addresses: impl Iterator<Item = &'a IpNet>,
    identities: impl Iterator<Item = IpAddr>,
) -> [Option<IpAddr>; 2] {
    let identities: Vec<_> = identities.collect();
    let mut own: Vec<_> = addresses.map(IpNet::addr).collect();
    own.sort_by_key(|address| identities.contains(address));
    own.extend(&identities);
    let first = |v6| own.iter().copied().find(|address| address.is_ipv6() == v6);
    [first(false), first(true)]
}

/// No IP packet is longer.
fn bytes(mtu: u32) -> u16 {
    mtu.try_into().unwrap_or(u16::MAX)
}
