//! The next hop to an address, as the kernel's own packets would go.

use std::net::IpAddr;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::net::UdpSocket;

use super::{neighbours, netlink::system_error};

/// The next hop to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface that packets leave by.
    pub interface: u32,
    /// Ethernet address of the next hop there.
    pub mac: [u8; 6],
    /// The longest IP packet that fits, in bytes, where the route says so.
    pub mtu: Option<u32>,
}

/// The route to `address`. `None`: there is none, or the next hop's Ethernet address isn't known yet. Then the kernel is
/// made to ask for it.
pub(super) async fn find(handle: &Handle, address: IpAddr) -> anyhow::Result<Option<Route>> {
    let Some(message) = ask(handle, address).await? else {
        return Ok(None);
    };
    if message.header.kind != RouteType::Unicast {
        return Ok(None);
    }
    let (mut interface, mut next_hop, mut mtu) = (None, address, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => next_hop = (*gateway).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => next_hop = (*gateway).into(),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let Some(interface) = interface else {
        return Ok(None);
    };
    let Some(mac) = neighbours::find(handle, interface, next_hop).await? else {
        provoke(address).await;
        return Ok(None);
    };
    Ok(Some(Route {
        interface,
        mac,
        mtu,
    }))
}

async fn ask(handle: &Handle, address: IpAddr) -> anyhow::Result<Option<RouteMessage>> {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let request = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, prefix)
        .with_context(|| format!("cannot ask for a route to {address}"))?
        .build();
    match handle
        .route()
        .get(request)
        .execute()
        .try_next()
        .await
        .map_err(system_error)
    {
        Err(error)
            if [Errno::ENETUNREACH, Errno::EHOSTUNREACH]
                .map(|no| Some(no as i32))
                .contains(&error.raw_os_error()) =>
        {
            Ok(None)
        }
        result => result.with_context(|| format!("cannot find the route to {address}")),
    }
}

/// Sends an empty datagram there (port 9, discard, RFC 863), for which the kernel looks for the next hop. Whether it arrives
/// doesn't matter.
async fn provoke(address: IpAddr) {
    const DISCARD: u16 = 9;
    let any = match address {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    };
    if let Ok(socket) = UdpSocket::bind(any).await {
        let _ = socket.send_to(&[], (address, DISCARD)).await;
    }
}
