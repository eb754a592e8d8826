//! What native XDP asks of an interface.

use super::Finding;
use super::card::{Card, XdpFeatures};
use super::link::{Kind, Link};
use crate::datapath::interface::XdpState;

/// Largest MTU with native XDP where a frame must fit into one page (4,096 bytes) beside the program's headroom and the
/// kernel's bookkeeping: veth (`veth_xdp_set`) and `virtio_net` (`virtnet_xdp_set`).
const PAGE_MTU: u32 = 3_506;

/// Judges the MTU.
pub fn mtu(link: &Link, card: &Card, mode: XdpState) -> Finding {
    let name = &link.name;
    let mtu = link.mtu;
    let page = matches!(link.kind, Kind::Veth(_)) || card.driver.as_deref() == Some("virtio_net");
    match mode {
        XdpState::Native if mtu > PAGE_MTU && page => Finding::bad(
            "MTU",
            format!("{mtu}, and native mode takes {PAGE_MTU} at the most"),
            match link.kind {
                Kind::Veth(_) => format!("ip link set {name} mtu {PAGE_MTU} # at both ends"),
                _ => format!("ip link set {name} mtu {PAGE_MTU}"),
            },
        ),
        XdpState::Native if mtu > PAGE_MTU => Finding::warn(
            "MTU",
            format!("{mtu}: most drivers refuse native mode above some {PAGE_MTU}"),
            format!("ip link set {name} mtu {PAGE_MTU}"),
        ),
        XdpState::Generic if mtu > PAGE_MTU && matches!(link.kind, Kind::Veth(_)) => Finding::ok(
            "MTU",
            format!("{mtu}; native mode would take {PAGE_MTU} at the most, at both ends"),
        ),
        _ => Finding::ok("MTU", mtu.to_string()),
    }
}

/// Native XDP wants send queues of its own, one for each CPU.
pub fn queues(name: &str, card: &Card, mode: XdpState, cpus: u32) -> Option<Finding> {
    let (count, max) = card.channels?;
    let found = format!("{count} of {max} pairs, {cpus} CPUs");
    if mode != XdpState::Native {
        return Some(Finding::ok("queues", found));
    }
    match card.driver.as_deref() {
        // virtnet_xdp_set: "XDP_TX and XDP_REDIRECT will operate in a slower locked tx mode".
        Some("virtio_net") if count + cpus > max => {
            let cure = if max > cpus {
                format!("ethtool -L {name} combined {}", max - cpus)
            } else {
                format!("give the virtual machine {} queues", 1 + cpus)
            };
            Some(Finding::warn(
                "queues",
                format!(
                    "{found}: too few for one more a CPU, so native mode sends under a lock, which is slower"
                ),
                cure,
            ))
        }
        // ena_xdp_set: "the Rx/Tx channel count should be at most half of the maximum allowed channel count".
        Some("ena") if count * 2 > max => Some(Finding::bad(
            "queues",
            format!("{found}: native mode takes half of them at the most"),
            format!("ethtool -L {name} combined {}", max / 2),
        )),
        _ => Some(Finding::ok("queues", found)),
    }
}

