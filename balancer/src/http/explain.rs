//! What becomes of a request, step by step: the router's own thoughts, in words.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::choice::Why;
use super::route::{Head, Place, Refusal, Route, Router, Thought};
use super::rules::{Group, Matched};
use super::ticket::Shown;
use super::view::{Server, View};
use crate::datapath::explain::percent;

/// What becomes of a request, and why. Loads are in basis points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What is asked for, as the web server gets it; `None`: that isn't clear.
    pub target: Option<String>,
    /// The rule's name, or the path that a server announces.
    pub rule: Option<String>,
    /// The steps, as the patent numbers them (WO 99/18534).
    pub steps: Vec<Step>,
    /// The servers that offer the service.
    pub servers: Vec<Standing>,
    /// What becomes of it.
    pub verdict: Outcome,
    /// The server that answers it, or that the client is sent to.
    pub server: Option<String>,
    /// Why, or where to.
    pub reason: String,
    /// The status of an answer that no web server gives.
    pub status: Option<u16>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number.
    pub step: String,
    /// What it found.
    pub text: String,
}

/// How a server stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// It is this one.
    pub own: bool,
    /// It is dedicated to the request.
    pub dedicated: bool,
    /// It takes new requests.
    pub ready: bool,
    /// Its load, with what it was given since its report.
    pub load: u32,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The web server of this host answers it.
    Here,
    /// A peer answers it through this server.
    Relay,
    /// A peer gets the connection, and answers it.
    Handoff,
    /// The client is sent to a peer.
    Redirect,
    /// It is refused.
    Refuse,
}

impl Router {
    /// What would become of a request at this moment.
    pub fn explain(&self, head: &Head<'_>, view: &View, now: u64, random: u64) -> Explanation {
        let asked = Step::new("S401", format!("{} {}", head.method, head.uri));
        let thought = match self.think(head, view, now, random) {
            Ok(thought) => thought,
            Err(refusal) => return refused(vec![asked], refusal),
        };
        let mut steps = vec![
            asked,
            Step::new(
                "S402",
                format!("it is for {}{}", thought.target.host, thought.target.path()),
            ),
            Step::new("S402", rule(&thought)),
        ];
        steps.extend(transaction(&thought, view).map(|text| Step::new("-", text)));
        let dedicated = thought.group.has(&view.own);
        let own = format!(
            "this server is {}",
            if dedicated {
                "dedicated to it"
            } else {
                "not dedicated to it"
            }
        );
        steps.push(Step::new("S403", own));
        if dedicated {
            let load = format!(
                "own load {}, overload level {}{}",
                percent(view.own.load()),
                percent(view.overload),
                if view.own.is_ready() {
                    ""
                } else {
                    "; not ready"
                },
            );
            steps.push(Step::new("S203", load));
        }
        let rule = match thought.matched {
            Matched::Rule(rule) => Some(rule.name.to_string()),
            Matched::Announced(path) => Some(path.to_string()),
            Matched::None => None,
        };
        let verdict = match thought.choice {
            None => refused(steps, Refusal::Nobody),
            Some(choice) => {
                let peer = choice.peer.and_then(|index| view.peers.get(index));
                let why = match choice.why {
                    Why::BelowLevel if view.steered => {
                        "no rule: its connection was balanced at packet level".to_owned()
                    }
                    why => why.text(view.policy),
                };
                let (verdict, reason, status) = match self.way(head, &thought, peer) {
                    Route::Here => (Outcome::Here, why, None),
                    Route::Redirect(location) => {
                        let location = location.to_str().unwrap_or_default();
                        let status = StatusCode::TEMPORARY_REDIRECT.as_u16();
                        (
                            Outcome::Redirect,
                            format!("{why}; Location: {location}"),
                            Some(status),
                        )
                    }
                    Route::Handoff(_) => (Outcome::Handoff, why, None),
                    Route::Relay(_) | Route::Refuse(_) => (Outcome::Relay, why, None),
                };
                Explanation {
                    target: None,
                    rule: None,
                    steps,
                    servers: Vec::new(),
                    verdict,
                    server: Some(peer.unwrap_or(&view.own).name.clone()),
                    reason,
                    status,
                }
            }
        };
        Explanation {
            target: Some(format!(
                "{}{}",
                thought.target.host, thought.target.path_and_query
            )),
            rule,
            servers: standings(view, thought.group),
            ..verdict
        }
    }
}

fn refused(steps: Vec<Step>, refusal: Refusal) -> Explanation {
    Explanation {
        target: None,
        rule: None,
        steps,
        servers: Vec::new(),
        verdict: Outcome::Refuse,
        server: None,
        reason: refusal.to_string(),
        status: Some(refusal.status().as_u16()),
    }
}

fn rule(thought: &Thought<'_>) -> String {
    let what = match thought.matched {
        Matched::Rule(rule) => format!("rule {}, {}", rule.name, rule.path),
        Matched::Announced(path) => format!("{path}, which servers say they serve"),
        Matched::None => "no rule".to_owned(),
    };
    let whom = match thought.group {
        Group::All => "all servers".to_owned(),
        Group::Named(names) => {
            let names: Vec<_> = names.iter().map(crate::config::Name::as_str).collect();
            names.join(", ")
        }
        Group::Announced(_) => "the servers that say so".to_owned(),
    };
    format!("{what}: for {whom}")
}

fn transaction(thought: &Thought<'_>, view: &View) -> Option<String> {
    let place = match thought.place? {
        Place::Entry => "the entry of a transaction",
        Place::Below => "within a transaction",
        Place::End => "the end of a transaction",
    };
    if !thought.matched.stateful()?.cookie {
        return Some(format!(
            "{place}, whose server is found by the client's address"
        ));
    }
    let ticket = match thought.shown {
        Shown::None => "no ticket: it begins with this request".to_owned(),
        Shown::Expired => "the ticket's time is over".to_owned(),
        Shown::Forged => "the ticket is forged, and ignored".to_owned(),
        Shown::Good(ticket) => match view.server(ticket.server) {
            Some(server) => format!("the ticket says {}", server.name),
            None => format!("the ticket says {}, which isn't there", ticket.server),
        },
    };
    Some(format!("{place}; {ticket}"))
}

fn standings(view: &View, group: Group<'_>) -> Vec<Standing> {
    let standing = |server: &Server| Standing {
        name: server.name.clone(),
        own: server.id == view.own.id,
        dedicated: group.has(server),
        ready: server.is_ready(),
        load: server.load(),
    };
    view.servers().map(standing).collect()
}

impl Step {
    fn new(step: &str, text: String) -> Self {
        Self {
            step: step.to_owned(),
            text,
        }
    }
}
