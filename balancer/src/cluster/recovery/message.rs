//! What servers say to each other of flows.

use std::net::{IpAddr, SocketAddr};

use balancer_common::wire::{TCP, UDP};
use serde::{Deserialize, Serialize};

use super::super::{Invalid, MAX_IDENTITIES, ServerId};
use super::FlowAt;

/// Which flows have you on these identities?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsQuery {
    /// Who asks.
    pub server: ServerId,
    /// Which start of its daemon this is.
    pub boot: u64,
    /// Grows with each query of one start.
    pub sequence: u64,
    /// The start and the number of the report that it heard last from the one whom it asks: this is no older.
    pub heard: (u64, u64),
    /// What the answers are to name: the same for all parts of one answer, and never used before.
    pub session: u64,
    /// The identities.
    pub identities: Vec<IpAddr>,
    /// The first part that the asker lacks.
    pub part: u32,
}

/// Some of the flows that a server has on the identities that it was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsPart {
    /// Who answers.
    pub server: ServerId,
    /// The query's.
    pub session: u64,
    /// Its place, from 0.
    pub part: u32,
    /// No part follows.
    pub last: bool,
    /// The whole answer is all that there is to tell.
    pub complete: bool,
    /// The flows.
    pub flows: Vec<FlowReport>,
}

/// A flow, as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// IP protocol number: 6 is TCP, 17 is UDP.
    pub protocol: u8,
    /// The client's end.
    pub client: SocketAddr,
    /// The identity's place in the query.
    pub identity: u8,
    /// The service's port.
    pub port: u16,
    /// See [`FlowAt::sure`].
    pub sure: bool,
    /// The server that has it, if that is not the one that tells of it.
    pub at: Option<ServerId>,
}

impl FlowsQuery {
    pub(in super::super) fn check(&self) -> Result<(), Invalid> {
        let count = self.identities.len();
        if count > MAX_IDENTITIES {
            return Err(Invalid::TooMany {
                what: "identities",
                count,
                max: MAX_IDENTITIES,
            });
        }
        Ok(())
    }
}

impl FlowsPart {
    pub(in super::super) fn check(&self) -> Result<(), Invalid> {
        match self.flows.iter().find(|flow| !flow.makes_sense()) {
            Some(flow) => Err(Invalid::Flow(flow.client)),
            None => Ok(()),
        }
    }
}

impl FlowReport {
    /// The flow as `teller` tells of it to who asked about `identities`; `None` if it isn't on one of them.
    pub(super) fn of(flow: &FlowAt, teller: ServerId, identities: &[IpAddr]) -> Option<Self> {
        let ip = flow.identity.ip();
        let place = identities.iter().position(|identity| *identity == ip)?;
        Some(Self {
            protocol: flow.protocol,
            client: flow.client,
            identity: u8::try_from(place).ok()?,
            port: flow.identity.port(),
            sure: flow.sure,
            at: (flow.owner != teller).then_some(flow.owner),
        })
    }

    /// What it says; `None` if that isn't about one of `identities`.
    pub(super) fn read(&self, teller: ServerId, identities: &[IpAddr]) -> Option<FlowAt> {
        let ip = identities.get(usize::from(self.identity))?;
        Some(FlowAt {
            protocol: self.protocol,
            client: self.client,
            identity: SocketAddr::new(*ip, self.port),
            owner: self.at.unwrap_or(teller),
            // Of its own connections only a server itself is sure.
            sure: self.sure && self.at.is_none(),
        })
    }

    /// Bytes that it takes at the most.
    pub(super) fn size(&self) -> usize {
        let address = if self.client.is_ipv4() { 4 } else { 16 };
        let at = if self.at.is_some() { 10 } else { 0 };
        // Protocol, family, client's port, identity, port, sure, whether `at` follows.
        1 + 1 + address + 3 + 1 + 3 + 1 + 1 + at
    }

    fn makes_sense(&self) -> bool {
        let ip = self.client.ip();
        matches!(self.protocol, TCP | UDP)
            && self.port != 0
            && self.client.port() != 0
            && !ip.is_unspecified()
            && !ip.is_multicast()
    }
}