/// What native mode on a veth needs at its `other_end`, if that can be seen.
pub fn veth(card: &Card, mode: XdpState, other_end: Option<&(&str, Card)>) -> Vec<Finding> {
    let peer = other_end.map_or("PEER", |(name, _)| name);
    let place = if other_end.is_some() {
        ""
    } else {
        "at the other end: "
    };
    if mode != XdpState::Native {
        return vec![Finding::ok(
            "veth",
            "generic mode, which needs nothing of the other end (--mode native: see what that needs)",
        )];
    }
    let steering = match card.xdp.map(XdpFeatures::transmit) {
        Some(true) => Finding::ok("veth", "the other end takes what native mode sends"),
        Some(false) => Finding::bad(
            "veth",
            "the other end has neither GRO nor a program: what native mode steers is lost",
            format!("{place}ethtool -K {peer} gro on"),
        ),
        None => Finding::warn(
            "veth",
            "native mode steers only if GRO is on at the other end, which this kernel doesn't tell",
            format!("{place}ethtool -K {peer} gro on"),
        ),
    };
    let checksums = match other_end {
        Some((_, card)) if !card.leaves_checksums() => {
            Finding::ok("checksums", "complete from the other end")
        }
        Some(_) => Finding::bad(
            "checksums",
            "the other end leaves them to be filled in; peers drop what native mode sends on",
            format!("ethtool -K {peer} tx off"),
        ),
        None => Finding::warn(
            "checksums",
            "if the other end leaves them to be filled in (it can't be seen), peers drop what native mode sends on",
            format!("{place}ethtool -K {peer} tx off"),
        ),
    };
    vec![steering, checksums]
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn driver(name: &str) -> Card {
        Card {
            driver: Some(name.to_owned()),
            ..Card::default()
        }
    }

    #[test]
    fn large_frames_need_generic_mode() {
        let judge = |mtu, kind, driver_name, mode| {
            let link = Link {
                mtu,
                ..Link::test("eth0", kind)
            };
            super::mtu(&link, &driver(driver_name), mode).state
        };
        let veth = Kind::Veth(None);
        assert_eq!(judge(3_506, veth.clone(), "", XdpState::Native), State::Ok);
        assert_eq!(judge(3_507, veth.clone(), "", XdpState::Native), State::Bad);
        assert_eq!(judge(9_000, veth, "", XdpState::Generic), State::Ok);
        assert_eq!(
            judge(9_000, Kind::Card, "virtio_net", XdpState::Native),
            State::Bad
        );
        assert_eq!(
            judge(9_000, Kind::Card, "ice", XdpState::Native),
            State::Warn
        );
    }

    #[test]
    fn queues_for_native_mode() {
        let judge = |name, count, max| {
            let card = Card {
                channels: Some((count, max)),
                ..driver(name)
            };
            queues("eth0", &card, XdpState::Native, 4).unwrap()
        };
        assert_eq!(judge("virtio_net", 4, 8).state, State::Ok);
        let many = judge("virtio_net", 8, 8);
        assert_eq!(many.state, State::Warn);
        assert_eq!(many.cure.as_deref(), Some("ethtool -L eth0 combined 4"));
        let few = judge("virtio_net", 1, 1);
        assert_eq!(
            few.cure.as_deref(),
            Some("give the virtual machine 5 queues")
        );
        let amazon = judge("ena", 8, 8);
        assert_eq!(amazon.state, State::Bad);
        assert_eq!(amazon.cure.as_deref(), Some("ethtool -L eth0 combined 4"));
        assert_eq!(judge("ice", 8, 8).state, State::Ok);
        assert_eq!(queues("eth0", &Card::default(), XdpState::Native, 4), None);
    }

    #[test]
    fn a_veth_needs_its_other_end() {
        let card = |bits| Card {
            xdp: Some(XdpFeatures(bits)),
            ..Card::default()
        };
        let states = |card: &Card, mode, other_end: Option<&(&str, Card)>| -> Vec<State> {
            let findings = veth(card, mode, other_end);
            findings.iter().map(|finding| finding.state).collect()
        };
        let native = XdpState::Native;
        assert_eq!(states(&card(3), XdpState::Generic, None), [State::Ok]);
        assert_eq!(states(&card(3), native, None), [State::Bad, State::Warn]);
        assert_eq!(states(&card(7), native, None), [State::Ok, State::Warn]);
        let mut other = ("port1", Card::default());
        assert_eq!(
            states(&card(7), native, Some(&other)),
            [State::Ok, State::Ok]
        );
        other.1.on.insert("tx-checksum-ip-generic".to_owned());
        assert_eq!(
            states(&card(7), native, Some(&other)),
            [State::Ok, State::Bad]
        );
        let cure = veth(&card(7), native, Some(&other)).remove(1).cure;
        assert_eq!(cure.as_deref(), Some("ethtool -K port1 tx off"));
    }
}
