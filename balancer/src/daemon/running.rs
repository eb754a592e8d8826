//! The daemon's life: events of the exchange, of health checks, of commands and of time go into the maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use balancer_common::types::Settings;
use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::prepare::Prepared;
use super::report;
use super::services::Services;
use crate::cluster::{Event, Link, OwnState, Report, ServerId, Status, Timestamp};
use crate::control::{Answer, Question, Request};
use crate::datapath::interface::{Interface, XdpState};
use crate::datapath::peers::PeerTable;
use crate::datapath::{self, Datapath};
use crate::exchange::clock;
use crate::health::Monitor;

/// How often own load is sampled.
const TICK: Duration = Duration::from_millis(100);

/// How often what failed, or what may change without notice, is looked at again.
const REVIEW: Duration = Duration::from_secs(1);

/// A daemon that is attached.
pub struct Running {
    pub(super) datapath: Datapath,
    pub(super) interfaces: Vec<(Interface, XdpState)>,
    pub(super) table: PeerTable,
    pub(super) services: Services,
    pub(super) started: Timestamp,
    /// What an operator should know of, by what it is about.
    pub(super) warnings: BTreeMap<String, String>,
    pub(super) settings: Settings,
    /// Where probes send their results.
    pub(super) probed: mpsc::Sender<(ServerId, bool)>,
    /// Peers that a predecessor knew have had the time to report.
    pub(super) adopted_judged: bool,
    pub(super) reviewed: Timestamp,
}

/// What the daemon waits for, beside the exchange, commands and time.
struct Inputs {
    monitor: Monitor,
    probed: mpsc::Receiver<(ServerId, bool)>,
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
        let mut inputs = Inputs {
            monitor: Monitor::start(&prepared.options.config.services),
            probed,
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let mut running = Self::start(prepared, answers).await?;
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let waiting = running.live(prepared, &mut inputs).await;
        log::info!("ending");
        if !prepared.options.persist {
            prepared.exchange.goodbye().await;
        }
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
                Some((id, answered)) = inputs.probed.recv() => {
                    ("peers", self.on_probed(prepared, id, answered).await)
                }
                question = prepared.control.next() => match self.on_question(prepared, question) {
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
            if let Err(error) = result {
                self.warn(topic, &format!("{error:#}"));
            }
        }
    }

    fn on_hang_up(&mut self, prepared: &mut Prepared, inputs: &mut Inputs) {
        match self.reload(prepared) {
            Ok(checks_differ) => {
                if checks_differ {
                    inputs.monitor = Monitor::start(&prepared.options.config.services);
                }
                log::info!("SIGHUP: the configuration is in effect");
            }
            Err(error) => log::error!("SIGHUP: nothing has changed: {error:#}"),
        }
    }

    async fn on_event(&mut self, prepared: &mut Prepared, event: Event) -> Result<()> {
        let peer = |id| prepared.exchange.cluster().peer(id);
        let name = |id| peer(id).map_or_else(|| id_text(id), |peer| peer.report.name.clone());
        match event {
            Event::Joined(id) => {
                let from = peer(id)
                    .map(|peer| peer.from.ip().to_string())
                    .unwrap_or_default();
                log::info!("peer {} ({from}) is there", name(id));
            }
            Event::PeerUpdated(id) => {
                let Some(peer) = peer(id) else { return Ok(()) };
                let moved = self
                    .table
                    .update(&mut self.datapath.maps, &peer.report, peer.heard)?;
                if self.settings.peers != self.table.count() {
                    self.write_settings()?;
                }
                let (name, held) = (
                    peer.report.name.clone(),
                    held_by_both(&peer.report, &prepared.identities),
                );
                if moved {
                    self.set_foreign(prepared).await;
                    self.warn_of_shared_identities(&name, &held);
                }
            }
            Event::Changed { id, from, to } => {
                log::info!("peer {}: {} (was {})", name(id), to.name(), from.name());
                self.table.set_status(&mut self.datapath.maps, id, to)?;
                if to == Status::Silent {
                    let text =
                        "its host answers, but its balancer doesn't report: it gets no new flows";
                    self.warn(&name(id), text);
                } else {
                    self.warnings.remove(&name(id));
                }
            }
            Event::Probe(id) => self.probe(prepared, id),
            Event::NameConflict { id, name } => {
                let text = format!(
                    "server {} has the same name: give each a name of its own",
                    id_text(id)
                );
                self.warn(&format!("name {name}"), &text);
            }
            Event::Forgotten(id) => self.forget(prepared, id).await?,
        }
        Ok(())
    }

    async fn on_tick(&mut self, prepared: &mut Prepared) -> Result<()> {
        self.report(prepared)?;
        let now = clock::monotonic();
        if now.since(self.reviewed) < REVIEW {
            return Ok(());
        }
        self.reviewed = now;
        self.services.review_sockets(&mut self.datapath.maps)?;
        // What failed is tried again, and an address that this host has got since is let go.
        self.set_foreign(prepared).await;
        // Peers that a predecessor steered flows to, and that nobody has heard of since: do their hosts live?
        if !self.adopted_judged
            && now.since(self.started) > prepared.options.config.exchange.timeout() * 2
        {
            self.adopted_judged = true;
            for (id, identity) in self.table.unheard() {
                self.spawn_probe(id, identity);
            }
        }
        Ok(())
    }

