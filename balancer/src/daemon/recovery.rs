//! The flows on an identity that this server has got: what it asks its peers for, and what it tells them.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use balancer_common::wire::{TCP, UDP};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::prepare::Prepared;
use super::running::Running;
use crate::cluster::{FlowAt, GRACE, MAX_FLOWS, ServerId, Status, Timestamp};
use crate::config::{Protocol, Service};
use crate::datapath::connections::{self, Connection};
use crate::datapath::maps::Maps;
use crate::datapath::{own, recovered};
use crate::exchange::clock;

/// What is under way.
pub struct Recovery {
    /// Identities whose flows are being looked for.
    sought: BTreeMap<IpAddr, Sought>,
    /// What is to be asked when this server's own connections have been read.
    questions: Vec<Question>,
    /// They are being read.
    reading: bool,
    /// Who waits for this server's flows, oldest first.
    askers: VecDeque<Asker>,
    /// The first of them is being seen to.
    collecting: bool,
    collected: mpsc::Sender<Collected>,
}

struct Sought {
    since: Timestamp,
    /// Times that its peers are still to be asked, when its own connections are known.
    begun: u32,
    /// This server's own connections on the identity: client's end, own end.
    own: HashSet<(SocketAddr, SocketAddr)>,
    /// Flows that were entered.
    entered: u64,
}

/// An identity, and whom to ask for the flows on it; `None`: all.
type Question = (IpAddr, Option<ServerId>);

struct Asker {
    id: ServerId,
    session: u64,
    identities: Vec<IpAddr>,
}

/// What was read from the kernel, beside what else there was to do.
pub enum Collected {
    /// This server's own connections on identities that it has got; then peers are asked.
    Own {
        /// What is to be asked now.
        questions: Vec<Question>,
        /// The connections.
        connections: Result<Vec<Connection>>,
    },
    /// The flows that a peer has asked for.
    Wanted {
        /// Who.
        by: ServerId,
        /// What the answer is to name.
        session: u64,
        /// The flows.
        flows: Result<Vec<FlowAt>>,
    },
}

impl Recovery {
    /// What was collected is sent to `collected`.
    pub fn new(collected: mpsc::Sender<Collected>) -> Self {
        Self {
            sought: BTreeMap::new(),
            questions: Vec::new(),
            reading: false,
            askers: VecDeque::new(),
            collecting: false,
            collected,
        }
    }

    /// This server hasn't this identity any more: what it waits for is none of its affairs.
    pub(super) fn forget(&mut self, identity: IpAddr) {
        self.sought.remove(&identity);
        self.questions.retain(|(of, _)| *of != identity);
    }
}

impl Running {
    /// Looks for the flows on `identities`, which this server has got: its own first, then those of one peer or of all.
    /// With a `grace`, packets of unknown flows are dropped until then, for [`GRACE`] at the most.
    pub(super) fn recover(
        &mut self,
        identities: Vec<IpAddr>,
        of: Option<ServerId>,
        grace: bool,
    ) -> Result<()> {
        let now = clock::monotonic();
        let until = now + GRACE;
        for identity in identities {
            if grace {
                own::set_grace(&mut self.datapath.maps, identity, until)?;
            }
            let sought = self.recovery.sought.entry(identity);
            let sought = sought.or_insert_with(|| Sought {
                since: now,
                begun: 0,
                own: HashSet::new(),
                entered: 0,
            });
            sought.begun += 1;
            self.recovery.questions.push((identity, of));
        }
        if grace {
            self.settings.grace_until_ns = until.0;
            self.write_settings()?;
        }
        self.read_own();
        Ok(())
    }

    /// Reads this server's own connections, once for all questions that have come up.
    fn read_own(&mut self) {
        if self.recovery.reading || self.recovery.questions.is_empty() {
            return;
        }
        self.recovery.reading = true;
        let questions = std::mem::take(&mut self.recovery.questions);
        let collected = self.recovery.collected.clone();
        spawn_blocking(move || {
            let identities: BTreeSet<_> = questions.iter().map(|(identity, _)| *identity).collect();
            let connections = connections::on(&Vec::from_iter(identities));
            // The daemon has ended meanwhile if nobody receives this.
            let _ = collected.blocking_send(Collected::Own {
                questions,
                connections,
            });
        });
    }

    /// Takes in what was read from the kernel.
    pub(super) fn on_collected(
        &mut self,
        prepared: &mut Prepared,
        collected: Collected,
    ) -> Result<()> {
        match collected {
            Collected::Own {
                questions,
                connections,
            } => {
                self.recovery.reading = false;
                self.read_own();
                let mut by_peer: BTreeMap<_, Vec<_>> = BTreeMap::new();
                for (identity, of) in questions {
                    by_peer.entry(of).or_default().push(identity);
                    if let Some(sought) = self.recovery.sought.get_mut(&identity) {
                        sought.begun = sought.begun.saturating_sub(1);
                    }
                }
                for connection in connections? {
                    if let Some(sought) = self.recovery.sought.get_mut(&connection.local.ip()) {
                        sought.own.insert((connection.client, connection.local));
                    }
                }
                for (of, identities) in by_peer {
                    prepared.exchange.recover(&identities, of);
                }
                Ok(())
            }
            Collected::Wanted { by, session, flows } => {
                self.recovery.collecting = false;
                self.collect_next(prepared);
                prepared.exchange.tell_flows(by, session, &flows?);
                Ok(())
            }
        }
    }

