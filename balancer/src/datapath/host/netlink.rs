//! The kernel's addresses and rules, through netlink.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Context;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::{errno::Errno, net::if_::if_nametoindex};
use rtnetlink::packet_route::{
    AddressFamily,
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
    },
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use rtnetlink::{Handle, IpVersion};

use super::kernel::{FOREIGN_PREFERENCE, Family, Kernel, LOOPBACK, Rule, UNREACHABLE_PREFERENCE};

/// Between tries to add an address that was deleted.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
];

/// The kernel itself.
pub(super) struct Netlink {
    handle: Handle,
}

impl Netlink {
    pub(super) fn open() -> anyhow::Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        // It ends when the handle is dropped.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether `interface` has an IPv6 address of global scope (which unique local addresses have, too).
    pub(super) async fn has_global_v6(&self, interface: &str) -> anyhow::Result<bool> {
        let index = if_nametoindex(interface)
            .with_context(|| format!("cannot find interface {interface}"))?;
        let addresses = self.list_addresses(index).await?;
        Ok(addresses.iter().any(|message| {
            message.header.family == AddressFamily::Inet6
                && message.header.scope == AddressScope::Universe
        }))
    }

    /// Addresses in or after a duplicate address detection that kept them out of use.
    pub(super) async fn unusable(&self, interface: u32) -> anyhow::Result<BTreeSet<IpAddr>> {
        let present = self.list_addresses(interface).await?;
        let unusable = present
            .iter()
            .filter(|message| flags(message).intersects(UNUSABLE));
        Ok(unusable.filter_map(own_end).collect())
    }

    /// Adds an address anew, without that detection. The kernel changes this of no address that is there.
    pub(super) async fn revive(&self, interface: u32, address: IpAddr) -> anyhow::Result<()> {
        let present = self.list_addresses(interface).await?;
        let is_it = |message: &&AddressMessage| {
            own_end(message) == Some(address) && flags(message).intersects(UNUSABLE)
        };
        let Some(old) = present.into_iter().find(|message| is_it(&message)) else {
            return Ok(());
        };
        let prefix = old.header.prefix_len;
        let add = || self.handle.address().add(interface, address, prefix);
        let mut new = add().message_mut().clone();
        let kept = flags(&old) & (AddressFlags::Noprefixroute | AddressFlags::Managetempaddr);
        new.header.scope = old.header.scope;
        new.attributes
            .push(AddressAttribute::Flags(kept | AddressFlags::Nodad));
        let lifetime =
            |attribute: &&AddressAttribute| matches!(attribute, AddressAttribute::CacheInfo(_));
        new.attributes
            .extend(old.attributes.iter().find(lifetime).cloned());
        let deleted = self.handle.address().del(old).execute().await;
        accept(deleted, Errno::EADDRNOTAVAIL)
            .with_context(|| format!("cannot delete {address} to add it anew"))?;
        // Without it the host would be cut off: it must not stay away because the kernel was out of memory for a moment.
        let added = persist(async || {
            let mut request = add();
            *request.message_mut() = new.clone();
            accept(request.execute().await, Errno::EEXIST)
        });
        added.await.with_context(|| {
            format!(
                "{address} was deleted from interface {interface}, and can't be added anew: do it by hand, `ip address add \
                 {address}/{prefix} nodad dev ...`"
            )
        })
    }

    async fn list_addresses(&self, interface: u32) -> anyhow::Result<Vec<AddressMessage>> {
        let request = self.handle.address().get().set_link_index_filter(interface);
        let dump = request.execute().try_collect().await.map_err(system_error);
        dump.with_context(|| format!("cannot list the addresses of interface {interface}"))
    }
}

impl Kernel for Netlink {
    async fn rules(&self, family: Family) -> anyhow::Result<Vec<Rule>> {
        let version = match family {
            Family::V4 => IpVersion::V4,
            Family::V6 => IpVersion::V6,
        };
        let dump: Vec<_> = self
            .handle
            .rule()
            .get(version)
            .execute()
            .try_collect()
            .await
            .map_err(system_error)
            .with_context(|| format!("cannot list the {family} rules"))?;
        Ok(dump
            .iter()
            .filter_map(|message| known_rule(family, message))
            .collect())
    }

