//! The way of a report through the rules.

use serde_json::Value;

use super::condition::{Holds, compare, holds};
use super::{Report, Way};

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Passes,
    /// Dropped by the chain of this name, unless a rule lets it pass whose conditions aren't known.
    Perhaps(String),
    Dropped(String),
}

/// Every base chain on the way must let a packet pass.
pub fn fate(report: &Report, way: Way, objects: &[Value]) -> Fate {
    let hooks: &[&str] = match way {
        Way::In => &["ingress", "prerouting", "input"],
        Way::Out => &["output", "postrouting", "egress"],
    };
    let families = if report.to.is_ipv4() {
        ["inet", "ip", "netdev"]
    } else {
        ["inet", "ip6", "netdev"]
    };
    let mut perhaps = None;
    for chain in objects.iter().filter_map(|object| object.get("chain")) {
        let hook = chain["hook"].as_str().unwrap_or_default();
        let family = chain["family"].as_str().unwrap_or_default();
        let device = &chain["dev"];
        let elsewhere = !device.is_null() && !mentions(device, report.interface);
        if !hooks.contains(&hook) || !families.contains(&family) || elsewhere {
            continue;
        }
        let mut walk = Walk {
            report,
            way,
            objects,
            chain,
            may_pass: false,
        };
        let verdict = match walk.through(chain["name"].as_str().unwrap_or_default(), 0) {
            Verdict::Next if chain["policy"] == "drop" => Verdict::Drop,
            verdict => verdict,
        };
        if verdict == Verdict::Drop {
            let name = ["family", "table", "name"].map(|key| chain[key].as_str().unwrap_or("?"));
            let name = name.join(" ");
            if !walk.may_pass {
                return Fate::Dropped(name);
            }
            perhaps = Some(name);
        }
    }
    perhaps.map_or(Fate::Passes, Fate::Perhaps)
}

/// A base chain's `dev` is a name or a list of them.
fn mentions(device: &Value, interface: &str) -> bool {
    match device {
        Value::String(name) => name == interface,
        Value::Array(names) => names.iter().any(|name| name == interface),
        _ => false,
    }
}

/// What a rule or chain says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    /// It says nothing: the next rule.
    Next,
    /// Back to the calling chain.
    Return,
}

/// The way through a base chain and those that it calls.
struct Walk<'a> {
    report: &'a Report<'a>,
    way: Way,
    objects: &'a [Value],
    chain: &'a Value,
    /// A rule was passed by that would accept it under conditions that aren't known.
    may_pass: bool,
}

impl Walk<'_> {
    /// The kernel allows 16 chains to call each other (`NFT_JUMP_STACK_SIZE`).
    const DEEPEST: u32 = 16;

    fn through(&mut self, name: &str, depth: u32) -> Verdict {
        if depth > Self::DEEPEST {
            return Verdict::Next;
        }
        let objects = self.objects;
        let rules = objects.iter().filter_map(|object| object.get("rule"));
        let here = |rule: &&Value| {
            rule["family"] == self.chain["family"]
                && rule["table"] == self.chain["table"]
                && rule["chain"] == name
        };
        let rules: Vec<_> = rules.filter(here).collect();
        for rule in rules {
            let statements = rule["expr"].as_array().map_or(&[][..], Vec::as_slice);
            match self.rule(statements, depth) {
                Verdict::Next => {}
                Verdict::Return => return Verdict::Next,
                verdict => return verdict,
            }
        }
        Verdict::Next
    }

    fn rule(&mut self, statements: &[Value], depth: u32) -> Verdict {
        let mut certain = true;
        for statement in statements {
            let Some((kind, body)) = statement.as_object().and_then(|map| map.iter().next()) else {
                certain = false;
                continue;
            };
            match kind.as_str() {
                "match" => match holds(self.report, self.way, body) {
                    Holds::Yes => {}
                    Holds::No => return Verdict::Next,
                    Holds::Unknown => certain = false,
                },
                "counter" | "log" | "comment" | "mangle" | "notrack" | "meter" => {}
                "vmap" => match self.look_up(body, depth, certain) {
                    Verdict::Next => {}
                    verdict => return verdict,
                },
                _ => match self.verdict(kind, body, depth, certain) {
                    Some(verdict) => return verdict,
                    // A limit, a quota, an extension of iptables.
                    None => certain = false,
                },
            }
        }
        Verdict::Next
    }

    /// What a verdict statement comes to; `None`: it is something else.
    fn verdict(&mut self, kind: &str, body: &Value, depth: u32, certain: bool) -> Option<Verdict> {
        let verdict = match kind {
            "accept" => Verdict::Accept,
            "drop" | "reject" => Verdict::Drop,
            "return" => Verdict::Return,
            "jump" | "goto" => {
                let target = body["target"].as_str().unwrap_or_default();
                match self.through(target, depth + 1) {
                    Verdict::Next if kind == "goto" => Verdict::Return,
                    verdict => verdict,
                }
            }
            _ => return None,
        };
        if certain {
            return Some(verdict);
        }
        self.may_pass |= verdict == Verdict::Accept;
        Some(Verdict::Next)
    }

    fn look_up(&mut self, body: &Value, depth: u32, certain: bool) -> Verdict {
        let Some(elements) = body["data"]["set"].as_array() else {
            // A named map: what it says of the packet isn't known.
            self.may_pass = true;
            return Verdict::Next;
        };
        for element in elements {
            let found = compare(self.report, self.way, &body["key"], &element[0]);
            if found == Holds::No {
                continue;
            }
            let Some((kind, target)) = element[1].as_object().and_then(|map| map.iter().next())
            else {
                continue;
            };
            let certain = certain && found == Holds::Yes;
            match self.verdict(kind, target, depth, certain) {
                Some(Verdict::Next) | None => {}
                Some(verdict) => return verdict,
            }
        }
        Verdict::Next
    }
}
