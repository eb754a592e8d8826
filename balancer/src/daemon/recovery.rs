//! The flows on an identity that this server has got: what it asks its peers for, and what it tells them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use balancer_common::types::DOUBT_NS;
use balancer_common::wire::TCP;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::collector::{self, Collector, Flows, serves};
use super::prepare::Prepared;
use super::running::Running;
use super::takeover::server_name;
use crate::cluster::{FlowAt, GRACE, ServerId, Status, Timestamp};
use crate::datapath::connections::Connection;
use crate::datapath::{own, recovered};
use crate::exchange::clock;

/// The program's clock is late by less than that (`CLOCK_MONOTONIC_COARSE` where `HZ` is 100).
const COARSE: Duration = Duration::from_millis(10);

/// What is under way.
pub struct Recovery {
    /// Since when this server has what others had before.
    got: BTreeMap<IpAddr, Timestamp>,
    /// When its network came back.
    back: Timestamp,
    /// Identities whose flows are being looked for.
    sought: BTreeMap<IpAddr, Sought>,
    /// What is to be asked when this server's own connections have been read.
    questions: Vec<Question>,
    /// They are being read.
    reading: bool,
    collected: mpsc::Sender<Collected>,
}

struct Sought {
    /// When this server got the identity; 0: it has had it all along.
    got: Timestamp,
    since: Timestamp,
    /// Times that its peers are still to be asked, when its own connections are known.
    begun: u32,
    /// This server's own connections on the identity: client's end, own end.
    own: HashSet<(SocketAddr, SocketAddr)>,
    /// They could not be read.
    own_unknown: bool,
    /// Flows that were entered.
    entered: u64,
}

impl Sought {
    /// `acquired`: an identity was, just now.
    fn tenure(&self, acquired: bool) -> recovered::Tenure {
        recovered::Tenure {
            got: since(self.got),
            asked: self.since,
            acquired,
        }
    }
}

/// An identity, and whom to ask for the flows on it; `None`: all.
type Question = (IpAddr, Option<ServerId>);

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
        flows: Flows,
    },
}

impl Recovery {
    /// What was collected is sent to `collected`.
    pub fn new(collected: mpsc::Sender<Collected>) -> Self {
        Self {
            got: BTreeMap::new(),
            back: Timestamp(0),
            sought: BTreeMap::new(),
            questions: Vec::new(),
            reading: false,
            collected,
        }
    }

    /// This server has this identity from now on, which another one had: it took it over, or was away itself.
    pub(super) fn note_got(&mut self, identity: IpAddr, now: Timestamp) {
        self.got.insert(identity, now);
        if let Some(sought) = self.sought.get_mut(&identity) {
            sought.got = now;
        }
    }

    /// This server hasn't this identity any more: what it waits for is none of its affairs.
    pub(super) fn forget(&mut self, identity: IpAddr) {
        self.got.remove(&identity);
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
        if grace {
            self.grant_grace(&identities)?;
        }
        for identity in identities {
            let sought = self.recovery.sought.entry(identity);
            let sought = sought.or_insert_with(|| Sought {
                got: self
                    .recovery
                    .got
                    .get(&identity)
                    .copied()
                    .unwrap_or_default(),
                since: now,
                begun: 0,
                own: HashSet::new(),
                own_unknown: false,
                entered: 0,
            });
            sought.begun += 1;
            self.recovery.questions.push((identity, of));
        }
        self.read_own();
        Ok(())
    }

    /// From now on packets of unknown flows on `identities` are dropped, for [`GRACE`] at the most.
    pub(super) fn grant_grace(&mut self, identities: &[IpAddr]) -> Result<()> {
        let until = clock::monotonic() + GRACE;
        for identity in identities {
            own::set_grace(&mut self.datapath.maps, *identity, until)?;
        }
        self.settings.grace_until_ns = until.0;
        self.write_settings()
    }

    /// This server's network is back, and others had what this one holds: what they tell is news.
    pub(super) fn note_return(&mut self, now: Timestamp) -> Result<()> {
        self.recovery.back = now;
        self.doubt_flows_before(now)
    }