    async fn add_rule(&self, rule: Rule) -> anyhow::Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule_message(rule);
        accept(request.execute().await, Errno::EEXIST)
            .with_context(|| format!("cannot add rule '{rule}'"))
    }

    async fn delete_rule(&self, rule: Rule) -> anyhow::Result<()> {
        let request = self.handle.rule().del(rule_message(rule));
        accept(request.execute().await, Errno::ENOENT)
            .with_context(|| format!("cannot delete rule '{rule}'"))
    }

    async fn addresses(&self) -> anyhow::Result<BTreeSet<(IpAddr, u32)>> {
        let dump = self.handle.address().get().execute().try_collect().await;
        let dump: Vec<_> = dump
            .map_err(system_error)
            .context("cannot list the addresses of this host")?;
        let address = |message: &AddressMessage| Some((own_end(message)?, message.header.index));
        Ok(dump.iter().filter_map(address).collect())
    }

    async fn add_address(&self, address: IpAddr) -> anyhow::Result<()> {
        let message = address_message(address);
        let mut request = self
            .handle
            .address()
            .add(LOOPBACK, address, message.header.prefix_len);
        *request.message_mut() = message;
        accept(request.execute().await, Errno::EEXIST)
            .with_context(|| format!("cannot add {address} to lo"))
    }

    async fn delete_address(&self, address: IpAddr) -> anyhow::Result<()> {
        let request = self.handle.address().del(address_message(address));
        accept(request.execute().await, Errno::EADDRNOTAVAIL)
            .with_context(|| format!("cannot delete {address} from lo"))
    }

    async fn has_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<bool> {
        let present = self.list_addresses(interface).await?;
        Ok(present
            .iter()
            .any(|message| own_end(message) == Some(identity.addr())))
    }

    async fn add_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()> {
        let mut request =
            self.handle
                .address()
                .add(interface, identity.addr(), identity.prefix_len());
        if identity.addr().is_ipv6() {
            // Duplicate address detection would keep it out of use for seconds.
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        accept(request.execute().await, Errno::EEXIST)
            .with_context(|| format!("cannot add {identity} to interface {interface}"))
    }

    async fn add_assumed(&self, interface: u32, address: IpAddr) -> anyhow::Result<()> {
        let prefix = host_prefix(address);
        let mut request = self.handle.address().add(interface, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(deprecated());
        }
        accept(request.execute().await, Errno::EEXIST)
            .with_context(|| format!("cannot add {address} to interface {interface}"))
    }

    async fn delete_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = match identity {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message.header.index = interface;
        message.header.prefix_len = identity.prefix_len();
        message
            .attributes
            .push(AddressAttribute::Local(identity.addr()));
        match self
            .handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(system_error)
        {
            // The interface is gone, and the address with it.
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32) => Ok(()),
            other => other,
        }
        .with_context(|| format!("cannot delete {identity} from interface {interface}"))
    }
}

