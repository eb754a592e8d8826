//! Who answers a request: its target, the rule that it falls under, the transaction that it is part of, the choice.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri, Version};

use super::choice::{Choice, Why, by_address, choose};
use super::rules::{Group, Matched, Rules};
use super::target::{Malformed, Target};
use super::ticket::{Shown, Ticket, Tickets};
use super::view::{Server, View};
use crate::cluster::ServerId;
use crate::config::{HostPattern, Http, RuleRoute, Stateful};

/// What is known of a request before its body.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target, as it came.
    pub uri: &'a Uri,
    /// Its headers, as they came.
    pub headers: &'a HeaderMap,
    /// Its version.
    pub version: Version,
    /// Who asks, as far as that can be believed.
    pub client: IpAddr,
    /// It came by TLS.
    pub tls: bool,
    /// A peer has routed it here already.
    pub relayed: bool,
    /// A peer has given this server the connection for it.
    pub handed: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Who answers it.
    pub route: Route,
    /// What it is for: that is what the web server or the peer is asked. `None` if it is refused for not saying so.
    pub target: Option<Target>,
    /// What is remarkable about its transaction.
    pub note: Option<Note>,
    /// For the client; see [`Decision::cookie`].
    cookie: Option<HeaderValue>,
    /// The cookie takes a ticket back.
    ends: bool,
    /// It is part of a transaction whose server is known: nobody else has what it needs.
    pub stays: bool,
}

impl Decision {
    /// What goes with the answer, if it has this status, as `Set-Cookie`: a transaction has ended only when its end was served.
    pub fn cookie(&self, answered: StatusCode) -> Option<&HeaderValue> {
        let served = !self.ends || !answered.is_server_error();
        self.cookie.as_ref().filter(|_| served)
    }
}

/// Who answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The web server of this host.
    Here,
    /// A peer: it is asked, and its answer passed on.
    Relay(ServerId),
    /// A peer: it gets the connection.
    Handoff(ServerId),
    /// The client is sent there: a 307 with this `Location`.
    Redirect(HeaderValue),
    /// Nobody.
    Refuse(Refusal),
}

/// Why nobody answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It isn't clear what it is for.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// It asks for a tunnel.
    #[error("CONNECT isn't served here")]
    Connect,
    /// Its host is none of those that are served here.
    #[error("this host is not served here")]
    Host,
    /// None of the servers that are dedicated to it is there.
    #[error("no server for this is there at the moment")]
    Nobody,
}

impl Refusal {
    /// What the client is answered.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(Malformed::Length) => StatusCode::URI_TOO_LONG,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Nobody => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// What is remarkable about a request's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It went to the server of its transaction.
    Kept,
    /// That server is gone, so another one got it.
    Lost,
    /// It showed a ticket whose time is over.
    Expired,
    /// It showed a ticket that this cluster hasn't made.
    Forged,
}

/// Routes the requests of one service.
pub struct Router {
    hosts: Vec<HostPattern>,
    names: Vec<String>,
    rules: Rules,
    tickets: Tickets,
    turn: AtomicU32,
}

/// What a request is, and who is to answer it.
pub(super) struct Thought<'a> {
    pub target: Target,
    pub matched: Matched<'a>,
    pub group: Group<'a>,
    pub shown: Shown,
    pub place: Option<Place>,
    pub choice: Option<Choice>,
    pub note: Option<Note>,
}

/// Where in a transaction a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At its entry: it may be routed.
    Entry,
    /// Further down.
    Below,
    /// At its end.
    End,
}

impl Router {
    /// By this configuration, with tickets under the cluster's keys.
    pub fn new(config: Http, tickets: Tickets) -> Self {
        Self {
            names: config.own_names(),
            hosts: config.hosts,
            rules: Rules::new(config.rules),
            tickets,
            turn: AtomicU32::new(0),
        }
    }

