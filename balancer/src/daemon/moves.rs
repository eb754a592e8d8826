//! Connections that move from one server to another: the packets of those that clients send here are sent on.

use anyhow::Result;
use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use balancer_common::types::{Address, Mac};
use balancer_common::wire::TCP;

use super::collector::serves;
use super::prepare::Prepared;
use super::running::Running;
use super::takeover::held;
use crate::cluster::FlowAt;
use crate::datapath::recovered::Ledger;
use crate::exchange::clock;
use crate::http::{Move, Moved, Origin};

impl Running {
    /// Has a connection's packets sent on, if they come to this server.
    pub(super) async fn on_move(&mut self, prepared: &Prepared, question: Move) -> Result<()> {
        let flow = FlowAt {
            protocol: TCP,
            client: question.client,
            identity: question.server,
            owner: question.to,
            sure: true,
        };
        let moved = self.redirect(prepared, &flow, question.origin).await;
        let answer = *moved.as_ref().unwrap_or(&Moved::No);
        // Who asked may have given up.
        let _ = question.done.send(answer);
        moved.map(drop)
    }

    async fn redirect(&self, prepared: &Prepared, flow: &FlowAt, origin: Origin) -> Result<Moved> {
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
        if !ledger.is_sent_on(flow) && !self.passes(flow, origin)? {
            return Ok(Moved::No);
        }
        let services = self.services.iter().map(|life| &life.config);
        let service = (0..)
            .zip(services)
            .find(|(_, service)| serves(service, flow));
        let (Some((service, _)), Some(peer)) = (service, self.table.slot(flow.owner)) else {
            return Ok(Moved::No);
        };
        let tunnel = self.datapath.maps.peers.get(&peer, 0)?.tunnel != 0;
        if tunnel && !is_untagged(prepared, flow).await? {
            return Ok(Moved::No);
        }
        let entered = ledger.send_on(flow, peer, service, clock::monotonic());
        Ok(if entered { Moved::Done } else { Moved::No })
    }

    /// Whether the program gets the flow's packets, and would send them on (`steer.rs`): not those of a server of the cluster, nor
    /// those that come over `lo`, or by an interface that it isn't attached to.
    fn passes(&self, flow: &FlowAt, origin: Origin) -> Result<bool> {
        let (to, from, hops) = match origin {
            Origin::Frame { to, from, hops } => (Mac::new(to), Mac::new(from), hops),
            Origin::SentOn => return Ok(true),
            Origin::Unknown => return Ok(false),
        };
        let maps = &self.datapath.maps;
        let ours = to.number() != 0 && self.settings.macs.contains(&to.number());
        let client = Address::from(flow.client.ip());
        let of_cluster = has(&maps.peer_macs, from)? || has(&maps.identities, client)?;
        Ok(ours && !of_cluster && hops > 1)
    }
}

/// Whether a flow's packets come without a tag, as those must that go on through a tunnel: by an interface that balancer is attached
/// to, as far as the way back to the client tells.
async fn is_untagged(prepared: &Prepared, flow: &FlowAt) -> Result<bool> {
    let route = prepared.host.route_to(flow.client.ip()).await?;
    let attached = |index| (prepared.interfaces.iter()).any(|interface| interface.index == index);
    Ok(route.is_some_and(|route| attached(route.interface)))
}

fn has<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, key: K) -> Result<bool> {
    match map.get(&key, 0) {
        Ok(_) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