fn rule_message(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.action = RuleAction::ToTable;
    message.header.family = match rule.family() {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    // systemd-networkd, when it restarts, deletes all rules that it did not make, but not those of the kernel.
    let mut protocol = libc::RTPROT_KERNEL;
    let preference = match rule {
        Rule::Local {
            preference,
            protocol: its,
            ..
        } => {
            message.header.table = libc::RT_TABLE_LOCAL;
            protocol = its;
            preference
        }
        Rule::Foreign(address) => {
            message.header.table = libc::RT_TABLE_MAIN;
            select_own_traffic(&mut message, address);
            FOREIGN_PREFERENCE
        }
        Rule::Unreachable(address) => {
            message.header.action = RuleAction::Unreachable;
            select_own_traffic(&mut message, address);
            UNREACHABLE_PREFERENCE
        }
    };
    message.attributes.push(RuleAttribute::Priority(preference));
    message
        .attributes
        .push(RuleAttribute::Protocol(protocol.into()));
    message
}

/// Narrows a rule to traffic that is made here, for `address`.
fn select_own_traffic(message: &mut RuleMessage, address: IpAddr) {
    message.header.dst_len = host_prefix(address);
    message.attributes.push(RuleAttribute::Iifname("lo".into()));
    message.attributes.push(RuleAttribute::Destination(address));
}

/// The rule in `message`, if it is of a known form. One that has any other selector, or one that we do not understand, is
/// not: to take it for the rule that everything depends on could cost the host its network.
fn known_rule(family: Family, message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    if header.flags.contains(RuleFlags::Invert) || header.src_len != 0 || header.tos != 0 {
        return None;
    }
    // The kernel leaves out a preference of 0.
    let (mut preference, mut table) = (0, u32::from(header.table));
    let (mut input, mut destination) = (None, None);
    let mut protocol = RouteProtocol::Unspec;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => preference = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Iifname(name) => input = Some(name.as_str()),
            RuleAttribute::Destination(address) => destination = Some(*address),
            RuleAttribute::Protocol(value) => protocol = *value,
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => return None,
        }
    }
    match (header.action, input, destination) {
        (RuleAction::ToTable, None, None) if table == u32::from(libc::RT_TABLE_LOCAL) => {
            Some(Rule::Local {
                family,
                preference,
                protocol: protocol.into(),
            })
        }
        (action, Some("lo"), Some(address)) if header.dst_len == host_prefix(address) => {
            match (action, preference) {
                (RuleAction::ToTable, FOREIGN_PREFERENCE)
                    if table == u32::from(libc::RT_TABLE_MAIN) =>
                {
                    Some(Rule::Foreign(address))
                }
                (RuleAction::Unreachable, UNREACHABLE_PREFERENCE) => {
                    Some(Rule::Unreachable(address))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// [`AddressFlags`] of an address that isn't used.
const UNUSABLE: AddressFlags = AddressFlags::Tentative.union(AddressFlags::Dadfailed);

fn flags(message: &AddressMessage) -> AddressFlags {
    let mut attributes = message.attributes.iter();
    let found = attributes.find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    found.unwrap_or(AddressFlags::empty())
}

/// The address of this host in `message`. On a point-to-point link there is the one of the other end as well.
fn own_end(message: &AddressMessage) -> Option<IpAddr> {
    let attributes = &message.attributes;
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn address_message(address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = LOOPBACK;
    message.header.prefix_len = host_prefix(address);
    message.attributes.push(AddressAttribute::Address(address));
    message.attributes.push(AddressAttribute::Local(address));
    // It must not become the source of this host's own traffic by chance of source address selection: scope host does that
    // for IPv4, a preferred lifetime of 0 for IPv6 (RFC 6724, rule 3).
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.scope = AddressScope::Host;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.flags = AddressHeaderFlags::Nodad;
            // Unlike for IPv4 the kernel would add a route to it by lo in table main, where our rule is to find the way
            // to its owner.
            message.attributes.push(AddressAttribute::Flags(
                AddressFlags::Nodad | AddressFlags::Noprefixroute,
            ));
            message.attributes.push(deprecated());
        }
    }
    message
}

/// For ever, but not preferred as a source (RFC 4862 section 5.5.4).
fn deprecated() -> AddressAttribute {
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_valid = u32::MAX;
    AddressAttribute::CacheInfo(lifetime)
}

/// Tries until it succeeds, as often as the daemon has time for.
async fn persist(mut attempt: impl AsyncFnMut() -> io::Result<()>) -> io::Result<()> {
    for pause in PAUSES {
        if attempt().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
    }
    attempt().await
}

/// Takes the kernel's refusal `harmless` for success.
fn accept(result: Result<(), rtnetlink::Error>, harmless: Errno) -> io::Result<()> {
    match result.map_err(system_error) {
        Err(error) if error.raw_os_error() == Some(harmless as i32) => Ok(()),
        other => other,
    }
}

pub(super) fn system_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => Ipv4Addr::BITS as u8,
        IpAddr::V6(_) => Ipv6Addr::BITS as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Rule = Rule::Local {
        family: Family::V4,
        preference: 0,
        protocol: libc::RTPROT_STATIC,
    };

    #[test]
    fn rules_are_known_again_and_others_are_not() {
        let address = "2001:db8::1".parse().unwrap();
        for rule in [Rule::Foreign(address), Rule::Unreachable(address)] {
            assert_eq!(known_rule(Family::V6, &rule_message(rule)), Some(rule));
        }
        assert_eq!(known_rule(Family::V4, &rule_message(LOCAL)), Some(LOCAL));

        let other = |alter: fn(&mut RuleMessage)| {
            let mut message = rule_message(LOCAL);
            alter(&mut message);
            known_rule(Family::V4, &message)
        };
        assert_eq!(other(|rule| rule.header.flags = RuleFlags::Invert), None);
        assert_eq!(
            other(|rule| rule.header.action = RuleAction::Blackhole),
            None
        );
        assert_eq!(other(|rule| rule.header.src_len = 8), None);
        assert_eq!(
            other(|rule| rule.attributes.push(RuleAttribute::FwMark(1))),
            None
        );
        assert_eq!(
            other(|rule| rule.attributes.push(RuleAttribute::SuppressPrefixLen(0))),
            None
        );
        assert_eq!(
            other(|rule| rule.attributes.push(RuleAttribute::Table(1000))),
            None
        );
        assert_eq!(
            other(|rule| rule.attributes.push(RuleAttribute::Iifname("lo".into()))),
            None
        );
    }
}
