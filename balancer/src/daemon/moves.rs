//! Connections that move from one server to another: the packets of those that clients send here are sent on.

use anyhow::Result;
use balancer_common::wire::TCP;

use super::collector::serves;
use super::prepare::Prepared;
use super::running::Running;
use super::takeover::held;
use crate::cluster::FlowAt;
use crate::datapath::recovered::Ledger;
use crate::exchange::clock;
use crate::http::{Move, Moved};

impl Running {
    /// Has a connection's packets sent on, if they come to this server.
    pub(super) fn on_move(&mut self, prepared: &Prepared, question: Move) -> Result<()> {
        let flow = FlowAt {
            protocol: TCP,
            client: question.client,
            identity: question.server,
            owner: question.to,
            sure: true,
        };
        let moved = self.redirect(prepared, &flow);
        let answer = *moved.as_ref().unwrap_or(&Moved::No);
        // Who asked may have given up.
        let _ = question.done.send(answer);
        moved.map(drop)
    }

    fn redirect(&mut self, prepared: &Prepared, flow: &FlowAt) -> Result<Moved> {
        let address = flow.identity.ip();
        if !held(prepared).contains(&address) {
            let cluster = prepared.exchange.cluster();
            let mut known = cluster.identities();
            let holder = known.find(|identity| identity.address.addr() == address);
            let holder = holder.and_then(|identity| identity.holder);
            return Ok(match holder {
                Some(holder) if holder != prepared.id => Moved::Elsewhere(holder),
                _ => Moved::No,
            });
        }
        let ledger = Ledger::open(&self.datapath.maps)?;
        if flow.owner == prepared.id {
            ledger.keep(flow);
            return Ok(Moved::Done);
        }
        let services = self.services.iter().map(|life| &life.config);
        let service = (0..)
            .zip(services)
            .find(|(_, service)| serves(service, flow));
        let entered = match (service, self.table.slot(flow.owner)) {
            (Some((service, _)), Some(peer)) => {
                ledger.send_on(flow, peer, service, clock::monotonic())
            }
            _ => false,
        };
        Ok(if entered { Moved::Done } else { Moved::No })
    }
}
