//! What native XDP asks of an interface.

use super::Finding;
use super::card::{Card, XdpFeatures};
use super::link::Link;
use crate::datapath::interface::XdpState;

/// Largest MTU with native XDP where a frame must fit into one page (4,096 bytes) beside the program's headroom and the
/// kernel's bookkeeping, as on veth and `virtio_net`.
const PAGE_MTU: u32 = 3_506;

/// Judges the MTU. The program takes frames of several pages; not every driver hands them over.
pub fn mtu(link: &Link, card: &Card, mode: XdpState) -> Finding {
    let (name, mtu) = (&link.name, link.mtu);
    let found = mtu.to_string();
    if mode != XdpState::Native || mtu <= PAGE_MTU {
        return Finding::ok("MTU", found);
    }
    let cure = format!("ip link set {name} mtu {PAGE_MTU}");
    match card.xdp.map(XdpFeatures::large_frames) {
        Some(true) => Finding::ok("MTU", found),
        Some(false) => Finding::bad(
            "MTU",
            format!(
                "{mtu}: in native mode this driver takes only what fits into a page, some {PAGE_MTU}"
            ),
            cure,
        ),
        None => Finding::warn(
            "MTU",
            format!("{mtu}: many drivers refuse native mode above some {PAGE_MTU}"),
            cure,
        ),
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
    use super::super::link::Kind;
    use super::*;

    fn driver(name: &str) -> Card {
        Card {
            driver: Some(name.to_owned()),
            ..Card::default()
        }
    }

    #[test]
    fn large_frames_need_generic_mode() {
        let judge = |mtu, features: Option<u64>, mode| {
            let link = Link {
                mtu,
                ..Link::test("eth0", Kind::Card)
            };
            let card = Card {
                xdp: features.map(XdpFeatures),
                ..Card::default()
            };
            super::mtu(&link, &card, mode).state
        };
        assert_eq!(judge(3_506, Some(1), XdpState::Native), State::Ok);
        assert_eq!(judge(9_000, Some(1), XdpState::Native), State::Bad);
        assert_eq!(judge(9_000, Some(1), XdpState::Generic), State::Ok);
        assert_eq!(judge(9_000, Some(33), XdpState::Native), State::Ok);
        assert_eq!(judge(9_000, None, XdpState::Native), State::Warn);
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
