//! The daemon's life: events of the exchange, of health checks, of commands and of time go into the maps.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use balancer_common::types::Settings;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::drain::Drain;
use super::guests::GuestCounts;
use super::history::History;
use super::links::{Links, Sighting};
use super::prepare::Prepared;
use super::probes::{Pace, Probed, Subject};
use super::recovery::{Collected, Recovery};
use super::requests::Sent;
use super::services::Services;
use super::warnings::Warnings;
use crate::agent;
use crate::cluster::{Link, OwnState, Timestamp};
use crate::control::Answer;
use crate::datapath::Datapath;
use crate::datapath::interface::{Interface, XdpState};
use crate::datapath::link_watch::LinkWatch;
use crate::datapath::peers::PeerTable;
use crate::exchange::clock;
use crate::health::Monitor;
use crate::load::Probe;

/// How often own load is sampled: the program is to go by what has changed within 100 ms, the time that a sample takes included.
pub(super) const TICK: Duration = Duration::from_millis(90);

/// How long a new server listens before its first report. Peers answer its query within a tenth of a period.
const HEARING: Duration = Duration::from_millis(200);

/// How long HTTP requests in flight may take when the daemon ends.
const GRACE: Duration = Duration::from_secs(5);

/// How often what failed is tried again, and what settles with time is looked at.
const REVIEW: Duration = Duration::from_secs(1);

/// A daemon that is attached.
pub struct Running {
    pub(super) datapath: Datapath,
    pub(super) interfaces: Vec<(Interface, XdpState)>,
    pub(super) table: PeerTable,
    pub(super) services: Services,
    pub(super) drain: Drain,
    pub(super) guests: GuestCounts,
    pub(super) sent: Sent,
    pub(super) started: Timestamp,
    pub(super) warnings: Warnings,
    pub(super) settings: Settings,
    /// Where probes send their results.
    pub(super) probed: mpsc::Sender<Probed>,
    pub(super) pace: Pace,
    /// What is being announced and watched over.
    pub(super) links: Links,
    pub(super) history: History,
    pub(super) recovery: Recovery,
    /// Identities whose home this is, and which this host can't use yet: another one was found to have them.
    pub(super) unusable: BTreeSet<IpAddr>,
    /// Peers' addresses are not all as they should be on this host.
    pub(super) foreign_pending: bool,
    /// When peers that only a predecessor has heard of were last probed.
    pub(super) adopted_judged: Timestamp,
    /// When it was last asked whether others have this server's identities.
    pub(super) doubted: Timestamp,
    pub(super) reviewed: Timestamp,
}

/// What the daemon waits for, beside the exchange, commands and time.
pub(super) struct Inputs {
    pub(super) monitor: Monitor,
    pub(super) probe: Probe,
    probed: mpsc::Receiver<Probed>,
    sightings: mpsc::Receiver<Sighting>,
    links: LinkWatch,
    collected: mpsc::Receiver<Collected>,
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Running {
    /// Attaches, and runs until a signal or a command ends it. Returns whom to tell when everything is undone.
    ///
    /// # Errors
    ///
    /// It could not start: some of it is done, and the journal knows what.
    pub async fn run(prepared: &mut Prepared) -> Result<Option<oneshot::Sender<Answer>>> {
        let (answers, probed) = mpsc::channel(64);
        let (sighted, sightings) = mpsc::channel(64);
        let (recovery, collected) = mpsc::channel(64);
        let mut inputs = Inputs {
            monitor: Monitor::start(&prepared.options.config.services),
            probe: Probe::start(prepared.options.config.load.probe.as_ref()),
            probed,
            sightings,
            links: LinkWatch::open()?,
            collected,
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let mut running = Self::start(prepared, answers, sighted, recovery).await?;
        if let Some(key) = prepared.new_key.take() {
            key.keep();
        }
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let waiting = running.live(prepared, &mut inputs).await;
        log::info!("ending");
        prepared.http.end_moves();
        if waiting.is_some() || !prepared.options.persist {
            // Nothing more is announced: requests in flight may take longer than what was begun.
            running.links.set_held(BTreeSet::new());
            // Before the others hear that they are free.
            if let Err(error) = prepared.host.release_all().await {
                log::error!("not all identities can be given to other servers: {error:#}");
            }
            for address in prepared.host.added() {
                prepared.exchange.keep(address);
            }
            prepared.exchange.goodbye().await;
        }
        prepared.http.end(GRACE).await;
        Ok(waiting)
    }

    async fn live(
        &mut self,
        prepared: &mut Prepared,
        inputs: &mut Inputs,
    ) -> Option<oneshot::Sender<Answer>> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (topic, result) = tokio::select! {
                event = prepared.exchange.next() => ("peers", self.on_event(prepared, event).await),
                _ = tick.tick() => ("own load", self.on_tick(prepared).await),
                change = inputs.monitor.changed() => {
                    self.services.set_health(change);
                    ("own load", self.report(prepared))
                }
                measured = inputs.probe.measured() => {
                    self.on_measured(measured);
                    ("own load", self.report(prepared))
                }
                Some(probed) = inputs.probed.recv() => {
                    ("peers", self.on_probed(prepared, probed).await)
                }
                Some(sighting) = inputs.sightings.recv() => {
                    self.on_sighting(prepared, sighting);
                    continue;
                }
                question = prepared.http.next_move() => {
                    ("connections that move", self.on_move(prepared, question).await)
                }
                () = inputs.links.changed() => ("this host's interfaces", self.on_links(prepared).await),
                Some(collected) = inputs.collected.recv() => {
                    ("recovery of flows", self.on_collected(prepared, collected))
                }
                question = prepared.control.next() => match self.on_question(prepared, inputs, question) {
                    None => continue,
                    Some(waiting) => return Some(waiting),
                },
                _ = inputs.hang_up.recv() => {
                    self.on_hang_up(prepared, inputs);
                    continue;
                }
                _ = inputs.terminate.recv() => return None,
                _ = inputs.interrupt.recv() => return None,
            };
            // What is in the maps is better than no balancer: it goes on.
            self.warnings.note(topic, result);
        }
    }

