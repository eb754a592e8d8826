//! What the exchange with the other servers needs: key, port, clock, a firewall that lets it through; and what the daemon says.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::firewall::{self, Report};
use super::{Finding, Options};
use crate::config::{Conversation, InterfaceName};
use crate::control::status::Status;
use crate::datapath::interface::Interface;
use crate::exchange::{Key, KeyError, clock};

/// 56 years since 1970, which is the end of 2025: no clock that was ever set is behind it.
const PAST: Duration = Duration::from_hours(56 * 365 * 24);

/// Examines what the cluster needs of this server, whose `daemon` runs or not.
pub async fn examine(
    options: &Options,
    daemon: Option<&Status>,
    interfaces: &[String],
) -> Vec<Finding> {
    let exchange = &options.config.exchange;
    let mut findings = vec![running(daemon, &options.pin_dir)];
    findings.extend(daemon.map(peers));
    findings.extend(exchange.keys.iter().map(|path| key(path)));
    let to = match &exchange.conversation {
        Conversation::Group(group) => *group,
        Conversation::Peers(peers) => peers[0],
    };
    if daemon.is_none() {
        let table = if to.is_ipv4() { "udp" } else { "udp6" };
        let sockets = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        findings.push(port(to.port(), &sockets));
    }
    let name = exchange.interface.as_ref().map(InterfaceName::as_str);
    if let Some(name) = name.or(interfaces.first().map(String::as_str)) {
        let addresses = Interface::find(name).await.map(|found| found.addresses);
        let from = addresses
            .unwrap_or_default()
            .iter()
            .map(ipnet::IpNet::addr)
            .find(|address| address.is_ipv4() == to.is_ipv4());
        findings.push(family(to, from, name));
        let report = Report {
            interface: name,
            to: to.ip(),
            port: to.port(),
            from,
        };
        findings.extend(firewall::examine(&report).await);
    }
    findings.push(time(clock::time_of_day()));
    findings
}

fn running(daemon: Option<&Status>, pin_dir: &Path) -> Finding {
    match daemon {
        Some(status) if status.warnings.is_empty() => Finding::ok(
            "daemon",
            format!("{} runs, process {}", status.name, status.pid),
        ),
        Some(status) => Finding::warn(
            "daemon",
            format!(
                "{} runs, and warns: {}",
                status.name,
                status.warnings.join("; ")
            ),
            "balancer status",
        ),
        None if pin_dir.join("PEERS").exists() => Finding::warn(
            "daemon",
            "none, though its programs are attached: every new connection stays on its server",
            "balancer attach IFACE",
        ),
        None => Finding::ok("daemon", "none yet"),
    }
}

fn peers(status: &Status) -> Finding {
    let online = status
        .peers
        .iter()
        .filter(|peer| peer.status == crate::cluster::Status::Online)
        .count();
    if online > 0 {
        return Finding::ok(
            "peers",
            format!("{online} of {} on-line", status.peers.len()),
        );
    }
    let counted = |name: &str| status.exchange.get(name).copied().unwrap_or(0);
    let sealed = counted("bad_seal");
    if sealed > 0 {
        return Finding::warn(
            "peers",
            format!(
                "none, but {sealed} datagrams under another key: the servers need the same key file"
            ),
            "sha256sum /etc/balancer/cluster.key # on each server",
        );
    }
    Finding::warn(
        "peers",
        "none on-line: the only server, or a switch or firewall keeps the reports back",
        "balancer doctor # on the other servers",
    )
}

fn key(path: &Path) -> Finding {
    match Key::load(path) {
        Ok(_) => Finding::ok("key", format!("{}, its owner's alone", path.display())),
        Err(KeyError::Missing(path)) => Finding::warn(
            "key",
            format!(
                "no {}: `attach` makes one, which the other servers don't have",
                path.display()
            ),
            format!("balancer keygen {}", path.display()),
        ),
        Err(KeyError::Exposed { path, mode }) => Finding::bad(
            "key",
            format!(
                "{} has mode {mode:04o}: others than its owner may use it",
                path.display()
            ),
            format!("chmod 600 {}", path.display()),
        ),
        Err(error) => Finding::bad(
            "key",
            error.to_string(),
            format!("ls -l {}", path.display()),
        ),
    }
}

/// `sockets`: the kernel's table of UDP sockets (`/proc/net/udp`), whose second column is `ADDRESS:PORT` in hexadecimal.
fn port(port: u16, sockets: &str) -> Finding {
    let wanted = format!(":{port:04X}");
    let taken = sockets.lines().skip(1).any(|line| {
        line.split_whitespace()
            .nth(1)
            .is_some_and(|local| local.ends_with(&wanted))
    });
    if taken {
        Finding::bad(
            "port",
            format!(
                "{port}/udp is in use here, perhaps by another balancer of this network namespace"
            ),
            format!("ss -ulpn 'sport = {port}'"),
        )
    } else {
        Finding::ok("port", format!("{port}/udp is free"))
    }
}

fn family(to: SocketAddr, from: Option<IpAddr>, interface: &str) -> Finding {
    let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
    match from {
        Some(from) => Finding::ok("reports", format!("from {from} to {to} on {interface}")),
        None => Finding::bad(
            "reports",
            format!("go to {to}, but {interface} has no {family} address"),
            format!("ip address add ADDR/LEN dev {interface}"),
        ),
    }
}

/// Certificates are checked by the time of day; the exchange does without.
fn time(now: Duration) -> Finding {
    if now < PAST {
        Finding::warn(
            "clock",
            "years behind: checks over TLS fail, as no certificate is valid yet",
            "timedatectl set-ntp true # or: date -s ...",
        )
    } else {
        Finding::ok("clock", "plausible; the exchange goes by none")
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_port_in_use_is_seen() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            1190: 00000000:26BE 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 63 2 0\n";
        assert_eq!(port(9918, table).state, State::Bad);
        assert_eq!(port(9919, table).state, State::Ok);
        assert_eq!(port(9918, "").state, State::Ok);
    }

    #[test]
    fn clocks_are_judged() {
        assert_eq!(time(PAST).state, State::Ok);
        assert_eq!(time(Duration::ZERO).state, State::Warn);
    }

    #[test]
    fn keys_are_judged() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let missing = key(&path);
        assert_eq!(missing.state, State::Warn);
        assert_eq!(
            missing.cure,
            Some(format!("balancer keygen {}", path.display()))
        );
        Key::generate_file(&path).unwrap();
        assert_eq!(key(&path).state, State::Ok);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = key(&path);
        assert_eq!(open.state, State::Bad);
        assert_eq!(open.cure, Some(format!("chmod 600 {}", path.display())));
    }
}
