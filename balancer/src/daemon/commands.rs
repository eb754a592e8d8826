//! What the daemon is told to do while it runs.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use tokio::sync::oneshot;

use super::prepare::{Prepared, load_keys};
use super::report;
use super::running::{Inputs, Running};
use crate::config::{Config, Setting, Source};
use crate::control::{Answer, Question, Request};
use crate::datapath::trace::TOLD_FOR;
use crate::exchange::Keyring;
use crate::exchange::clock;
use crate::http;

impl Running {
    /// Answers a command. To who detached it the answer is due when everything is undone.
    pub(super) fn on_question(
        &mut self,
        prepared: &mut Prepared,
        inputs: &mut Inputs,
        question: Question,
    ) -> Option<oneshot::Sender<Answer>> {
        let result = match question.request {
            Request::Status => {
                report::status(self, prepared).map(|status| Answer::Status(Box::new(status)))
            }
            Request::Drain(on) => self.set_drain(prepared, on).map(|()| Answer::Done),
            Request::Set(settings, save) => {
                self.set(prepared, inputs, &settings, save).map(Answer::Set)
            }
            Request::Explain {
                method,
                url,
                client,
            } => self
                .explain(prepared, &method, &url, client)
                .map(|explanation| Answer::Explained(Box::new(explanation))),
            Request::Trace => self.tell_of_decisions().map(|()| Answer::Done),
            Request::Detach(names) => match self.may_detach(&names) {
                Ok(()) => return Some(question.answer),
                Err(error) => Err(error),
            },
        };
        let answer = result.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
        // Who doesn't wait for the answer doesn't want it.
        let _ = question.answer.send(answer);
        None
    }

    /// The program tells of its decisions until a moment from now.
    fn tell_of_decisions(&mut self) -> Result<()> {
        self.settings.trace_until_ns = (clock::monotonic() + TOLD_FOR).0;
        self.write_settings()
    }

    /// The daemon leaves all its interfaces or none: what it changed on the host serves all of them.
    fn may_detach(&self, names: &[String]) -> Result<()> {
        let attached: Vec<_> = self
            .interfaces
            .iter()
            .map(|(interface, _)| interface.name.as_str())
            .collect();
        for name in names {
            ensure!(
                attached.contains(&name.as_str()),
                "not attached to {name}; attached to: {}",
                attached.join(", ")
            );
        }
        ensure!(
            attached
                .iter()
                .all(|attached| names.iter().any(|name| name == attached)),
            "balancer leaves all its interfaces at a time: `balancer detach {}`",
            attached.join(" ")
        );
        Ok(())
    }

    /// SIGHUP.
    pub(super) fn on_hang_up(&mut self, prepared: &mut Prepared, inputs: &mut Inputs) {
        match self.reload(prepared, inputs) {
            Ok(()) => log::info!("SIGHUP: the configuration is in effect"),
            Err(error) => log::error!("SIGHUP: nothing has changed: {error:#}"),
        }
    }

    fn reload(&mut self, prepared: &mut Prepared, inputs: &mut Inputs) -> Result<()> {
        let (source, config) = prepared.options.source.reopen()?;
        let plan = Plan::check(prepared, source, config)?;
        self.go_by(prepared, inputs, plan)
    }

    /// `balancer set`. Returns the file that it was saved to.
    fn set(
        &mut self,
        prepared: &mut Prepared,
        inputs: &mut Inputs,
        settings: &[Setting],
        save: bool,
    ) -> Result<Option<PathBuf>> {
        let (source, config) = prepared.options.source.set(settings)?;
        let plan = Plan::check(prepared, source, config)?;
        let file = if save {
            Some(plan.source.save(settings)?.to_owned())
        } else {
            None
        };
        self.go_by(prepared, inputs, plan)?;
        for setting in settings {
            log::info!("set {setting}{}", if save { ", and saved" } else { "" });
        }
        Ok(file)
    }
    /// Puts a configuration into effect: in the maps, and in what peers are told.
    fn go_by(&mut self, prepared: &mut Prepared, inputs: &mut Inputs, plan: Plan) -> Result<()> {
        let exchange = &plan.config.exchange;
        if plan.config.load.probe != prepared.options.config.load.probe {
            self.warnings.set("load probe", None);
        }
        self.services
            .reconfigure(&plan.config, &mut inputs.monitor, &mut inputs.probe);
        prepared.exchange.set_keyring(plan.keyring);
        prepared.exchange.set_timing(exchange.timing());
        prepared.exchange.set_require(plan.config.takeover);
        prepared.http.reload(plan.http);
        prepared.options.config = plan.config;
        prepared.options.source = plan.source;
        self.write_settings()?;
        self.enter_all(prepared)?;
        self.report(prepared)
    }
}

/// A configuration that can be put into effect as a whole.
struct Plan {
    source: Source,
    config: Config,
    keyring: Keyring,
    http: http::Plan,
}

impl Plan {
    /// Whether it differs from what is in effect only in what can change while running.
    fn check(prepared: &Prepared, source: Source, config: Config) -> Result<Self> {
        prepared.options.config.may_become(&config)?;
        let keyring = load_keys(&config.exchange.keys)?;
        let http = http::Plan::new(&config, &keyring)?;
        Ok(Self {
            source,
            config,
            keyring,
            http,
        })
    }
}
