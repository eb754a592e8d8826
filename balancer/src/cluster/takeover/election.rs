//! Who is to take over what: all servers that see the same come to the same answer without a word.

use balancer_common::hash::fold;
use std::net::IpAddr;

use super::super::membership::Membership;
use super::super::{Link, Peer, ServerId, Status};

/// How many servers must be in sight of one that takes over an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Require {
    /// None but itself. What keeps two holders apart is the probe: an address that anybody on its link uses is not taken.
    #[default]
    Any,
    /// More than half of those known, itself included.
    Majority,
    /// It takes over nothing: where addresses can't move, as in most clouds' networks.
    Never,
}

impl Require {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Any, Self::Majority, Self::Never];

    /// What the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Majority => "majority",
            Self::Never => "never",
        }
    }
}

/// The servers at one moment.
pub(in super::super) struct Sight<'a> {
    pub me: ServerId,
    pub membership: &'a Membership,
    /// This server's links; `None`: it takes over nothing.
    pub links: Option<&'a [Link]>,
}

/// How a server stands with regard to what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its reports come in.
    Present,
    /// They have been missing for nearly the time-out.
    Overdue,
    /// Its host lives, its daemon doesn't report: what it holds is served.
    Silent,
    /// It said goodbye.
    Left,
    /// Its host is dead, or nobody remembers it.
    Gone,
}

impl Sight<'_> {
    pub(super) fn standing(&self, id: ServerId) -> Standing {
        if id == self.me {
            return Standing::Present;
        }
        let Some(peer) = self.membership.peer(id) else {
            return Standing::Gone;
        };
        match peer.status {
            Status::Online if peer.is_overdue() => Standing::Overdue,
            Status::Online => Standing::Present,
            Status::Suspect => Standing::Overdue,
            Status::Silent => Standing::Silent,
            Status::Left => Standing::Left,
            Status::Dead => Standing::Gone,
        }
    }

    /// How many come before this server if `address` is to have another holder; `None`: it can't be this one.
    ///
    /// The order is that of rendezvous hashing over the servers that are there, are willing, and have a link to the
    /// address's network. So the identities of one server spread over the others, and all of them agree.
    pub(super) fn rank(&self, address: IpAddr) -> Option<u32> {
        self.links.filter(|links| is_on_link(links, address))?;
        let willing = |peer: &&Peer| {
            peer.report.caretaker && self.standing(peer.report.server) == Standing::Present
        };
        let place = |id| (score(id, address), id);
        let before = |peer: &&Peer| {
            place(peer.report.server) > place(self.me) && is_on_link(&peer.report.links, address)
        };
        let ahead = self.membership.iter().filter(willing).filter(before);
        Some(ahead.count() as u32)
    }

    /// Whether more than half of the servers known, this one included, are in sight. Those that said goodbye don't count,
    /// and those that are overdue aren't: when the first of many is dead, the others may be on their way to be.
    pub(super) fn has_majority(&self) -> bool {
        let (mut known, mut seen) = (1, 1);
        for peer in self.membership.iter() {
            known += u32::from(peer.status != Status::Left);
            let standing = self.standing(peer.report.server);
            seen += u32::from(matches!(standing, Standing::Present | Standing::Silent));
        }
        2 * seen > known
    }
}

fn is_on_link(links: &[Link], address: IpAddr) -> bool {
    let mut networks = links.iter().flat_map(|link| &link.addresses);
    networks.any(|network| network.contains(&address))
}

fn score(id: ServerId, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    fold(fold(fold((bits >> 64) as u64) ^ bits as u64) ^ id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_identities_of_a_server_spread_and_few_move() {
        let first = |servers: u64, address: u32| {
            let ids = (1..=servers).map(|id| ServerId(fold(id)));
            ids.max_by_key(|id| score(*id, IpAddr::from(address.to_be_bytes())))
                .unwrap()
        };
        let mut shares: BTreeMap<ServerId, u32> = BTreeMap::new();
        let mut moved = 0;
        for address in 0x0a00_0000..0x0a00_0000 + 1_000 {
            *shares.entry(first(10, address)).or_default() += 1;
            moved += u32::from(first(10, address) != first(9, address));
        }
        assert_eq!(shares.len(), 10);
        assert!(
            shares.values().all(|share| (60..140).contains(share)),
            "{shares:?}"
        );
        assert!((60..140).contains(&moved), "{moved}");
    }
}
