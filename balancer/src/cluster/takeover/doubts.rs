//! How often what peers do makes this server look for flows on an identity that it has all along.
//!
//! A peer that claims an identity, yields and claims it again has got flows on it each time. But whoever does that without
//! end must neither silence the identity (packets of unknown flows are dropped while they are looked for) nor keep all
//! servers reading their socket tables. What this server itself took over or got back is no matter of this.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::{Event, GRACE, Outbox, ServerId, Timestamp, Timing};

/// The kinds are counted apart: that a peer can be asked says nothing against what it claims after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// This peer says that it has the identity.
    Claim(ServerId),
    /// A frame shows another host to use it. Anybody on the link can send such.
    Frame,
    /// This peer can be asked from now on.
    Met(ServerId),
    /// This peer may have had the identity until now, and have sent flows on it to anybody.
    Elsewhere(ServerId),
}

/// The graces of one cause take so much of [`WINDOW`] at the most.
const BUDGET: Duration = Duration::from_millis(1_500);

/// From the first question of a cause on.
const WINDOW: Duration = Duration::from_secs(5);

/// From one question to the next when the budget is spent.
const PAUSE: Duration = Duration::from_secs(1);

/// What was asked on account of peers.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    by: BTreeMap<(IpAddr, Cause), Doubt>,
}

#[derive(Debug)]
struct Doubt {
    /// When the window began.
    begun: Timestamp,
    /// The last question's time.
    asked: Timestamp,
    /// What the graces in this window take, at the most.
    spent: Duration,
    /// When the last one ends.
    until: Timestamp,
    /// It came up again, and is to be asked when it may be.
    again: bool,
}

impl Doubts {
    /// The flows on `identity` are to be looked for again, at once or when that may be.
    pub fn raise(
        &mut self,
        now: Timestamp,
        identity: IpAddr,
        cause: Cause,
        timing: Timing,
        out: &mut Outbox,
    ) {
        let doubt = self.by.entry((identity, cause)).or_insert(Doubt {
            begun: now,
            asked: Timestamp(0),
            spent: Duration::ZERO,
            until: Timestamp(0),
            again: false,
        });
        doubt.again = true;
        doubt.ask(now, identity, cause, timing, out);
    }

    /// Asks what is due, and forgets what was long ago and what isn't `held` any more.
    pub fn handle_timeout(
        &mut self,
        now: Timestamp,
        held: impl Fn(&IpAddr) -> bool,
        timing: Timing,
        out: &mut Outbox,
    ) {
        self.by.retain(|(identity, cause), doubt| {
            let stays = held(identity) && (doubt.again || now < doubt.begun + WINDOW);
            if stays && doubt.again {
                doubt.ask(now, *identity, *cause, timing, out);
            }
            stays
        });
    }

    pub fn next_timeout(&self, timing: Timing) -> Timestamp {
        let waiting = self.by.values().filter(|doubt| doubt.again);
        let due = waiting.map(|doubt| doubt.due(timing));
        due.min().unwrap_or(Timestamp::NEVER)
    }
}

impl Doubt {
    fn due(&self, timing: Timing) -> Timestamp {
        let gap = if self.spent + timing.gap() <= BUDGET {
            timing.gap()
        } else {
            PAUSE
        };
        self.asked + gap
    }

    fn ask(
        &mut self,
        now: Timestamp,
        identity: IpAddr,
        cause: Cause,
        timing: Timing,
        out: &mut Outbox,
    ) {
        if now < self.due(timing) {
            return;
        }
        if now >= self.begun + WINDOW {
            (self.begun, self.spent) = (now, Duration::ZERO);
        }
        let until = now + GRACE;
        let more = until.since(self.until.max(now));
        let grace = self.spent + more <= BUDGET;
        if grace {
            self.spent += more;
            self.until = until;
        }
        (self.asked, self.again) = (now, false);
        out.events.push_back(Event::Recover {
            identity,
            of: match cause {
                Cause::Met(peer) => Some(peer),
                Cause::Claim(_) | Cause::Frame | Cause::Elsewhere(_) => None,
            },
            got: matches!(cause, Cause::Claim(_) | Cause::Frame),
            grace,
        });
    }
}
