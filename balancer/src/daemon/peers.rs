//! What happens to peers, and what is done about it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use balancer_common::types::Address;
use ipnet::IpNet;

use super::prepare::Prepared;
use super::probes::Subject;
use super::running::Running;
use crate::cluster::{self, Cluster, Event, Report, ServerId, Status};
use crate::datapath::host::Neighbour;
use crate::datapath::peers::Known;
use crate::exchange::{OpenError, clock};

impl Running {
    /// Carries an event of the exchange into the maps and onto the host.
    pub(super) async fn on_event(&mut self, prepared: &mut Prepared, event: Event) -> Result<()> {
        let peer = |id| prepared.exchange.cluster().peer(id);
        let name =
            |id: ServerId| peer(id).map_or_else(|| id.to_string(), |peer| peer.report.name.clone());
        match event {
            Event::Joined(id) => {
                let from = peer(id).map(|peer| peer.from.ip().to_string());
                let text = format!("peer {} ({}) is there", name(id), from.unwrap_or_default());
                self.history.add(clock::monotonic(), text);
                self.introduce(prepared, peer(id).into_iter()).await?;
            }
            Event::PeerUpdated(id) => {
                let Some(peer) = peer(id) else { return Ok(()) };
                let moved = self.enter(prepared, peer)?;
                if self.settings.peers != self.table.count() {
                    self.write_settings()?;
                }
                if moved {
                    self.find_routes(prepared).await?;
                }
                self.warn_of(peer, &prepared.identities);
                if moved {
                    self.set_foreign(prepared).await?;
                }
            }
            Event::Changed { id, from, to } => {
                let text = format!("peer {}: {} (was {})", name(id), to.name(), from.name());
                self.history.add(clock::monotonic(), text);
                self.table.set_status(&mut self.datapath.maps, id, to)?;
                let silent = (to == Status::Silent).then(|| {
                    format!(
                        "peer {}: its host answers, but its balancer doesn't report: it gets no new flows",
                        name(id)
                    )
                });
                self.warnings.set(&format!("{id} silent"), silent);
                if to == Status::Online {
                    self.introduce(prepared, peer(id).into_iter()).await?;
                }
            }
            Event::Probe(id) => self.probe(prepared, id),
            Event::ProbeIdentity(address) => {
                self.spawn_probe(prepared, Subject::Identity(address), address);
            }
            Event::Assume(assumed) => self.assume(prepared, assumed).await?,
            Event::Release(address) => self.release(prepared, address).await?,
            Event::Announce(address) => self.announce(address),
            Event::Moved(address) => {
                self.on_moved(prepared, address);
                let known = known(prepared.exchange.cluster());
                if self.table.set_known(&mut self.datapath.maps, known)? {
                    self.set_foreign(prepared).await?;
                }
            }
            Event::NameConflict { id, name } => self.warnings.set(
                &format!("{id} name"),
                Some(format!(
                    "server {id} has the same name, {name}: give each a name of its own"
                )),
            ),
            Event::Recover {
                identity,
                of,
                got,
                grace,
            } => {
                if got {
                    self.recovery.note_got(identity, clock::monotonic());
                }
                self.recover(vec![identity], of, grace)?;
            }
            Event::FlowsWanted {
                by,
                session,
                identities,
            } => self.on_flows_wanted(prepared, by, session, identities),
            Event::Flows(flows) => self.on_flows(prepared.id, &flows)?,
            Event::Recovered { identity, lacking } => {
                self.on_recovered(prepared, identity, &lacking)?;
            }
            Event::Forgotten(id) => self.forget(prepared, id).await?,
        }
        Ok(())
    }

    /// Lets the kernel know where peers are that can be reached from now on: they are asked for flows, and clients wait.
    pub(super) async fn introduce(
        &self,
        prepared: &Prepared,
        peers: impl Iterator<Item = &cluster::Peer>,
    ) -> Result<()> {
        let cluster = prepared.exchange.cluster();
        let elsewhere = |address: IpAddr, id| {
            let mut identities = cluster.identities();
            identities.any(|one| one.address.addr() == address && one.holder != Some(id))
        };
        let mut neighbours = Vec::new();
        for peer in peers {
            for link in &peer.report.links {
                let addresses = link.addresses.iter().map(IpNet::addr);
                let here = addresses.filter(|address| !elsewhere(*address, peer.report.server));
                neighbours.extend(here.filter_map(|address| {
                    Some(Neighbour {
                        interface: self.on_link(address)?.index,
                        address,
                        mac: link.mac,
                    })
                }));
            }
        }
        prepared.host.introduce(&neighbours).await
    }

    /// Enters a peer's report in the maps. `true`: identities or addresses have changed.
    fn enter(&mut self, prepared: &Prepared, peer: &cluster::Peer) -> Result<bool> {
        let cluster = prepared.exchange.cluster();
        let timeout = peer.timing(cluster.timing()).timeout();
        let maps = &mut self.datapath.maps;
        let known = known(cluster);
        self.table
            .update(maps, &peer.report, peer.heard, timeout, known)
    }

    /// Enters all peers' reports again: this server's time-out has changed.
    pub(super) fn enter_all(&mut self, prepared: &Prepared) -> Result<()> {
        for peer in prepared.exchange.cluster().peers() {
            if peer.status == Status::Online {
                self.enter(prepared, peer)?;
            }
        }
        Ok(())
    }

    /// Drops all that is known of a peer.
    pub(super) async fn forget(&mut self, prepared: &mut Prepared, id: ServerId) -> Result<()> {
        self.warnings.clear(&id.to_string());
        let maps = &mut self.datapath.maps;
        self.table.forget(maps, id)?;
        self.table
            .set_known(maps, known(prepared.exchange.cluster()))?;
        self.write_settings()?;
        self.set_foreign(prepared).await
    }

