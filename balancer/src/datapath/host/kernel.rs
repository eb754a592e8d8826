//! What of the kernel's addresses and rules balancer knows and changes.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Preference of the rules that send own traffic for foreign addresses to their owners.
pub(super) const FOREIGN_PREFERENCE: u32 = 90;

/// Preference of the rules for own traffic to foreign addresses that found no way to their owners.
pub(super) const UNREACHABLE_PREFERENCE: u32 = 91;

/// `lo` has this index in every network namespace (`LOOPBACK_IFINDEX` of Linux).
pub(super) const LOOPBACK: u32 = 1;

/// IPv4 or IPv6: each has rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A routing rule of one of the forms that balancer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// `pref PREFERENCE lookup local`, for everything.
    Local {
        /// The family it is for.
        family: Family,
        /// Its preference: the smaller, the earlier.
        preference: u32,
        /// What kind of program it is from, as in `proto kernel`: one of Linux's `RTPROT_` numbers.
        protocol: u8,
    },
    /// `pref 90 iif lo to ADDRESS lookup main`.
    Foreign(IpAddr),
    /// `pref 91 iif lo to ADDRESS unreachable`.
    Unreachable(IpAddr),
}

/// The part of the kernel that the changes are made on. Adding what is there and deleting what isn't are no errors.
pub(super) trait Kernel {
    /// Those rules of `family` that are of a known form. The kernel can have the same one twice.
    async fn rules(&self, family: Family) -> anyhow::Result<Vec<Rule>>;
    async fn add_rule(&self, rule: Rule) -> anyhow::Result<()>;
    async fn delete_rule(&self, rule: Rule) -> anyhow::Result<()>;
    /// The addresses of this host, of both families, with the indexes of their interfaces.
    async fn addresses(&self) -> anyhow::Result<BTreeSet<(IpAddr, u32)>>;
    /// Adds an address to `lo`.
    async fn add_address(&self, address: IpAddr) -> anyhow::Result<()>;
    async fn delete_address(&self, address: IpAddr) -> anyhow::Result<()>;
    /// Whether the interface with this index has the address.
    async fn has_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<bool>;
    async fn add_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()>;
    /// Adds an identity of another server: only what is for it is to reach it, no traffic of this host's own starts from it.
    async fn add_assumed(&self, interface: u32, address: IpAddr) -> anyhow::Result<()>;
    async fn delete_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()>;
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// The option by which `ip` selects this family.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Rule {
    pub(super) fn family(self) -> Family {
        match self {
            Self::Local { family, .. } => family,
            Self::Foreign(address) | Self::Unreachable(address) => Family::of(address),
        }
    }
}

/// As `ip rule` would have it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { preference, .. } => write!(f, "pref {preference} lookup local"),
            Self::Foreign(address) => write!(
                f,
                "pref {FOREIGN_PREFERENCE} iif lo to {address} lookup main"
            ),
            Self::Unreachable(address) => write!(
                f,
                "pref {UNREACHABLE_PREFERENCE} iif lo to {address} unreachable"
            ),
        }
    }
}