    /// Who answers the request. `now` is the time in seconds since 1970, `random` decides where several would do.
    pub fn route(&self, head: &Head<'_>, view: &View, now: u64, random: u64) -> Decision {
        let thought = match self.think(head, view, now, random) {
            Ok(thought) => thought,
            Err(refusal) => return Decision::refused(refusal, None),
        };
        let Some(choice) = thought.choice else {
            return Decision::refused(Refusal::Nobody, Some(thought.target));
        };
        let peer = choice.peer.and_then(|index| view.peers.get(index));
        if let Some(peer) = peer {
            peer.sent.fetch_add(1, Relaxed);
            self.turn.fetch_add(1, Relaxed);
        }
        let cookie = self.cookie(head, &thought, peer.unwrap_or(&view.own), now);
        Decision {
            route: self.way(head, &thought, peer),
            note: thought.note,
            ends: thought.place == Some(Place::End),
            stays: matches!(choice.why, Why::Transaction | Why::ByAddress),
            cookie,
            target: Some(thought.target),
        }
    }

    /// Whether it depends on servers that this one hasn't heard, where it isn't settled yet.
    pub fn is_early(&self, head: &Head<'_>, view: &View, now: u64) -> bool {
        self.think(head, view, now, 0).is_ok_and(|thought| {
            let by_all = |choice: Choice| choice.why == Why::ByAddress;
            thought.note == Some(Note::Lost) || thought.choice.is_none_or(by_all)
        })
    }

    pub(super) fn think<'a>(
        &'a self,
        head: &Head<'_>,
        view: &'a View,
        now: u64,
        random: u64,
    ) -> Result<Thought<'a>, Refusal> {
        let target = self.target(head)?;
        let matched = self.rules.find(head.method, &target, view);
        let mut thought = Thought {
            group: matched.group(view),
            place: matched
                .stateful()
                .map(|stateful| place(stateful, target.path())),
            target,
            matched,
            shown: Shown::None,
            choice: None,
            note: None,
        };
        let here = |why| Some(Choice { peer: None, why });
        if head.relayed {
            thought.choice = here(Why::Relayed);
            return Ok(thought);
        }
        match (matched.rule(), matched.stateful()) {
            (Some(rule), Some(stateful)) if stateful.cookie => {
                thought.shown = self.tickets.shown(head.headers, &rule.name, now);
                thought.keep(view);
            }
            (Some(rule), Some(_)) => {
                let name = rule.name.as_str();
                thought.choice = by_address(view, thought.group, name, head.client);
            }
            _ => {}
        }
        if head.handed {
            thought.choice = here(Why::Relayed);
        }
        if thought.choice.is_none() && self.was_sent_here(view, &thought) {
            thought.choice = here(Why::SentHere);
        }
        if thought.choice.is_none() && view.steered && matches!(matched, Matched::None) {
            thought.choice = here(Why::BelowLevel);
        }
        if thought.choice.is_none() {
            let turn = self.turn.load(Relaxed);
            thought.choice = choose(view, thought.group, turn, random);
        }
        Ok(thought)
    }

    fn target(&self, head: &Head<'_>) -> Result<Target, Refusal> {
        if head.method == Method::CONNECT {
            return Err(Refusal::Connect);
        }
        let http10 = head.version <= Version::HTTP_10;
        let target = Target::of(head.method, head.uri, head.headers, http10)?;
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.matches(&target.host)) {
            return Err(Refusal::Host);
        }
        Ok(target)
    }

    /// Whether a redirect of a peer's brought the client here, where it can be served: it isn't sent on, or two servers might send
    /// it to and fro.
    fn was_sent_here(&self, view: &View, thought: &Thought<'_>) -> bool {
        thought.matched.route() == RuleRoute::Redirect
            && self.is_own(&thought.target)
            && view.own.is_ready()
            && thought.group.has(&view.own)
    }

    fn is_own(&self, target: &Target) -> bool {
        self.names.contains(&target.host)
    }

    /// How the request gets to the server that was chosen.
    pub(super) fn way(
        &self,
        head: &Head<'_>,
        thought: &Thought<'_>,
        peer: Option<&Server>,
    ) -> Route {
        let Some(peer) = peer else { return Route::Here };
        match thought.matched.route() {
            RuleRoute::Relay => Route::Relay(peer.id),
            RuleRoute::Handoff => Route::Handoff(peer.id),
            RuleRoute::Redirect => {
                (self.redirect(head, thought, peer)).map_or(Route::Relay(peer.id), Route::Redirect)
            }
        }
    }

    /// The URL at the peer, if the client is to be sent there, and that wasn't done before.
    fn redirect(
        &self,
        head: &Head<'_>,
        thought: &Thought<'_>,
        peer: &Server,
    ) -> Option<HeaderValue> {
        // A client that came by the peer's own name got here because the peer sends its connections on: it must not come again.
        let comes_from_there = peer.names.contains(&thought.target.host);
        if self.is_own(&thought.target) || comes_from_there || !peer.is_ready() {
            return None;
        }
        let name = peer.names.first()?;
        let scheme = if head.tls { "https" } else { "http" };
        let port = thought
            .target
            .port
            .map_or_else(String::new, |port| format!(":{port}"));
        let path = &thought.target.path_and_query;
        HeaderValue::from_str(&format!("{scheme}://{name}{port}{path}")).ok()
    }

    fn cookie(
        &self,
        head: &Head<'_>,
        thought: &Thought<'_>,
        server: &Server,
        now: u64,
    ) -> Option<HeaderValue> {
        let rule = thought.matched.rule()?;
        let stateful = rule.stateful.as_ref().filter(|stateful| stateful.cookie)?;
        if head.relayed {
            return None;
        }
        if thought.place == Some(Place::End) {
            let shown = thought.shown != Shown::None;
            return shown.then(|| Tickets::take_back(&rule.name, head.tls))?;
        }
        let time = stateful.time.as_secs();
        let renewed = Ticket {
            server: server.id,
            expires: now + time,
        };
        match thought.shown {
            // Half of its time is left: soon enough to renew it.
            Shown::Good(ticket)
                if ticket.server == server.id && ticket.expires > now + time / 2 =>
            {
                None
            }
            _ => self.tickets.give(renewed, &rule.name, head.tls),
        }
    }
}

