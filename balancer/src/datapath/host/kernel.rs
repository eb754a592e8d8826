//! What of the kernel's addresses and rules balancer knows and changes.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Preference of the rules for foreign addresses.
pub(super) const FOREIGN_PREFERENCE: u32 = 90;

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
    },
    /// `pref 90 iif lo to ADDRESS lookup main`.
    Foreign(IpAddr),
}

/// The part of the kernel that the changes are made on. Adding what is there and deleting what isn't are no errors.
pub(super) trait Kernel {
    /// Those rules of `family` that are of a known form.
    async fn rules(&self, family: Family) -> anyhow::Result<BTreeSet<Rule>>;
    async fn add_rule(&self, rule: Rule) -> anyhow::Result<()>;
    async fn delete_rule(&self, rule: Rule) -> anyhow::Result<()>;
    /// The addresses on `lo`, of both families.
    async fn addresses(&self) -> anyhow::Result<BTreeSet<IpAddr>>;
    async fn add_address(&self, address: IpAddr) -> anyhow::Result<()>;
    async fn delete_address(&self, address: IpAddr) -> anyhow::Result<()>;
    /// Whether the interface with this index has the address.
    async fn has_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<bool>;
    async fn add_identity(&self, interface: u32, identity: IpNet) -> anyhow::Result<()>;
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
            Self::Foreign(address) => Family::of(address),
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
        }
    }
}
