//! Offloads that get in the way of XDP or of steering.

use super::Finding;
use super::card::Card;
use crate::datapath::interface::XdpState;

/// Judges the offloads of the interface `name`; `vlans`: there are VLANs on top of it.
pub fn judge(name: &str, card: &Card, mode: XdpState, vlans: bool) -> Vec<Finding> {
    // Neither driver nor kernel told anything.
    if card.on.is_empty() && card.fixed.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    match mode {
        XdpState::Native => {
            findings.push(merged_by_card(name, card, "LRO", "rx-lro", "lro"));
            findings.push(merged_by_card(
                name,
                card,
                "GRO_HW",
                "rx-gro-hw",
                "rx-gro-hw",
            ));
        }
        // The kernel turns LRO and GRO_HW off itself for generic XDP (dev_disable_lro, dev_disable_gro_hw).
        _ => findings.push(merged_by_kernel(name, card)),
    }
    if vlans {
        findings.push(tags(name, card));
    }
    findings
}

/// The card merges segments before XDP would see them: drivers refuse native mode then.
fn merged_by_card(
    name: &str,
    card: &Card,
    check: &'static str,
    feature: &str,
    option: &str,
) -> Finding {
    if !card.has(feature) {
        return Finding::ok(check, "off");
    }
    if card.fixed.contains(feature) {
        return Finding::bad(
            check,
            "on, and can't be turned off: native mode is refused",
            format!("balancer attach {name} --mode generic"),
        );
    }
    if card.driver.as_deref() == Some("virtio_net") {
        // virtnet_xdp_set clears what it may clear.
        return Finding::ok(check, "on; the driver turns it off for native mode");
    }
    Finding::warn(
        check,
        "on: the driver may refuse native mode",
        format!("ethtool -K {name} {option} off"),
    )
}

/// Generic XDP runs after GRO.
fn merged_by_kernel(name: &str, card: &Card) -> Finding {
    if card.has("rx-gro") {
        Finding::warn(
            "GRO",
            "on: in generic mode the program gets merged segments, too large for a tunnel: uploads stall",
            format!("ethtool -K {name} gro off"),
        )
    } else {
        Finding::ok("GRO", "off")
    }
}

/// A tag that the card has taken off is not in the frame that the program sees.
fn tags(name: &str, card: &Card) -> Finding {
    if card.has("rx-vlan-hw-parse") {
        Finding::warn(
            "VLAN tags",
            "taken off by the card: tagged frames aren't known for what they are",
            format!("ethtool -K {name} rxvlan off"),
        )
    } else {
        Finding::ok("VLAN tags", "left in the frames")
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn card(on: &[&str], fixed: &[&str]) -> Card {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Card {
            on: names(on),
            fixed: names(fixed),
            ..Card::default()
        }
    }

    fn states(card: &Card, mode: XdpState, vlans: bool) -> Vec<State> {
        let findings = judge("eth0", card, mode, vlans);
        findings.iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn merged_segments_are_in_the_way() {
        let gro = card(&["rx-gro"], &[]);
        assert_eq!(states(&gro, XdpState::Generic, false), [State::Warn]);
        assert_eq!(
            states(&gro, XdpState::Native, false),
            [State::Ok, State::Ok]
        );
        let lro = card(&["rx-lro"], &[]);
        assert_eq!(
            states(&lro, XdpState::Native, false),
            [State::Warn, State::Ok]
        );
        let fixed = card(&["rx-gro-hw"], &["rx-gro-hw"]);
        assert_eq!(
            states(&fixed, XdpState::Native, false),
            [State::Ok, State::Bad]
        );
        let virtio = Card {
            driver: Some("virtio_net".into()),
            ..card(&["rx-gro-hw"], &[])
        };
        assert_eq!(
            states(&virtio, XdpState::Native, false),
            [State::Ok, State::Ok]
        );
        assert_eq!(states(&Card::default(), XdpState::Native, true), []);
    }

    #[test]
    fn tags_must_stay() {
        let strips = card(&["rx-vlan-hw-parse"], &[]);
        assert_eq!(
            states(&strips, XdpState::Generic, true),
            [State::Ok, State::Warn]
        );
        assert_eq!(states(&strips, XdpState::Generic, false), [State::Ok]);
    }
}
