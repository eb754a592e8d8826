//! This host's neighbours, as its kernel knows them.

use std::net::IpAddr;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::netlink::system_error;

/// A neighbour, as another one has told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface that it is reached by.
    pub interface: u32,
    /// Its address there.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

/// Tells the kernel the Ethernet addresses of neighbours, but of those that it knows. It makes sure of them in its own time, as of
/// any that it hasn't heard of for a while: that is no change that would have to be undone.
pub(super) async fn introduce(handle: &Handle, all: &[Neighbour]) -> anyhow::Result<()> {
    let known = list(handle).await?;
    let mut result = Ok(());
    for &Neighbour {
        interface,
        address,
        mac,
    } in all
    {
        if mac_in(&known, interface, address).is_some() {
            continue;
        }
        let neighbours = handle.neighbours();
        let entry = neighbours.add(interface, address).link_layer_address(&mac);
        let written = entry.state(NeighbourState::Stale).replace().execute().await;
        let written = written
            .map_err(system_error)
            .with_context(|| format!("cannot enter {address} in this host's neighbours"));
        result = result.and(written);
    }
    result
}

/// Has the kernel ask again at once for what it has asked for in vain on an interface: else it does so a second after the last
/// time, however soon somebody could answer.
pub(super) async fn ask_again(handle: &Handle, interface: u32) -> anyhow::Result<()> {
    for neighbour in list(handle).await? {
        let header = &neighbour.header;
        let lost = header.ifindex == interface && header.state == NeighbourState::Incomplete;
        let Some(address) = destination(&neighbour).filter(|_| lost) else {
            continue;
        };
        let entry = || handle.neighbours().add(interface, address).replace();
        // As before the first question; what waits for the answer still does.
        let anew = entry().state(NeighbourState::None).execute().await;
        let asked = entry().flags(NeighbourFlags::Use).execute().await;
        anew.and(asked)
            .map_err(system_error)
            .with_context(|| format!("cannot have the kernel ask for {address}"))?;
    }
    Ok(())
}

/// The Ethernet address of a neighbour; `None`: it isn't known yet.
pub(super) async fn find(
    handle: &Handle,
    interface: u32,
    address: IpAddr,
) -> anyhow::Result<Option<[u8; 6]>> {
    Ok(mac_in(&list(handle).await?, interface, address))
}

fn mac_in(all: &[NeighbourMessage], interface: u32, address: IpAddr) -> Option<[u8; 6]> {
    let unknown = [NeighbourState::Incomplete, NeighbourState::Failed];
    let found = all.iter().find(|message| {
        message.header.ifindex == interface
            && !unknown.contains(&message.header.state)
            && destination(message) == Some(address)
    });
    found?
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
            _ => None,
        })
}

async fn list(handle: &Handle) -> anyhow::Result<Vec<NeighbourMessage>> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let request = handle.neighbours().get().set_address_family(family);
        let some: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(system_error)
            .context("cannot list this host's neighbours")?;
        all.extend(some);
    }
    Ok(all)
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some((*address).into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some((*address).into())
            }
            _ => None,
        })
}