    /// A peer asks for the flows that this server has on `identities`.
    pub(super) fn on_flows_wanted(
        &mut self,
        prepared: &Prepared,
        by: ServerId,
        session: u64,
        identities: Vec<IpAddr>,
    ) {
        // What it asked before it doesn't wait for any more.
        self.recovery.askers.retain(|asker| asker.id != by);
        self.recovery.askers.push_back(Asker {
            id: by,
            session,
            identities,
        });
        self.collect_next(prepared);
    }

    /// Enters the flows that peers have on identities of this server's.
    pub(super) fn on_flows(&mut self, me: ServerId, flows: &[FlowAt]) -> Result<()> {
        let now = clock::monotonic();
        let ledger = recovered::Ledger::open(&self.datapath.maps)?;
        for flow in flows {
            let Some(sought) = self.recovery.sought.get_mut(&flow.identity.ip()) else {
                continue;
            };
            let own = flow.protocol == TCP && sought.own.contains(&(flow.client, flow.identity));
            if own || flow.owner == me {
                continue;
            }
            let services = self.services.iter().map(|life| &life.config);
            let service = (0..)
                .zip(services)
                .find(|(_, service)| serves(service, flow));
            if let (Some((service, _)), Some(peer)) = (service, self.table.slot(flow.owner)) {
                sought.entered += u64::from(ledger.enter(flow, peer, service, now));
            }
        }
        Ok(())
    }

    /// All flows on `identity` that can be known are.
    pub(super) fn on_recovered(&mut self, identity: IpAddr) -> Result<()> {
        // Else this is about what was asked before.
        let settled = |sought: &Sought| sought.begun == 0;
        if !self.recovery.sought.get(&identity).is_some_and(settled) {
            return Ok(());
        }
        let Some(sought) = self.recovery.sought.remove(&identity) else {
            return Ok(());
        };
        own::set_grace(&mut self.datapath.maps, identity, Timestamp(0))?;
        if sought.entered > 0 {
            let now = clock::monotonic();
            let text = format!(
                "{identity}: peers go on with {} of its flows, known after {} ms",
                sought.entered,
                now.since(sought.since).as_millis()
            );
            self.history.add(now, text);
        }
        Ok(())
    }

    fn collect_next(&mut self, prepared: &Prepared) {
        if self.recovery.collecting {
            return;
        }
        let Some(asker) = self.recovery.askers.pop_front() else {
            return;
        };
        self.recovery.collecting = true;
        let peers = prepared.exchange.cluster().peers();
        let slots = peers.filter_map(|peer| {
            let id = peer.report.server;
            let slot = self.table.slot(id)?;
            Some((slot, (id, peer.status == Status::Online)))
        });
        let collector = Collector {
            me: prepared.id,
            pin_dir: prepared.options.pin_dir.clone(),
            services: self
                .services
                .iter()
                .map(|life| life.config.clone())
                .collect(),
            peers: slots.collect(),
            identities: asker.identities,
        };
        let collected = self.recovery.collected.clone();
        spawn_blocking(move || {
            // The daemon has ended meanwhile if nobody receives this.
            let _ = collected.blocking_send(Collected::Wanted {
                by: asker.id,
                session: asker.session,
                flows: collector.collect(),
            });
        });
    }
}

/// Reads this server's flows on some identities, for a peer.
struct Collector {
    me: ServerId,
    pin_dir: PathBuf,
    services: Vec<Service>,
    /// By slot: its id, and whether it answers for itself.
    peers: BTreeMap<u32, (ServerId, bool)>,
    identities: Vec<IpAddr>,
}

impl Collector {
    fn collect(&self) -> Result<Vec<FlowAt>> {
        let connections =
            connections::on(&self.identities).context("cannot tell a peer of its flows")?;
        let mut flows: Vec<_> = connections
            .iter()
            .map(|connection| FlowAt {
                protocol: TCP,
                client: connection.client,
                identity: connection.local,
                owner: self.me,
                sure: connection.established,
            })
            .collect();
        // Of TCP the sockets tell. Where they can't be asked, only the one who steered knows.
        let udp = |service: &Service| {
            service
                .ports
                .iter()
                .any(|range| range.protocol == Protocol::Udp)
        };
        if self.services.iter().any(udp) || self.peers.values().any(|(_, answers)| !answers) {
            self.add_steered(&self.pin_dir, &mut flows)?;
        }
        flows.retain(|flow| self.services.iter().any(|service| serves(service, flow)));
        flows.truncate(MAX_FLOWS);
        Ok(flows)
    }

    fn add_steered(&self, pin_dir: &Path, flows: &mut Vec<FlowAt>) -> Result<()> {
        let maps = Maps::open(pin_dir)?;
        recovered::each(&maps, &self.identities, clock::monotonic(), |entry| {
            let owner = match entry.peer {
                None => Some(self.me),
                Some(slot) => self
                    .peers
                    .get(&slot)
                    .filter(|(_, answers)| entry.protocol == UDP || !answers)
                    .map(|(id, _)| *id),
            };
            if let Some(owner) = owner {
                flows.push(FlowAt {
                    protocol: entry.protocol,
                    client: entry.client,
                    identity: entry.identity,
                    owner,
                    sure: owner == self.me,
                });
            }
        })
    }
}

fn serves(service: &Service, flow: &FlowAt) -> bool {
    let protocol = match flow.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return false,
    };
    service.has(protocol, flow.identity.port())
}
