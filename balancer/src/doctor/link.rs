//! The network interfaces of this namespace, as the kernel tells of them through rtnetlink.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{
    BondMode, BridgeStpState, InfoBond, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage,
};

use crate::datapath::interface::{XdpState, xdp_state};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the kernel's flags, each a fact of its own"
)]
pub struct Link {
    pub name: String,
    pub index: u32,
    pub ethernet: bool,
    /// `ip link set up`.
    pub up: bool,
    pub carrier: bool,
    pub multicast: bool,
    pub mtu: u32,
    pub kind: Kind,
    /// Index of the bridge or bond that it is a port of.
    pub controller: Option<u32>,
    /// Bus and name of its device, as in `pci` and `0000:00:03.0`.
    pub device: Option<(String, String)>,
    pub xdp: XdpState,
}

/// What an interface is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A card, or what looks like one.
    Card,
    /// One end of a pair. The other end's index, if that is in this namespace.
    Veth(Option<u32>),
    Bridge {
        /// It sends multicast only where a member is known.
        snooping: bool,
        /// It asks for members.
        querier: bool,
        stp: bool,
    },
    Bond(BondMode),
    /// On top of the interface with this index.
    Vlan(Option<u32>),
    Other(String),
}

impl Link {
    /// All of this namespace.
    pub async fn all() -> Result<Vec<Self>> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
        let task = tokio::spawn(connection);
        let links = handle.link().get().execute().try_collect::<Vec<_>>().await;
        task.abort();
        let links = links.context("cannot list the network interfaces")?;
        Ok(links.iter().map(Self::read).collect())
    }

    fn read(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            name: String::new(),
            index: message.header.index,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            multicast: flags.contains(LinkFlags::Multicast),
            mtu: 0,
            kind: Kind::Card,
            controller: None,
            device: None,
            xdp: xdp_state(message),
        };
        let (mut bus, mut device) = (None, None);
        let (mut lower, mut elsewhere, mut infos) = (None, false, &[][..]);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::ParentDevBusName(name) => bus = Some(name.clone()),
                LinkAttribute::ParentDevName(name) => device = Some(name.clone()),
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(list) => infos = list,
                _ => {}
            }
        }
        link.device = bus.zip(device);
        link.kind = kind(infos, lower.filter(|_| !elsewhere));
        link
    }
}

#[cfg(test)]
impl Link {
    /// An interface as it should be.
    pub fn test(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            index: 7,
            ethernet: true,
            up: true,
            carrier: true,
            multicast: true,
            mtu: 1_500,
            kind,
            controller: None,
            device: None,
            xdp: XdpState::None,
        }
    }
}

/// What the kernel says of a kind's own settings; `lower` is the interface of this namespace that it is linked to.
fn kind(infos: &[LinkInfo], lower: Option<u32>) -> Kind {
    let name = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    match (name, data) {
        (None, _) => Kind::Card,
        (Some(InfoKind::Veth), _) => Kind::Veth(lower),
        (Some(InfoKind::Vlan), _) => Kind::Vlan(lower),
        (Some(InfoKind::Bridge), Some(InfoData::Bridge(settings))) => {
            let is = |wanted| settings.contains(&wanted);
            Kind::Bridge {
                snooping: is(InfoBridge::MulticastSnooping(true)),
                querier: is(InfoBridge::MulticastQuerier(true)),
                stp: is(InfoBridge::StpState(BridgeStpState::KernelStp))
                    || is(InfoBridge::StpState(BridgeStpState::UserStp)),
            }
        }
        (Some(InfoKind::Bond), Some(InfoData::Bond(settings))) => {
            let mode = settings.iter().find_map(|setting| match setting {
                InfoBond::Mode(mode) => Some(*mode),
                _ => None,
            });
            Kind::Bond(mode.unwrap_or_default())
        }
        (Some(other), _) => Kind::Other(other.to_string()),
    }
}
