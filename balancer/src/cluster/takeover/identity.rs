//! One identity as this server knows it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;

use super::super::{IdentityReport, ServerId, Tenure, Timestamp};

/// An identity of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The address, with the prefix length of its network.
    pub address: IpNet,
    /// The server that it belongs to when all are well.
    pub home: ServerId,
    /// Who has it, as far as is known.
    pub holder: Option<ServerId>,
    /// How often it has been claimed, as far as is known. Grows with each claim; the higher one wins.
    pub term: u64,
    /// Since when the holder has it, by this server's clock.
    pub since: Timestamp,
    /// Why the holder has it, or has it no more.
    pub reason: Reason,
    /// Its host keeps it when its daemon ends: only of identities that this server holds.
    pub(super) kept: bool,
    pub(super) probe: Probe,
    /// Probes in a row that nobody answered.
    pub(super) unanswered: u32,
    /// Its home holds it under a lower term than was known before: it is to be told of that.
    pub(super) behind: bool,
    /// This server had it and has let go. Its home, which has been heard since this time, is to be told.
    pub(super) let_go: Option<Timestamp>,
    /// Since when it is free.
    pub(super) free_since: Option<Timestamp>,
    /// When its holder was last defended against another one's claim.
    pub(super) defended: Timestamp,
}

/// Why an identity has the holder that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Its home has it.
    Home,
    /// The holder before died.
    HolderDied,
    /// The holder before said goodbye, or let go of it.
    HolderLeft,
    /// This server's daemon was restarted while it had it.
    Adopted,
    /// The holder says that it has it; what happened before isn't known here.
    Reported,
    /// A host was seen to use it that isn't known to hold it.
    SeenElsewhere,
    /// It could not be added to this host.
    NotAdded,
}

impl Reason {
    /// Its name in logs and output.
    pub fn text(self) -> &'static str {
        match self {
            Self::Home => "its home",
            Self::HolderDied => "the holder before died",
            Self::HolderLeft => "the holder before let go of it",
            Self::Adopted => "held before this daemon was restarted",
            Self::Reported => "as it reports",
            Self::SeenElsewhere => "another host was seen to use it",
            Self::NotAdded => "this host could not take it",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What is known of whether anybody uses an address, with the time of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Unknown,
    Asked(Timestamp),
    Unused(Timestamp),
    Used(Timestamp),
}

impl Identity {
    pub(super) fn new(address: IpNet, home: ServerId, term: u64) -> Self {
        Self {
            address,
            home,
            holder: None,
            term,
            since: Timestamp(0),
            reason: Reason::Reported,
            kept: false,
            probe: Probe::Unknown,
            unanswered: 0,
            behind: false,
            let_go: None,
            free_since: None,
            defended: Timestamp(0),
        }
    }

    /// Its home holds it, and has yet to take a higher term.
    pub(super) fn is_untold(&self) -> bool {
        (self.behind || self.let_go.is_some()) && self.is_held_by(self.home)
    }

    pub(super) fn is_held_by(&self, id: ServerId) -> bool {
        self.holder == Some(id)
    }

    /// It isn't to be claimed now: what was found out for that is worth nothing later.
    pub(super) fn forget_search(&mut self) {
        self.forget_probes();
        self.free_since = None;
    }

    /// Somebody was found to use it, or nobody.
    pub(super) fn answered(&mut self, now: Timestamp, used: bool) {
        (self.probe, self.unanswered) = if used {
            (Probe::Used(now), 0)
        } else {
            (Probe::Unused(now), self.unanswered.saturating_add(1))
        };
    }

    /// What was found out before isn't to be trusted.
    pub(super) fn forget_probes(&mut self) {
        self.probe = Probe::Unknown;
        self.unanswered = 0;
    }

    pub(super) fn report(&self, tenure: Tenure) -> IdentityReport {
        IdentityReport {
            address: self.address,
            home: self.home,
            term: self.term,
            tenure,
        }
    }
}