    async fn on_tick(&mut self, prepared: &mut Prepared) -> Result<()> {
        self.guests.finish().await?;
        self.report(prepared)?;
        self.review_drain()?;
        self.probe_unusable(prepared);
        let now = clock::monotonic();
        if now.since(self.reviewed) < REVIEW {
            return Ok(());
        }
        self.reviewed = now;
        self.warn_of_stranger(prepared);
        self.services.review_sockets(&mut self.datapath.maps)?;
        let services = self.services.iter().map(|life| &life.config);
        self.guests.begin(prepared.exchange.cluster(), services);
        self.find_routes(prepared).await?;
        self.find_unusable(prepared).await?;
        self.doubt(prepared, now);
        // What failed is tried again, and an address that this host has got since is let go.
        self.release_left(prepared).await?;
        self.set_foreign(prepared).await?;
        // Peers that a predecessor steered flows to, and that nobody has heard of since: do their hosts live?
        let patience = prepared.options.config.exchange.timeout() * 2;
        if now.since(self.adopted_judged) > patience {
            self.adopted_judged = now;
            for (id, identity) in self.table.unheard() {
                self.spawn_probe(prepared, Subject::Host(id), identity);
            }
        }
        Ok(())
    }

    /// Takes note of what the user's measure of load said.
    fn on_measured(&mut self, measured: Result<u32, String>) {
        let failure = measured.map(|load| self.services.set_probed(load)).err();
        let warning = failure
            .map(|failure| format!("the probe of [load]: {failure}; what it said last stands"));
        self.warnings.set("load probe", warning);
    }

    /// Samples own load into the maps, and tells the exchange how this server is.
    pub(super) fn report(&mut self, prepared: &mut Prepared) -> Result<()> {
        self.review_routing(prepared);
        let services = self.services.sample(
            &mut self.datapath.maps,
            self.drain.is_active(),
            clock::monotonic(),
            prepared.exchange.cluster().timing().period,
        )?;
        self.tell_agents(prepared)?;
        let blind = self.services.blind();
        let warning =
            blind.map(|reason| format!("accept queues don't count in the load: {reason}"));
        self.warnings.set("accept queues", warning);
        let own = OwnState {
            links: prepared
                .interfaces
                .iter()
                .map(|interface| Link {
                    mac: interface.mac,
                    addresses: interface.addresses.clone(),
                })
                .collect(),
            services,
            // It takes no flows for addresses that it could not get.
            draining: self.foreign_pending || self.drain.is_active(),
            caretaker: self.may_take_over(prepared),
            guests: self.guests.last(),
        };
        // Before it speaks, a new server hears who is there: from its first report on it must have their addresses.
        let told = if clock::monotonic().since(self.started) < HEARING {
            prepared.exchange.check_own(&own)
        } else {
            prepared.exchange.set_own(own)
        };
        told.context("this configuration cannot be reported to the peers")?;
        for (service, view) in self.views(prepared)? {
            prepared.http.set_view(&service, view);
        }
        Ok(())
    }

    /// Lets proxies know how the services are.
    fn tell_agents(&self, prepared: &Prepared) -> Result<()> {
        for (index, service) in self.services.iter().enumerate() {
            if service.config.agent.is_none() {
                continue;
            }
            let state = agent::State {
                load: self.load(index as u32)?,
                healthy: service.healthy,
                draining: self.drain.is_active(),
            };
            prepared.agents.set(index, state);
        }
        Ok(())
    }

    /// A service's load at this moment, as the program reckons it.
    pub(super) fn load(&self, service: u32) -> Result<u32> {
        let maps = &self.datapath.maps;
        let sheet = maps.services.get(&service, 0)?;
        Ok(maps.connections.get(&service, 0)?.load(&sheet))
    }

    pub(super) fn write_settings(&mut self) -> Result<()> {
        self.settings.peers = self.table.count();
        self.settings.assumed = self.table.assumed();
        self.datapath
            .maps
            .settings
            .set(0, self.settings, 0)
            .context("cannot write the map SETTINGS")
    }
}