    fn warn_of_shared_identities(&mut self, peer: &str, held: &[IpAddr]) {
        let topic = format!("identities of {peer}");
        if held.is_empty() {
            self.warnings.remove(&topic);
            return;
        }
        let held: Vec<_> = held.iter().map(ToString::to_string).collect();
        let text = format!(
            "{} is this server's, too: two servers must not have one address",
            held.join(", ")
        );
        self.warn(&topic, &text);
    }

    /// Answers a command. To who detached the last interface the answer is due when everything is undone.
    fn on_question(
        &mut self,
        prepared: &Prepared,
        question: Question,
    ) -> Option<oneshot::Sender<Answer>> {
        let result = match question.request {
            Request::Status => {
                report::status(self, prepared).map(|status| Answer::Status(Box::new(status)))
            }
            Request::Detach(names) => self.detach(prepared, &names).map(|()| Answer::Done),
        };
        if result.is_ok() && self.interfaces.is_empty() {
            return Some(question.answer);
        }
        let answer = result.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
        // Who doesn't wait for the answer doesn't want it.
        let _ = question.answer.send(answer);
        None
    }

    fn detach(&mut self, prepared: &Prepared, names: &[String]) -> Result<()> {
        for name in names {
            if !self
                .interfaces
                .iter()
                .any(|(interface, _)| interface.name == *name)
            {
                let attached: Vec<_> = self
                    .interfaces
                    .iter()
                    .map(|(interface, _)| interface.name.as_str())
                    .collect();
                anyhow::bail!(
                    "not attached to {name}; attached to: {}",
                    attached.join(", ")
                );
            }
        }
        for name in names {
            datapath::detach(&prepared.options.pin_dir, name)?;
            self.interfaces
                .retain(|(interface, _)| interface.name != *name);
            log::info!("detached from {name}");
        }
        Ok(())
    }

    pub(super) async fn forget(&mut self, prepared: &mut Prepared, id: ServerId) -> Result<()> {
        self.table.forget(&mut self.datapath.maps, id)?;
        self.write_settings()?;
        self.set_foreign(prepared).await;
        Ok(())
    }

    /// Puts the configuration into effect as it reads now, if it differs only in what can change while running. `true`: the
    /// checks of services do.
    fn reload(&mut self, prepared: &mut Prepared) -> Result<bool> {
        let new = (prepared.options.read)()?;
        prepared.options.config.may_become(&new)?;
        let checks_differ = self.services.reconfigure(&new);
        prepared.exchange.set_period(new.exchange.period);
        self.settings.timeout_ns = new.exchange.timeout().as_nanos() as u64;
        prepared.options.config = new;
        self.write_settings()?;
        Ok(checks_differ)
    }

    /// Samples own load into the maps, and tells the exchange how this server is.
    pub(super) fn report(&mut self, prepared: &mut Prepared) -> Result<()> {
        let services = self
            .services
            .sample(&mut self.datapath.maps, clock::monotonic())?;
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
            identities: prepared.identity_reports(),
            draining: false,
        };
        prepared
            .exchange
            .set_own(own)
            .context("this configuration cannot be reported to the peers")
    }

    async fn set_foreign(&mut self, prepared: &mut Prepared) {
        const TOPIC: &str = "addresses of peers";
        let result = prepared.host.set_foreign(&self.table.foreign()).await;
        match result {
            Ok(own) => {
                self.warnings.remove(TOPIC);
                self.warn_of_own_addresses(&own);
            }
            Err(error) => self.warn(
                TOPIC,
                &format!("this host cannot take flows for them: {error:#}"),
            ),
        }
    }

    fn warn_of_own_addresses(&mut self, own: &BTreeMap<IpAddr, String>) {
        const TOPIC: &str = "own addresses";
        if own.is_empty() {
            self.warnings.remove(TOPIC);
            return;
        }
        let own: Vec<_> = own
            .iter()
            .map(|(address, interface)| {
                format!("{address} of a peer is this host's own, on {interface}")
            })
            .collect();
        let text = format!(
            "{}: what this host itself sends there stays here. Two servers must not have one address",
            own.join("; ")
        );
        self.warn(TOPIC, &text);
    }

    pub(super) fn write_settings(&mut self) -> Result<()> {
        self.settings.peers = self.table.count();
        self.datapath
            .maps
            .settings
            .set(0, self.settings, 0)
            .context("cannot write the map SETTINGS")
    }

    /// Logs what an operator should know of, once, and keeps it for `status`.
    fn warn(&mut self, topic: &str, text: &str) {
        let text = format!("{topic}: {text}");
        if self.warnings.get(topic) != Some(&text) {
            log::warn!("{text}");
            self.warnings.insert(topic.to_owned(), text);
        }
    }
}

/// Identities that a peer reports and this server has as well.
fn held_by_both(report: &Report, own: &[IpNet]) -> Vec<IpAddr> {
    let reported = report
        .identities
        .iter()
        .map(|identity| identity.address.addr());
    reported
        .filter(|address| own.iter().any(|own| own.addr() == *address))
        .collect()
}

fn id_text(id: ServerId) -> String {
    id.to_string()
}