    /// What is known of flows without a packet since then isn't believed until their servers have told of them: another one had the
    /// identities.
    pub(super) fn doubt_flows_before(&mut self, got: Timestamp) -> Result<()> {
        self.settings.got_ns = since(got).0;
        self.write_settings()
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
            let connections = collector::connections(&Vec::from_iter(identities));
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
                let now = clock::monotonic();
                let acquired = is_doubtful(Timestamp(self.settings.got_ns), now);
                // It maps all of the table into memory.
                let ledger = acquired
                    .then(|| recovered::Ledger::open(&self.datapath.maps))
                    .transpose();
                for connection in connections.iter().flatten() {
                    if let Some(sought) = self.recovery.sought.get_mut(&connection.local.ip()) {
                        sought.own.insert((connection.client, connection.local));
                        if let Ok(Some(ledger)) = &ledger {
                            let flow = collector::flow(prepared.id, connection);
                            ledger.keep_own(&flow, sought.tenure(acquired), now);
                        }
                    }
                }
                for (of, identities) in by_peer {
                    for identity in &identities {
                        if let Some(sought) = self.recovery.sought.get_mut(identity) {
                            sought.own_unknown |= connections.is_err();
                        }
                    }
                    prepared.exchange.recover(&identities, of);
                }
                connections.map(drop).and(ledger.map(drop))
            }
            Collected::Wanted { by, session, flows } => {
                let Flows { flows, failed } = flows;
                prepared
                    .exchange
                    .tell_flows(by, session, &flows, failed.is_none());
                failed.map_or(Ok(()), Err)
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
        // What was sent to the one who asks it knows itself, and what was sent to the dead is lost: to find it isn't worth a look at
        // the whole table, for which clients would wait.
        let others = prepared.exchange.cluster().peers();
        let others = others.filter(|peer| peer.report.server != by && peer.status != Status::Dead);
        let slots = others.filter_map(|peer| {
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
            identities,
        };
        let collected = self.recovery.collected.clone();
        spawn_blocking(move || {
            let flows = collector.collect();
            // The daemon has ended meanwhile if nobody receives this.
            let _ = collected.blocking_send(Collected::Wanted { by, session, flows });
        });
    }

    /// Enters the flows that peers have on identities of this server's.
    pub(super) fn on_flows(&mut self, me: ServerId, flows: &[FlowAt]) -> Result<()> {
        let now = clock::monotonic();
        let ledger = recovered::Ledger::open(&self.datapath.maps)?;
        let acquired = is_doubtful(Timestamp(self.settings.got_ns), now);
        for flow in flows {
            let Some(sought) = self.recovery.sought.get_mut(&flow.identity.ip()) else {
                continue;
            };
            // What has ended while this server was away its own sockets don't know of.
            let outdated = flow.sure && is_doubtful(self.recovery.back, now);
            let own = flow.protocol == TCP
                && sought.own.contains(&(flow.client, flow.identity))
                && !outdated;
            let maybe_own = sought.own_unknown && !flow.sure;
            if own || maybe_own || flow.owner == me {
                continue;
            }
            let services = self.services.iter().map(|life| &life.config);
            let service = (0..)
                .zip(services)
                .find(|(_, service)| serves(service, flow));
            if let (Some((service, _)), Some(peer)) = (service, self.table.slot(flow.owner)) {
                let entered = ledger.enter(flow, peer, service, sought.tenure(acquired), now);
                sought.entered += u64::from(entered);
            }
        }
        Ok(())
    }

    /// All flows on `identity` that can be known are, but for those of some peers.
    pub(super) fn on_recovered(
        &mut self,
        prepared: &Prepared,
        identity: IpAddr,
        lacking: &[ServerId],
    ) -> Result<()> {
        // Else this is about what was asked before.
        let settled = |sought: &Sought| sought.begun == 0;
        if !self.recovery.sought.get(&identity).is_some_and(settled) {
            return Ok(());
        }
        let Some(sought) = self.recovery.sought.remove(&identity) else {
            return Ok(());
        };
        own::set_grace(&mut self.datapath.maps, identity, Timestamp(0))?;
        let now = clock::monotonic();
        if sought.entered > 0 {
            let text = format!(
                "{identity}: peers go on with {} of its flows, known after {} ms",
                sought.entered,
                now.since(sought.since).as_millis()
            );
            self.history.add(now, text);
        }
        if !lacking.is_empty() {
            let names: Vec<_> = (lacking.iter().map(|id| server_name(prepared, *id))).collect();
            let text = format!(
                "{identity}: {} could not tell of all flows on it that they have: some may break",
                names.join(", ")
            );
            self.history.add(now, text);
        }
        Ok(())
    }
}

/// The earliest time that the program may give a packet which came after `time`.
fn since(time: Timestamp) -> Timestamp {
    Timestamp(time.0.saturating_sub(COARSE.as_nanos() as u64))
}

/// Whether what this server knew before it got something is still in doubt, as the program reckons it.
fn is_doubtful(got: Timestamp, now: Timestamp) -> bool {
    now.since(got).as_nanos() < DOUBT_NS.into()
}
