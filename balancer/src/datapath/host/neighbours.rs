//! This host's neighbours, as its kernel knows them.

use std::net::IpAddr;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::netlink::system_error;

/// Tells the kernel a neighbour's Ethernet address, unless it knows one. It makes sure of it in its own time, as of any that it
/// hasn't heard of for a while: that is no change that would have to be undone.
pub(super) async fn introduce(
    handle: &Handle,
    interface: u32,
    address: IpAddr,
    mac: [u8; 6],
) -> anyhow::Result<()> {
    if find(handle, interface, address).await?.is_some() {
        return Ok(());
    }
    let neighbours = handle.neighbours();
    let entry = neighbours.add(interface, address).link_layer_address(&mac);
    let written = entry.state(NeighbourState::Stale).replace().execute().await;
    written
        .map_err(system_error)
        .with_context(|| format!("cannot enter {address} in this host's neighbours"))
}

/// Drops what the kernel has asked for and not been told: it repeats a question after a second, however soon somebody could answer.
pub(super) async fn forget_lost_questions(handle: &Handle, interface: u32) -> anyhow::Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for neighbour in list(handle, family).await? {
            let header = &neighbour.header;
            if header.ifindex == interface && header.state == NeighbourState::Incomplete {
                // It may have been found meanwhile, or given up.
                let _ = handle.neighbours().del(neighbour).execute().await;
            }
        }
    }
    Ok(())
}

/// The Ethernet address of a neighbour; `None`: it isn't known yet.
pub(super) async fn find(
    handle: &Handle,
    interface: u32,
    address: IpAddr,
) -> anyhow::Result<Option<[u8; 6]>> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let all = list(handle, family).await?;
    let unknown = [NeighbourState::Incomplete, NeighbourState::Failed];
    let found = all.iter().find(|message| {
        message.header.ifindex == interface
            && !unknown.contains(&message.header.state)
            && destination(message) == Some(address)
    });
    Ok(found.and_then(|message| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                _ => None,
            })
    }))
}

async fn list(handle: &Handle, family: AddressFamily) -> anyhow::Result<Vec<NeighbourMessage>> {
    let request = handle.neighbours().get().set_address_family(family);
    let all = request.execute().try_collect().await.map_err(system_error);
    all.context("cannot list this host's neighbours")
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