impl Thought<'_> {
    /// Keeps the request with the server of its transaction.
    fn keep(&mut self, view: &View) {
        let ticket = match self.shown {
            Shown::None => return,
            Shown::Expired => return self.note = Some(Note::Expired),
            Shown::Forged => return self.note = Some(Note::Forged),
            Shown::Good(ticket) => ticket,
        };
        let servers = view.servers().enumerate();
        let mut holders =
            servers.filter(|(_, server)| server.id == ticket.server && server.healthy);
        let Some((index, holder)) = holders.next() else {
            return self.note = Some(Note::Lost);
        };
        // Up to and including the entry a request may be routed: it is, where its server has too much to do.
        let full = holder.draining || holder.load() > view.overload;
        if self.place == Some(Place::Entry) && full {
            return;
        }
        self.note = Some(Note::Kept);
        self.choice = Some(Choice {
            peer: index.checked_sub(1),
            why: Why::Transaction,
        });
    }
}

impl Decision {
    fn refused(refusal: Refusal, target: Option<Target>) -> Self {
        Self {
            route: Route::Refuse(refusal),
            target,
            note: None,
            cookie: None,
            ends: false,
            stays: false,
        }
    }
}

fn place(stateful: &Stateful, path: &str) -> Place {
    let is_end = |end: &crate::config::PathPattern| end.matches(path);
    let entry = stateful.entry.as_str();
    if stateful.end.as_ref().is_some_and(is_end) {
        Place::End
    } else if stateful.entry.matches(path) || entry.strip_suffix('/') == Some(path) {
        Place::Entry
    } else {
        Place::Below
    }
}

#[cfg(test)]
mod tests;