    /// Looks up the next hops to peers on other links. They may change at any time, and take a moment to become known.
    pub(super) async fn find_routes(&mut self, prepared: &Prepared) -> Result<()> {
        let remote = self.table.remote();
        for (id, address) in &remote {
            let found = prepared.host.route_to(*address).await;
            let failed = found.as_ref().err().map(|error| format!("{error:#}"));
            self.warnings.set(&format!("{id} route"), failed);
            // A next hop that isn't known for a moment, as when a router restarts, ends no flow.
            let Ok(Some(route)) = found else { continue };
            let maps = &mut self.datapath.maps;
            if self.table.set_route(maps, *id, route)?
                && let Some(peer) = prepared.exchange.cluster().peer(*id)
            {
                self.warn_of(peer, &prepared.identities);
            }
        }
        // A tunnel's end is open only where there are tunnels.
        let ends = if remote.is_empty() {
            [None; 2]
        } else {
            self.table.endpoints()
        };
        let [v4, v6] = ends.map(|end| end.map_or_else(Address::default, Address::from));
        if (self.settings.tunnel_v4, self.settings.tunnel_v6) != (v4, v6) {
            (self.settings.tunnel_v4, self.settings.tunnel_v6) = (v4, v6);
            self.write_settings()?;
        }
        Ok(())
    }

    /// Gives this host the addresses of its peers. Until that works it takes no flows for them, and says so to them.
    pub(super) async fn set_foreign(&mut self, prepared: &mut Prepared) -> Result<()> {
        let result = prepared.host.set_foreign(&self.table.foreign()).await;
        self.foreign_pending = result.is_err();
        let own = result.as_ref().ok().and_then(own_addresses);
        self.warnings.set("own addresses", own);
        self.warnings.note(
            "this host cannot take flows for its peers",
            result.map(drop),
        );
        self.report(prepared)
    }

    /// Warns of a balancer on this network that can't be understood, or takes that back.
    pub(super) fn warn_of_stranger(&mut self, prepared: &Prepared) {
        let stranger = prepared.exchange.stranger();
        let text = stranger.map(|(from, why)| unheard(from.ip(), why));
        self.warnings.set("a stranger", text);
    }

    /// Warns of what a peer's report shows to be wrong, or takes back what was wrong before.
    fn warn_of(&mut self, peer: &cluster::Peer, own: &[IpNet]) {
        let (id, name) = (peer.report.server, &peer.report.name);
        if !peer.name_conflict {
            self.warnings.set(&format!("{id} name"), None);
        }
        let shared = held_by_both(&peer.report, own);
        let shared = (!shared.is_empty()).then(|| {
            format!(
                "{} is this server's and peer {name}'s: two servers must not have one address",
                shared.join(", ")
            )
        });
        self.warnings.set(&format!("{id} identities"), shared);
        let apart = !peer.report.leaving && !self.table.is_in_reach(&peer.report);
        let apart = apart.then(|| {
            format!(
                "peer {name} is on another link, and there is no way for a tunnel to it: nothing can be steered to it. Both \
                 need addresses of one family and a route to each other (`ip route get`) by an interface that balancer is \
                 attached to"
            )
        });
        self.warnings.set(&format!("{id} link"), apart);
    }
}

/// What to say of a balancer that can't be understood.
fn unheard(from: IpAddr, why: OpenError) -> String {
    match why {
        OpenError::Version(_) => format!(
            "the server at {from} isn't heard: it is {why}. Install one version on all servers"
        ),
        _ => format!(
            "the server at {from} isn't heard: its reports are {why}. A server of this cluster needs the same key file; one of \
             another cluster needs another exchange.group"
        ),
    }
}

/// The identities of the cluster. A claim that isn't believed is none: what it is to isn't taken here.
fn known(cluster: &Cluster) -> impl Iterator<Item = Known> {
    cluster.identities().map(|identity| Known {
        address: identity.address.addr(),
        home: identity.home,
        holder: identity.holder,
    })
}

/// What to say of peers' addresses that are on interfaces of this host.
fn own_addresses(own: &BTreeMap<IpAddr, String>) -> Option<String> {
    let texts: Vec<_> = own
        .iter()
        .map(|(address, interface)| {
            format!("{address} of a peer is this host's own, on {interface}")
        })
        .collect();
    (!texts.is_empty()).then(|| {
        format!(
            "{}: what this host sends there stays here. Two servers must not have one address",
            texts.join("; ")
        )
    })
}

/// Identities that a peer reports and this server has as well.
fn held_by_both(report: &Report, own: &[IpNet]) -> Vec<String> {
    // What its caretaker has, it gives back.
    let reported = report
        .identities
        .iter()
        .filter(|identity| identity.home == report.server)
        .map(|identity| identity.address.addr());
    let held = |address: &IpAddr| own.iter().any(|own| own.addr() == *address);
    reported
        .filter(held)
        .map(|address| address.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_understood_is_named_with_what_to_do() {
        let from = IpAddr::from([10, 0, 0, 7]);
        let version = unheard(from, OpenError::Version(9));
        let expected = "the server at 10.0.0.7 isn't heard: it is of another version of balancer, which speaks version 9 of the exchange;";
        assert!(version.starts_with(expected), "{version}");
        assert!(
            version.ends_with(". Install one version on all servers"),
            "{version}"
        );
        assert_eq!(
            unheard(from, OpenError::UnknownKey),
            "the server at 10.0.0.7 isn't heard: its reports are sealed with an unknown key. A server of this cluster needs the \
             same key file; one of another cluster needs another exchange.group"
        );
    }
}
