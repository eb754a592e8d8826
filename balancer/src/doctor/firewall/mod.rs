//! Whether a firewall drops the exchange's packets: the host's nftables rules, walked through for such a packet.
//!
//! What a rule asks for that isn't known beforehand (who sends it, rates, marks) doesn't match here; if such a rule would
//! let the packet through, the answer is 'perhaps'.

mod condition;
#[cfg(test)]
mod tests;
mod walk;

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use self::walk::{Fate, fate};
use super::Finding;

/// `nft` takes milliseconds, but may have thousands of rules to list.
const PATIENCE: Duration = Duration::from_secs(10);

/// A report on its way.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The interface that it uses.
    pub interface: &'a str,
    /// The group, or the receiver's address.
    pub to: IpAddr,
    /// The exchange's port, at both ends.
    pub port: u16,
    /// A server's address, from the network of the interface.
    pub from: Option<IpAddr>,
}

/// Where a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Examines the firewall for `report`, in both directions.
pub async fn examine(report: &Report<'_>) -> Vec<Finding> {
    let mut findings = match ruleset().await {
        Ok(rules) => vec![
            judge(report, Way::In, &rules),
            judge(report, Way::Out, &rules),
        ],
        Err(why) => vec![Finding::warn(
            "firewall",
            format!(
                "{why}: can't tell whether it lets {}/udp through",
                report.port
            ),
            "apt install nftables; nft list ruleset",
        )],
    };
    let legacy = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .any(|path| {
            std::fs::read_to_string(path)
                .is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
        });
    if legacy {
        findings.push(Finding::warn(
            "iptables",
            format!(
                "rules of the old kind are in use, which aren't examined: see that {}/udp is accepted",
                report.port
            ),
            "iptables-legacy -S; ip6tables-legacy -S",
        ));
    }
    findings
}

async fn ruleset() -> Result<Vec<Value>, String> {
    let nft = Command::new("nft")
        .args(["--json", "list", "ruleset"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, nft).await {
        Err(_) => return Err("nft doesn't end".to_owned()),
        Ok(Err(error)) => return Err(format!("cannot run nft ({error})")),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "nft: {}",
            error.lines().next().unwrap_or("failed").trim()
        ));
    }
    let mut ruleset: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("nft: {error}"))?;
    match ruleset["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Err("nft prints something else than a ruleset".to_owned()),
    }
}

fn judge(report: &Report, way: Way, objects: &[Value]) -> Finding {
    let (check, direction, hook) = match way {
        Way::In => ("firewall, in", "from peers", "input"),
        Way::Out => ("firewall, out", "to peers", "output"),
    };
    let port = report.port;
    let cure = |chain: &str| {
        let mut words = chain.split(' ');
        let (family, table) = (words.next(), words.next());
        let chain = words.next().unwrap_or(hook);
        format!(
            "nft insert rule {} {} {chain} udp dport {port} accept",
            family.unwrap_or("inet"),
            table.unwrap_or("filter")
        )
    };
    match fate(report, way, objects) {
        Fate::Passes => Finding::ok(check, format!("{port}/udp {direction} passes")),
        Fate::Perhaps(chain) => Finding::warn(
            check,
            format!(
                "{port}/udp {direction} is dropped by `{chain}`, unless by rules that depend on more than is known here"
            ),
            cure(&chain),
        ),
        Fate::Dropped(chain) => Finding::bad(
            check,
            format!(
                "{port}/udp {direction} is dropped by `{chain}`: servers don't hear of each other"
            ),
            cure(&chain),
        ),
    }
}
