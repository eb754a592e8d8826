//! An interface: is it the right one, is it up, and how can the XDP program be attached to it?

use super::card::{Card, XdpFeatures};
use super::link::{Kind, Link};
use super::{Finding, native, offload, role, sysctl};
use crate::datapath::Mode;
use crate::datapath::interface::{Interface, XdpState};

/// What balancer has to do with an interface.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// It is attached to it.
    pub attached: bool,
    /// How it is to be attached.
    pub mode: Mode,
    /// So many interfaces are examined.
    pub interfaces: usize,
}

/// Examines the interface called `name`, one of `links`.
pub async fn examine(name: &str, plan: Plan, links: &[Link]) -> Vec<Finding> {
    let interface = match Interface::find(name).await {
        Ok(interface) => interface,
        Err(error) => {
            return vec![Finding::bad("interface", format!("{error:#}"), "ip link")];
        }
    };
    let Some(link) = links.iter().find(|link| link.index == interface.index) else {
        return vec![Finding::bad("interface", "it has just gone", "ip link")];
    };
    let card = Card::read(link).await;
    let mode = mode(link, &card, plan);
    let mut findings = vec![state(link)];
    findings.extend(role::judge(link, links, mode));
    findings.push(addresses(&interface));
    findings.push(program(link, &card, plan.attached));
    findings.push(native::mtu(link, &card, mode));
    findings.extend(native::queues(&link.name, &card, mode, cpus()));
    if let Kind::Veth(other_end) = link.kind {
        let other_end = links.iter().find(|link| Some(link.index) == other_end);
        let other_end = match other_end {
            Some(link) => Some((link.name.as_str(), Card::read(link).await)),
            None => None,
        };
        findings.extend(native::veth(&card, mode, other_end.as_ref()));
    }
    let vlans = links
        .iter()
        .any(|other| other.kind == Kind::Vlan(Some(link.index)));
    findings.extend(offload::judge(&link.name, &card, mode, vlans));
    findings.extend(sysctl::examine(&link.name, plan.interfaces));
    findings
}

/// How balancer is attached, or will be.
fn mode(link: &Link, card: &Card, plan: Plan) -> XdpState {
    if plan.attached && link.xdp != XdpState::None {
        return link.xdp;
    }
    let native = match plan.mode {
        Mode::Native => true,
        Mode::Generic => false,
        Mode::Auto => {
            let able = card.xdp.is_none_or(XdpFeatures::native);
            able && matches!(link.kind, Kind::Card | Kind::Bond(_) | Kind::Other(_))
        }
    };
    if native {
        XdpState::Native
    } else {
        XdpState::Generic
    }
}

fn state(link: &Link) -> Finding {
    let name = &link.name;
    if !link.up {
        return Finding::bad("state", "down", format!("ip link set {name} up"));
    }
    if !link.carrier {
        return Finding::bad(
            "state",
            "up, but without a carrier: no cable, or the other end is down",
            format!("ip -d link show {name}"),
        );
    }
    if !link.multicast {
        return Finding::warn(
            "state",
            "up, but without multicast: servers find each other only by exchange.peers",
            format!("ip link set {name} multicast on"),
        );
    }
    Finding::ok("state", "up")
}

fn addresses(interface: &Interface) -> Finding {
    let name = &interface.name;
    if interface.addresses.is_empty() {
        return Finding::warn(
            "addresses",
            "none that clients can use: name one with --identity ADDR/LEN, or give it one",
            format!("ip address add ADDR/LEN dev {name}"),
        );
    }
    let all: Vec<_> = interface
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    Finding::ok("addresses", all.join(", "))
}

/// The XDP program that it has or can have.
fn program(link: &Link, card: &Card, own: bool) -> Finding {
    let name = &link.name;
    let driver = card.driver.as_deref().unwrap_or(match link.kind {
        Kind::Veth(_) => "veth",
        Kind::Bridge { .. } => "bridge",
        Kind::Bond(_) => "bonding",
        Kind::Vlan(_) => "8021q",
        Kind::Other(ref kind) => kind,
        Kind::Card => "unknown",
    });
    match (link.xdp, own, card.xdp) {
        (XdpState::None, true, _) => Finding::bad(
            "XDP",
            "balancer's program was detached by somebody: nothing is balanced",
            format!("balancer detach {name} && balancer attach {name}"),
        ),
        (mode, true, _) => Finding::ok("XDP", format!("balancer, in {} mode", mode.name())),
        (XdpState::None, false, None) => Finding::ok(
            "XDP",
            format!("driver {driver}; Linux before 6.3 doesn't tell whether it can do native mode"),
        ),
        (XdpState::None, false, Some(features)) if features.native() => {
            Finding::ok("XDP", format!("driver {driver}, which can do native mode"))
        }
        (XdpState::None, false, Some(_)) => Finding::warn(
            "XDP",
            format!("driver {driver}, which can't do native mode now: generic mode is slower"),
            format!("balancer attach {name} --mode generic"),
        ),
        (mode, false, _) => Finding::bad(
            "XDP",
            format!(
                "has a program that isn't balancer's, in {} mode; `bpftool net` says whose it is",
                mode.name()
            ),
            format!("ip link set {name} xdp off"),
        ),
    }
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    const PLAN: Plan = Plan {
        attached: false,
        mode: Mode::Auto,
        interfaces: 1,
    };

    fn able(bits: u64) -> Card {
        Card {
            xdp: Some(XdpFeatures(bits)),
            ..Card::default()
        }
    }

    #[test]
    fn the_mode_is_the_one_that_attach_would_take() {
        let card = Link::test("eth0", Kind::Card);
        let veth = Link::test("eth0", Kind::Veth(None));
        assert_eq!(mode(&card, &able(1), PLAN), XdpState::Native);
        assert_eq!(mode(&card, &able(0), PLAN), XdpState::Generic);
        // An older kernel doesn't tell.
        assert_eq!(mode(&card, &Card::default(), PLAN), XdpState::Native);
        assert_eq!(mode(&veth, &able(1), PLAN), XdpState::Generic);
        let native = Plan {
            mode: Mode::Native,
            ..PLAN
        };
        assert_eq!(mode(&veth, &able(1), native), XdpState::Native);
        let attached = Plan {
            attached: true,
            ..PLAN
        };
        let has_it = Link {
            xdp: XdpState::Native,
            ..veth
        };
        assert_eq!(mode(&has_it, &able(1), attached), XdpState::Native);
    }

    #[test]
    fn a_link_must_carry_frames() {
        let up = Link::test("eth0", Kind::Card);
        assert_eq!(state(&up).state, State::Ok);
        let dumb = Link {
            multicast: false,
            ..up.clone()
        };
        assert_eq!(state(&dumb).state, State::Warn);
        let unplugged = Link {
            carrier: false,
            ..up.clone()
        };
        assert_eq!(state(&unplugged).state, State::Bad);
        let down = Link { up: false, ..up };
        assert_eq!(state(&down).cure.as_deref(), Some("ip link set eth0 up"));
    }

    #[test]
    fn programs_of_others_are_in_the_way() {
        let free = Link::test("eth0", Kind::Card);
        let taken = Link {
            xdp: XdpState::Generic,
            ..free.clone()
        };
        let state = |link: &Link, own| program(link, &able(1), own).state;
        assert_eq!(state(&free, false), State::Ok);
        assert_eq!(state(&taken, true), State::Ok);
        assert_eq!(state(&taken, false), State::Bad);
        assert_eq!(state(&free, true), State::Bad);
        assert_eq!(program(&free, &able(0), false).state, State::Warn);
    }
}
