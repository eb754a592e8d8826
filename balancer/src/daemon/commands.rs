//! What the daemon is told to do while it runs.

use anyhow::{Result, ensure};
use tokio::sync::oneshot;

use super::prepare::{Prepared, load_keys};
use super::report;
use super::running::Running;
use crate::control::{Answer, Question, Request};
use crate::health::Monitor;

impl Running {
    /// Answers a command. To who detached it the answer is due when everything is undone.
    pub(super) fn on_question(
        &mut self,
        prepared: &mut Prepared,
        question: Question,
    ) -> Option<oneshot::Sender<Answer>> {
        let result = match question.request {
            Request::Status => {
                report::status(self, prepared).map(|status| Answer::Status(Box::new(status)))
            }
            Request::Drain(on) => self.set_drain(prepared, on).map(|()| Answer::Done),
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
    pub(super) fn on_hang_up(&mut self, prepared: &mut Prepared, monitor: &mut Monitor) {
        match self.reload(prepared, monitor) {
            Ok(()) => log::info!("SIGHUP: the configuration is in effect"),
            Err(error) => log::error!("SIGHUP: nothing has changed: {error:#}"),
        }
    }

    /// Puts the configuration into effect as it reads now, if it differs only in what can change while running.
    fn reload(&mut self, prepared: &mut Prepared, monitor: &mut Monitor) -> Result<()> {
        let new = (prepared.options.read)()?;
        prepared.options.config.may_become(&new)?;
        let keyring = load_keys(&new.exchange.keys)?;
        self.services.reconfigure(&new, monitor);
        prepared.exchange.set_keyring(keyring);
        prepared.exchange.set_timing(new.exchange.timing());
        self.settings.timeout_ns = new.exchange.timeout().as_nanos() as u64;
        prepared.options.config = new;
        self.write_settings()
    }
}
