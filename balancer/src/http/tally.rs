//! How many requests of a service took which way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::StatusCode;

use super::route::{Decision, Note, Route};

/// Names of the counters, as `balancer status` shows them.
const NAMES: [&str; 16] = [
    "here",
    "of_peers",
    "relayed",
    "redirected",
    "refused",
    "transaction_kept",
    "transaction_lost",
    "ticket_expired",
    "ticket_forged",
    "chosen_again",
    "unreachable",
    "broken_off",
    "too_slow",
    "incomplete",
    "handed_off",
    "handoff_failed",
];

/// The counters. They go on through a reload.
#[derive(Default)]
pub struct Tally([AtomicU64; NAMES.len()]);

impl Tally {
    /// Counts a request. `relayed`: a peer has routed it here.
    pub fn count(&self, decision: &Decision, relayed: bool) {
        let way = match decision.route {
            Route::Here if relayed => 1,
            Route::Here => 0,
            Route::Relay(_) | Route::Handoff(_) => 2,
            Route::Redirect(_) => 3,
            Route::Refuse(_) => 4,
        };
        let note = decision.note.map(|note| match note {
            Note::Kept => 5,
            Note::Lost => 6,
            Note::Expired => 7,
            Note::Forged => 8,
        });
        for counter in [Some(way), note].into_iter().flatten() {
            self.0[counter].fetch_add(1, Relaxed);
        }
    }

    /// Counts a further choice, as there was no connection to the server that was chosen before.
    pub fn count_again(&self) {
        self.0[9].fetch_add(1, Relaxed);
    }

    /// Counts a request that no web server answered, by the status that it was answered with in its place.
    pub fn count_failure(&self, status: StatusCode) {
        let kind = match status {
            StatusCode::SERVICE_UNAVAILABLE => 10,
            StatusCode::BAD_GATEWAY => 11,
            StatusCode::GATEWAY_TIMEOUT => 12,
            // The client's own doing.
            _ => 13,
        };
        self.0[kind].fetch_add(1, Relaxed);
    }

    /// Counts a connection that was to move to a peer. `moved`: so it did.
    pub fn count_handoff(&self, moved: bool) {
        let counter = if moved { 14 } else { 15 };
        self.0[counter].fetch_add(1, Relaxed);
    }

    /// What was counted, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES
            .into_iter()
            .zip(self.0.iter().map(|count| count.load(Relaxed)))
    }
}
