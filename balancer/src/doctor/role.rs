//! Bridges, bonds and VLANs: what an interface is a part of, and what is a part of it.

use rtnetlink::packet_route::link::BondMode;

use super::link::{Kind, Link};
use super::{Finding, sysctl};
use crate::datapath::interface::XdpState;

/// What it is a part of, and what is a part of it.
pub fn judge(link: &Link, links: &[Link], mode: XdpState) -> Vec<Finding> {
    let name = &link.name;
    let by_index = |index| links.iter().find(|other| other.index == index);
    let controller = link.controller.and_then(by_index);
    let mut findings = Vec::new();
    match controller.map(|controller| (controller, &controller.kind)) {
        Some((bridge, Kind::Bridge { .. })) => findings.push(Finding::bad(
            "port",
            format!(
                "a port of the bridge {}, which has the host's addresses: frames never end at a port",
                bridge.name
            ),
            format!("balancer attach {}", bridge.name),
        )),
        Some((bond, Kind::Bond(_))) => findings.push(Finding::bad(
            "port",
            format!(
                "a port of the bond {0}: {0} has the host's addresses",
                bond.name
            ),
            format!("balancer attach {} --mode generic", bond.name),
        )),
        _ => {}
    }
    match &link.kind {
        Kind::Bridge {
            snooping,
            querier,
            stp,
        } => findings.extend(bridge(name, *snooping, *querier, *stp)),
        Kind::Bond(bond) => findings.push(self::bond(name, *bond, mode)),
        Kind::Vlan(_) => findings.push(Finding::ok(
            "VLAN",
            "an interface of its own: generic mode, which is slower",
        )),
        _ => {}
    }
    findings
}

fn bridge(name: &str, snooping: bool, querier: bool, stp: bool) -> Vec<Finding> {
    let set = |setting: &str| format!("ip link set {name} type bridge {setting}");
    let snooping = match (snooping, querier) {
        (false, _) => Finding::ok("snooping", "off: reports reach every port"),
        (true, true) => Finding::ok("snooping", "on, with a querier"),
        (true, false) => Finding::warn(
            "snooping",
            "on without a querier: members are forgotten, and peers' reports then lost in silence",
            set("mcast_querier 1"),
        ),
    };
    let stp = if stp {
        Finding::warn(
            "spanning tree",
            "on: a port that comes up is dumb for 30 s, and its server off-line. Off only if there is no loop",
            set("stp_state 0"),
        )
    } else {
        Finding::ok("spanning tree", "off")
    };
    let netfilter = sysctl::bridge_netfilter();
    vec![snooping, stp].into_iter().chain(netfilter).collect()
}

/// A native program runs at the bond's ports, each with an index of its own, which isn't the bond's
/// (`bond_xdp_set`, `drivers/net/bonding/bond_main.c`).
fn bond(name: &str, bond: BondMode, mode: XdpState) -> Finding {
    if mode == XdpState::Generic {
        return Finding::ok("bond", format!("{bond:?}, generic mode"));
    }
    let native = matches!(
        bond,
        BondMode::BalanceRr | BondMode::ActiveBackup | BondMode::BalanceXor | BondMode::Ieee8023Ad
    );
    let why = if native {
        "native mode sees frames at the bond's ports, not at the bond, and keeps every flow"
    } else {
        "this kind of bond has no native mode"
    };
    Finding::warn(
        "bond",
        format!("{bond:?}: {why}"),
        format!("balancer attach {name} --mode generic"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn worst(link: &Link, links: &[Link], mode: XdpState) -> Option<Finding> {
        let findings = judge(link, links, mode);
        findings.into_iter().max_by_key(|finding| finding.state)
    }

    #[test]
    fn ports_have_no_addresses() {
        let controllers = [
            (
                Kind::Bridge {
                    snooping: false,
                    querier: false,
                    stp: false,
                },
                "balancer attach up0",
            ),
            (
                Kind::Bond(BondMode::ActiveBackup),
                "balancer attach up0 --mode generic",
            ),
        ];
        for (kind, cure) in controllers {
            let links = [Link::test("up0", kind)];
            let port = Link {
                index: 8,
                controller: Some(7),
                ..Link::test("eth0", Kind::Card)
            };
            let finding = worst(&port, &links, XdpState::Native).unwrap();
            assert_eq!(finding.state, State::Bad);
            assert_eq!(finding.cure.as_deref(), Some(cure));
        }
        // In a VRF it is no port of anything.
        let vrf = [Link::test("vrf0", Kind::Other("vrf".into()))];
        let member = Link {
            controller: Some(7),
            ..Link::test("eth0", Kind::Card)
        };
        assert_eq!(worst(&member, &vrf, XdpState::Native), None);
    }

    #[test]
    fn bonds_have_no_native_mode_that_steers() {
        let bond = Link::test("bond0", Kind::Bond(BondMode::Ieee8023Ad));
        let finding = worst(&bond, &[], XdpState::Native).unwrap();
        assert_eq!(finding.state, State::Warn);
        let generic = worst(&bond, &[], XdpState::Generic).unwrap();
        assert_eq!(generic.state, State::Ok);
    }

    #[test]
    fn bridges_forget_members() {
        let state = |snooping, querier, stp| -> Vec<State> {
            let findings = bridge("br0", snooping, querier, stp);
            findings
                .iter()
                .take(2)
                .map(|finding| finding.state)
                .collect()
        };
        assert_eq!(state(false, false, false), [State::Ok, State::Ok]);
        assert_eq!(state(true, true, false), [State::Ok, State::Ok]);
        assert_eq!(state(true, false, true), [State::Warn, State::Warn]);
    }
}
