//! Settings of the kernel's network that decide what becomes of steered packets.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::datapath::host::ArpIgnore;

/// Examines the settings for the interface `name`, of which `count` are examined.
pub fn examine(name: &str, count: usize) -> Vec<Finding> {
    let ipv4 = |setting: &str| {
        let read = |interface: &str| number("ipv4", interface, setting);
        (read("all"), read(name))
    };
    let mut findings = vec![
        reverse_path(name, ipv4("rp_filter"), count),
        arp(name, ipv4("arp_ignore"), ipv4("proxy_arp")),
    ];
    findings.push(ipv6(number("ipv6", name, "disable_ipv6")));
    findings
}

/// Examines the interfaces that balancer isn't attached to, of those called `names`. `attach` has seen to those that were
/// there then.
pub fn others<'a>(names: impl Iterator<Item = &'a str>, attached: bool) -> Finding {
    let answering: Vec<_> = names
        .filter_map(|name| Some((name, ArpIgnore::needed(name)?)))
        .collect();
    let Some((_, ArpIgnore { whose, value })) = answering.first() else {
        return Finding::ok("other links", "ARP tells nothing of peers' addresses there");
    };
    let names: Vec<_> = answering.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    if !attached {
        return Finding::ok(
            "other links",
            format!("{names}: `attach` keeps ARP there from telling of peers' addresses"),
        );
    }
    Finding::warn(
        "other links",
        format!(
            "{names}: ARP answers for peers' addresses there, and clients on that link go astray"
        ),
        format!("sysctl -w net.ipv4.conf.{whose}.arp_ignore={value}"),
    )
}

/// What a bridge sends on goes through netfilter's rules for IP, too.
pub fn bridge_netfilter() -> Option<Finding> {
    let on: Vec<_> = ["iptables", "ip6tables", "arptables"]
        .iter()
        .map(|table| format!("net.bridge.bridge-nf-call-{table}"))
        .filter(|setting| read(&setting.replace('.', "/")) == Some(1))
        .collect();
    let first = on.first()?;
    Some(Finding::warn(
        "bridge filter",
        format!(
            "{}: netfilter sees what the bridge switches, and may drop what is steered",
            on.join(", ")
        ),
        format!("sysctl -w {first}=0"),
    ))
}

/// The kernel takes the stricter one of an interface's value and that for all (`IN_DEV_MAXCONF`).
fn reverse_path(name: &str, (all, own): (Option<u32>, Option<u32>), count: usize) -> Finding {
    let strict = all.max(own) == Some(1);
    if strict && count > 1 {
        return Finding::warn(
            "rp_filter",
            "1, strict: drops steered packets of clients that are reached by another interface",
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        );
    }
    Finding::ok(
        "rp_filter",
        if strict {
            "1, strict: clients must be reached by this interface"
        } else {
            "not strict"
        },
    )
}

fn arp(
    name: &str,
    ignore: (Option<u32>, Option<u32>),
    proxy: (Option<u32>, Option<u32>),
) -> Finding {
    // 0 to 3 answer for the interface's own addresses; `attach` sets 1.
    if ignore.0.max(ignore.1) > Some(3) {
        let who = if ignore.0 > Some(3) { "all" } else { name };
        return Finding::bad(
            "ARP",
            "arp_ignore keeps this host from answering for its own addresses",
            format!("sysctl -w net.ipv4.conf.{who}.arp_ignore=0"),
        );
    }
    if proxy.0.max(proxy.1) == Some(1) {
        let who = if proxy.0 == Some(1) { "all" } else { name };
        return Finding::warn(
            "ARP",
            "proxy_arp answers for others' addresses: clients of other servers may end up here",
            format!("sysctl -w net.ipv4.conf.{who}.proxy_arp=0"),
        );
    }
    Finding::ok("ARP", "answers for its own addresses")
}

fn ipv6(disabled: Option<u32>) -> Finding {
    Finding::ok(
        "IPv6",
        match disabled {
            Some(0) => "on",
            _ => "off: only IPv4 is balanced",
        },
    )
}

/// A setting of an interface in this thread's network namespace.
fn number(family: &str, interface: &str, setting: &str) -> Option<u32> {
    // An interface's name may have dots, which are no separators here.
    read(&format!("net/{family}/conf/{interface}/{setting}"))
}

fn read(setting: &str) -> Option<u32> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(setting)).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_stricter_value_counts() {
        let state = |all, own, count| reverse_path("eth0", (Some(all), Some(own)), count).state;
        assert_eq!(state(0, 0, 2), State::Ok);
        assert_eq!(state(1, 0, 2), State::Warn);
        assert_eq!(state(0, 1, 2), State::Warn);
        assert_eq!(state(1, 2, 2), State::Ok);
        assert_eq!(state(1, 1, 1), State::Ok);
    }

    #[test]
    fn arp_answers_for_this_host_alone() {
        let judge = |ignore, proxy| arp("eth0", ignore, proxy);
        let off = (Some(0), Some(0));
        assert_eq!(judge(off, off).state, State::Ok);
        assert_eq!(judge((Some(1), Some(2)), off).state, State::Ok);
        let deaf = judge((Some(0), Some(8)), off);
        assert_eq!(deaf.state, State::Bad);
        assert_eq!(
            deaf.cure.as_deref(),
            Some("sysctl -w net.ipv4.conf.eth0.arp_ignore=0")
        );
        let proxy = judge(off, (Some(1), Some(0)));
        assert_eq!(proxy.state, State::Warn);
        assert_eq!(
            proxy.cure.as_deref(),
            Some("sysctl -w net.ipv4.conf.all.proxy_arp=0")
        );
    }

    #[test]
    fn settings_are_read() {
        assert!(number("ipv4", "lo", "rp_filter").is_some());
        assert_eq!(number("ipv4", "no-such-interface", "rp_filter"), None);
    }
}
