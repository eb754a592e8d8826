//! Bringing the daemon up: programs, maps, host, interfaces.

use std::collections::BTreeSet;

use anyhow::Result;
use tokio::sync::mpsc;

use super::drain::Drain;
use super::guests::GuestCounts;
use super::history::History;
use super::links::{Links, Sighting};
use super::prepare::Prepared;
use super::probes::{Pace, Probed};
use super::recovery::{Collected, Recovery};
use super::requests::Sent;
use super::running::Running;
use super::services::Services;
use super::takeover;
use super::warnings::Warnings;
use crate::datapath::host::Change;
use crate::datapath::interface::XdpState;
use crate::datapath::peers::PeerTable;
use crate::datapath::{self, Datapath, own};
use crate::exchange::clock;

impl Running {
    /// Loads, takes over what a predecessor left, and attaches. After an error some of it is done.
    pub(super) async fn start(
        prepared: &mut Prepared,
        probed: mpsc::Sender<Probed>,
        sighted: mpsc::Sender<Sighting>,
        collected: mpsc::Sender<Collected>,
    ) -> Result<Self> {
        prepared.make_pin_dir()?;
        let pin_dir = prepared.options.pin_dir.clone();
        for pin in datapath::pins(&pin_dir, &prepared.interfaces) {
            prepared.host.record(Change::Pinned(pin))?;
        }
        let mut datapath = Datapath::load(&pin_dir, prepared.options.config.tables)?;
        let now = clock::monotonic();
        let config = &prepared.options.config;
        let drain = Drain::resume(&pin_dir, now)?;
        prepared.http.set_finishing(drain.is_active());
        let services = Services::start(&mut datapath.maps, config, drain.is_active(), now)?;
        let held = prepared.held();
        let mut table = PeerTable::adopt(
            &mut datapath.maps,
            held,
            prepared.interfaces.clone(),
            config.services.clone(),
        )?;
        table.set_assumed(&mut datapath.maps, prepared.assumed.clone())?;
        let settings = own::settings(&datapath.maps, table.count(), &prepared.interfaces)?;
        let mut running = Self {
            datapath,
            interfaces: Vec::new(),
            table,
            services,
            drain,
            guests: GuestCounts::default(),
            sent: Sent::default(),
            started: now,
            warnings: Warnings::default(),
            settings,
            probed,
            pace: Pace::default(),
            links: Links::watch(&prepared.interfaces, &sighted)?,
            history: History::default(),
            recovery: Recovery::new(collected),
            unusable: BTreeSet::new(),
            foreign_pending: false,
            adopted_judged: now,
            doubted: now,
            reviewed: now,
        };
        running.attach(prepared).await?;
        Ok(running)
    }

    async fn attach(&mut self, prepared: &mut Prepared) -> Result<()> {
        let names: Vec<_> = prepared
            .interfaces
            .iter()
            .map(|interface| interface.name.clone())
            .collect();
        self.datapath.count_connections()?;
        // From here on the program counts this namespace's connections: what is open beside its count is older.
        self.write_settings()?;
        self.services.review_sockets(&mut self.datapath.maps)?;
        self.report(prepared)?;
        // Flows on the identities may be with peers, which aren't known yet.
        let held: Vec<_> = takeover::held(prepared).into_iter().collect();
        self.recover(held.clone(), None, true)?;
        for interface in &prepared.interfaces {
            let state = self.datapath.attach(interface, prepared.options.mode)?;
            log::info!("attached to {} in {} mode", interface.name, state.name());
            // In native mode XDP_TX needs a program at the other end of a veth pair; a redirect doesn't.
            if interface.veth && state == XdpState::Native {
                self.settings.redirect = 1;
            }
            self.interfaces.push((interface.clone(), state));
        }
        // A card that was reset for its program may have been away for longer than the grace.
        self.grant_grace(&held)?;
        // Not before: without the program the kernel would answer for them, and reset flows that it doesn't know.
        if !prepared.options.config.server.identities.is_empty() {
            let index = prepared.interfaces[0].index;
            prepared
                .host
                .add_identities(index, &prepared.identities)
                .await?;
        }
        // What is set for IPv6 depends on the interface's addresses.
        prepared.host.accept_steered(&names).await?;
        self.find_unusable(prepared).await?;
        self.warn_of_links(prepared);
        self.announce_all(prepared);
        self.write_settings()
    }
}
