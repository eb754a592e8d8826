//! What a rule asks of a packet.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Report, Way};

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Yes,
    No,
    Unknown,
}

/// Whether a `match` holds.
pub fn holds(report: &Report, way: Way, condition: &Value) -> Holds {
    let equal = compare(report, way, &condition["left"], &condition["right"]);
    match (condition["op"].as_str(), equal) {
        (Some("==" | "in"), equal) => equal,
        (Some("!="), Holds::Yes) => Holds::No,
        (Some("!="), Holds::No) => Holds::Yes,
        _ => Holds::Unknown,
    }
}

/// Whether what `left` names of the packet is `right`, or among it.
pub fn compare(report: &Report, way: Way, left: &Value, right: &Value) -> Holds {
    let alternatives = match right {
        Value::Array(list) => Some(list),
        Value::Object(_) => right["set"].as_array(),
        _ => None,
    };
    if let Some(list) = alternatives {
        let all: Vec<_> = list
            .iter()
            .map(|item| compare(report, way, left, item))
            .collect();
        return if all.contains(&Holds::Yes) {
            Holds::Yes
        } else if all.contains(&Holds::Unknown) {
            Holds::Unknown
        } else {
            Holds::No
        };
    }
    // A named set.
    if right.as_str().is_some_and(|name| name.starts_with('@')) {
        return Holds::Unknown;
    }
    match known(report, way, left) {
        Known::Word(word) => is(word_matches(word, right)),
        Known::Number(number) => number_matches(number, right),
        Known::Address(address) => address_matches(address, right),
        // A server may have any address of its network.
        Known::Network(address) => match address_matches(address, right) {
            Holds::Yes if right.is_object() => Holds::Yes,
            _ => Holds::Unknown,
        },
        Known::Absent => Holds::No,
        Known::Nothing => Holds::Unknown,
    }
}

/// What is known of the packet's field or property.
fn known<'a>(report: &Report<'a>, way: Way, left: &Value) -> Known<'a> {
    let (own, other) = match way {
        Way::In => ("iif", "oif"),
        Way::Out => ("oif", "iif"),
    };
    if let Some(key) = left["meta"]["key"].as_str() {
        let interface = key.strip_suffix("name").unwrap_or(key);
        return match key {
            "l4proto" => Known::Word("udp"),
            "nfproto" if report.to.is_ipv4() => Known::Word("ipv4"),
            "nfproto" => Known::Word("ipv6"),
            "protocol" if report.to.is_ipv4() => Known::Word("ip"),
            "protocol" => Known::Word("ip6"),
            "pkttype" if way == Way::In && report.to.is_multicast() => Known::Word("multicast"),
            _ if interface == own => Known::Word(report.interface),
            _ if interface == other => Known::Absent,
            _ => Known::Nothing,
        };
    }
    if left["ct"]["key"] == "state" {
        return Known::Word("new");
    }
    let payload = &left["payload"];
    let version = if report.to.is_ipv4() { "ip" } else { "ip6" };
    let protocol = payload["protocol"].as_str().unwrap_or_default();
    let field = payload["field"].as_str().unwrap_or_default();
    match (protocol, field) {
        ("udp" | "th", "sport" | "dport") => Known::Number(report.port.into()),
        ("ip", "protocol") | ("ip6", "nexthdr") if protocol == version => Known::Word("udp"),
        ("ip" | "ip6", "daddr") if protocol == version => match way {
            // Where servers are named one by one, it is to one of this host's addresses.
            Way::In if !report.to.is_multicast() => Known::Network(report.to),
            _ => Known::Address(report.to),
        },
        ("ip" | "ip6", "saddr") if protocol == version => {
            report.from.map_or(Known::Nothing, Known::Network)
        }
        ("ip" | "ip6", _) if protocol != version => Known::Absent,
        ("tcp" | "icmp" | "icmpv6" | "sctp" | "dccp" | "esp" | "ah" | "igmp", _) => Known::Absent,
        _ => Known::Nothing,
    }
}

/// What is known beforehand of a field.
enum Known<'a> {
    Word(&'a str),
    Number(u64),
    Address(IpAddr),
    /// An address of the same network as this one.
    Network(IpAddr),
    /// The packet has none.
    Absent,
    Nothing,
}

fn is(holds: bool) -> Holds {
    if holds { Holds::Yes } else { Holds::No }
}

fn word_matches(word: &str, wanted: &Value) -> bool {
    match wanted {
        Value::String(text) => match text.strip_suffix('*') {
            Some(prefix) => word.starts_with(prefix),
            None => word == text,
        },
        // Protocols that nft has no name for.
        Value::Number(number) => word == "udp" && number.as_u64() == Some(17),
        _ => false,
    }
}

fn number_matches(number: u64, wanted: &Value) -> Holds {
    if let Some([low, high]) = wanted["range"].as_array().map(Vec::as_slice) {
        return match (low.as_u64(), high.as_u64()) {
            (Some(low), Some(high)) => is((low..=high).contains(&number)),
            _ => Holds::Unknown,
        };
    }
    wanted
        .as_u64()
        .map_or(Holds::Unknown, |wanted| is(wanted == number))
}

fn address_matches(address: IpAddr, wanted: &Value) -> Holds {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    if let Some(prefix) = wanted.get("prefix") {
        let length = prefix["len"]
            .as_u64()
            .and_then(|len| u8::try_from(len).ok());
        let network = parse(&prefix["addr"])
            .zip(length)
            .and_then(|(address, length)| IpNet::new(address, length).ok());
        return network.map_or(Holds::Unknown, |network| is(network.contains(&address)));
    }
    if let Some([low, high]) = wanted["range"].as_array().map(Vec::as_slice) {
        return match (parse(low), parse(high)) {
            (Some(low), Some(high)) => is((low..=high).contains(&address)),
            _ => Holds::Unknown,
        };
    }
    parse(wanted).map_or(Holds::Unknown, |wanted| is(wanted == address))
}
