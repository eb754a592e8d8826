//! What the host knows of a network interface.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use network_interface::{NetworkInterface, NetworkInterfaceConfig as _};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};

/// An interface that balancer is attached to, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its own addresses with their networks, those left out that are link-local or come and go.
    pub addresses: Vec<IpNet>,
    /// The longest IP packet that it carries, in bytes.
    pub mtu: u32,
    /// Whether it is up and its link is.
    pub carrier: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// The XDP program that it had when it was looked up.
    pub xdp: XdpState,
}

/// Whether and how an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpState {
    /// None is.
    None,
    /// In the driver, or in the card.
    Native,
    /// In the network stack.
    Generic,
}

impl XdpState {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl Interface {
    /// Its own addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr)
    }

    /// Looks up the interface called `name` in this network namespace.
    ///
    /// # Errors
    ///
    /// There is none (the message lists those that are), or it has no Ethernet address.
    pub async fn find(name: &str) -> Result<Self> {
        let all = NetworkInterface::show().context("cannot list the network interfaces")?;
        let Some(found) = all.iter().find(|interface| interface.name == name) else {
            let mut names: Vec<_> = all
                .iter()
                .map(|interface| interface.name.as_str())
                .collect();
            // One with several addresses is listed as often, and not in any order.
            names.sort_unstable();
            names.dedup();
            bail!(
                "there is no network interface `{name}` here; there are: {}",
                names.join(", ")
            );
        };
        let mac = found
            .mac_addr
            .as_deref()
            .and_then(parse_mac)
            .filter(|mac| *mac != [0; 6])
            .with_context(|| {
                format!("{name} has no Ethernet address: balancer needs an Ethernet interface")
            })?;
        let (link, addresses) = ask(found.index).await?;
        Ok(Self {
            name: name.to_owned(),
            index: found.index,
            mac,
            addresses: addresses.iter().filter_map(network).collect(),
            mtu: mtu(&link),
            carrier: carrier(&link),
            veth: is_veth(&link),
            xdp: xdp_state(&link),
        })
    }
}

/// What may change about an interface at any time.
pub struct LinkState {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Whether it is up and its link is.
    pub carrier: bool,
}

impl LinkState {
    /// As it is now.
    ///
    /// # Errors
    ///
    /// The interface has gone, or has no Ethernet address.
    pub async fn of(index: u32) -> Result<Self> {
        let (link, _) = ask(index).await?;
        let mac = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
                _ => None,
            });
        Ok(Self {
            mac: mac.context("the interface has no Ethernet address")?,
            carrier: carrier(&link),
        })
    }
}

fn carrier(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::LowerUp)
}

/// RFC 894's, should the kernel not say.
fn mtu(link: &LinkMessage) -> u32 {
    let found = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    found.unwrap_or(1_500)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut mac {
        *octet = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// What the kernel knows of an interface, and its addresses.
async fn ask(index: u32) -> Result<(LinkMessage, Vec<AddressMessage>)> {
    use futures_util::TryStreamExt as _;
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    let task = tokio::spawn(connection);
    let link = handle
        .link()
        .get()
        .match_index(index)
        .execute()
        .try_next()
        .await;
    let addresses = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await;
    task.abort();
    let link = link
        .context("cannot ask netlink for the interface")?
        .context("the interface has just gone")?;
    Ok((
        link,
        addresses.context("cannot ask netlink for the interface's addresses")?,
    ))
}

/// The address that clients may use. Link-local addresses mean another host on each link (RFC 3927, RFC 4291 section
/// 2.5.6), temporary and deprecated ones are about to go (RFC 8981, RFC 4862 section 5.5.4). One that another host was found
/// to have may be with its caretaker.
fn network(message: &AddressMessage) -> Option<IpNet> {
    const PASSING: AddressFlags = AddressFlags::Secondary // of IPv6: temporary
        .union(AddressFlags::Deprecated);
    let is_v6 = message.header.family == AddressFamily::Inet6;
    let attributes = &message.attributes;
    let passes = attributes.iter().any(
        |attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(PASSING)),
    );
    if is_v6 && passes {
        return None;
    }
    // On a link of two, the address is the other end's.
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local {
        return None;
    }
    IpNet::new(address, message.header.prefix_len).ok()
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos
            .iter()
            .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth))),
        _ => false,
    })
}

pub(crate) fn xdp_state(link: &LinkMessage) -> XdpState {
    let attached = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Xdp(items) => items.iter().find_map(|item| match item {
                LinkXdp::Attached(attached) => Some(*attached),
                _ => None,
            }),
            _ => None,
        });
    match attached {
        None | Some(XdpAttached::None) => XdpState::None,
        Some(XdpAttached::SocketBuffer) => XdpState::Generic,
        Some(_) => XdpState::Native,
    }
}
