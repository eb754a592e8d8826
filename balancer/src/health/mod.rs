//! Diagnostics of the local services: a check for each, and what they add up to.
//!
//! `probe` asks a service once, `verdict` makes of many answers whether it is healthy, and the [`Monitor`] here asks
//! again and again. A service without a check counts as healthy; it never appears here.

mod probe;
mod verdict;

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};

use self::probe::Probe;
use self::verdict::Verdict;
use crate::config::{Check, Service};

/// A service that became healthy or ceased to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Index of the service among those that the monitor was started with.
    pub service: usize,
    /// What it is now.
    pub healthy: bool,
    /// What the check that decided found.
    pub reason: String,
}

/// Checks services, each in a task of its own. Dropping it ends the checks.
#[derive(Debug)]
pub struct Monitor {
    sender: mpsc::UnboundedSender<(u64, Change)>,
    changes: mpsc::UnboundedReceiver<(u64, Change)>,
    /// By service: the check that is running, and its number.
    running: Vec<(u64, Option<AbortHandle>)>,
    /// How many have been started.
    started: u64,
    tasks: JoinSet<()>,
}

impl Monitor {
    /// Starts the checks of `services` on the current tokio runtime. All services count as healthy until a [`Change`]
    /// says otherwise.
    pub fn start(services: &[Service]) -> Self {
        // A change takes a whole series of checks: an unread one can't be followed by many.
        let (sender, changes) = mpsc::unbounded_channel();
        let mut monitor = Self {
            sender,
            changes,
            running: vec![(0, None); services.len()],
            started: 0,
            tasks: JoinSet::new(),
        };
        for (index, service) in services.iter().enumerate() {
            monitor.replace(index, service.check.clone());
        }
        monitor
    }

    /// Ends the check of the service with this index, and starts another one. The service counts as healthy again.
    pub fn replace(&mut self, service: usize, check: Option<Check>) {
        self.started += 1;
        let (number, sender) = (self.started, self.sender.clone());
        let new = check.map(|check| {
            self.tasks.spawn(watch(service, check, move |change| {
                sender.send((number, change)).is_ok()
            }))
        });
        if let (_, Some(old)) = std::mem::replace(&mut self.running[service], (number, new)) {
            old.abort();
        }
    }

    /// The next change; waits for as long as there is none. Cancelling it loses nothing.
    pub async fn changed(&mut self) -> Change {
        loop {
            match self.changes.recv().await {
                // What a check said that was replaced since says nothing of the one in its place.
                Some((number, change)) if number == self.running[change.service].0 => {
                    return change;
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Carries out one check for as long as `tell` returns true, never twice at a time: one that takes longer than `check.every`
/// puts off the next.
async fn watch(service: usize, check: Check, tell: impl Fn(Change) -> bool) {
    let mut verdict = Verdict::new(check.rise, check.fall);
    let mut probe = Probe::new(check.kind);
    let mut ticks = interval(check.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sleep(jitter(check.every)).await;
        let answer = probe.ask(check.timeout).await;
        if let Some(healthy) = verdict.record(answer.is_ok()) {
            let reason = answer.unwrap_or_else(|error| error.to_string());
            let change = Change {
                service,
                healthy,
                reason,
            };
            if !tell(change) {
                return;
            }
        }
    }
}

/// Up to a tenth of the time between checks, so that those of many services and servers don't fall together.
fn jitter(every: Duration) -> Duration {
    every.mul_f64(fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests;
