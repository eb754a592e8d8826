//! The links of this host that balancer is not attached to. Peers' addresses are on `lo`, and by default Linux answers and
//! asks by ARP on any link for any address that it has: clients there would be told that those addresses are here.

use std::{fs, path::Path};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage},
};

use super::netlink::system_error;

/// A value for `net.ipv4.conf.WHOSE.arp_ignore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArpIgnore {
    /// An interface, or `all`.
    pub whose: String,
    /// The value.
    pub value: &'static str,
}

impl ArpIgnore {
    /// What keeps ARP on `interface` from answering for peers' addresses. `None`: it doesn't answer, or there is no IPv4.
    pub fn needed(interface: &str) -> Option<Self> {
        let all = number("all", "arp_ignore")?;
        let own = number(interface, "arp_ignore")?;
        let route_localnet =
            ["all", "lo"].map(|whose| number(whose, "route_localnet")) != [Some(0); 2];
        let (whose, value) = needed(all, own, route_localnet)?;
        Some(Self {
            whose: whose.unwrap_or(interface).to_owned(),
            value,
        })
    }
}

/// Whose value is to change (none: the interface's own), and to what. The greater of both values counts (`IN_DEV_MAXCONF`).
///
/// 3 (not for addresses of scope host, which peers' are) lets an interface go on answering for whatever else the host has. But
/// `route_localnet` makes that scope an ordinary one (`confirm_addr_indev`). Then only 1 (no address but the interface's
/// own) is left. Linux answers for all at 4 to 7.
fn needed(
    all: u32,
    own: u32,
    route_localnet: bool,
) -> Option<(Option<&'static str>, &'static str)> {
    let answers = |value| match value {
        1 | 2 | 8 => false,
        3 => route_localnet,
        _ => true,
    };
    if !answers(all.max(own)) {
        None
    } else if all > 0 && answers(all) {
        Some((Some("all"), "1"))
    } else if route_localnet {
        Some((None, "1"))
    } else {
        Some((None, "3"))
    }
}

/// The Ethernet links beside `attached`, except ports of bridges and bonds, which don't speak ARP themselves.
pub(super) async fn names(handle: &Handle, attached: &[String]) -> anyhow::Result<Vec<String>> {
    let links = handle.link().get().execute();
    let links: Vec<_> = links
        .try_collect()
        .await
        .map_err(system_error)
        .context("cannot list the network interfaces")?;
    Ok(links
        .iter()
        .filter_map(own_arp)
        .filter(|name| !attached.contains(name))
        .collect())
}

/// The name of a link that speaks ARP.
fn own_arp(link: &LinkMessage) -> Option<String> {
    let is_port = |attribute: &_| matches!(attribute, LinkAttribute::Controller(_));
    if link.header.link_layer_type != LinkLayerType::Ether || link.attributes.iter().any(is_port) {
        return None;
    }
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
}

fn number(interface: &str, setting: &str) -> Option<u32> {
    let path = Path::new("/proc/sys/net/ipv4/conf")
        .join(interface)
        .join(setting);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_changes_than_is_needed() {
        let all = |value| Some((Some("all"), value));
        let own = |value| Some((None, value));
        assert_eq!(needed(0, 0, false), own("3"));
        assert_eq!(needed(0, 0, true), own("1"));
        assert_eq!(needed(0, 4, false), own("3"));
        assert_eq!(needed(0, 3, true), own("1"));
        assert_eq!(needed(3, 0, true), all("1"));
        assert_eq!(needed(4, 1, false), all("1"));
        assert_eq!(needed(1, 4, false), own("3"));
        for (all, own) in [(0, 3), (3, 0), (1, 0), (0, 2), (8, 0), (3, 1)] {
            assert_eq!(needed(all, own, false), None, "{all} {own}");
        }
    }
}
