//! `balancer trace`.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use balancer_common::types::{Event, KEPT, Reason};
use balancer_common::wire::UDP;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::table::percent;
use super::{Instance, PeerNames, block_on};
use crate::control::Request;
use crate::control::status::Status;
use crate::datapath::attached_program;
use crate::datapath::maps::Maps;
use crate::datapath::trace::{Events, TOLD_FOR};
use crate::exchange::clock;

/// The decisions on new connections, one a line, as they are taken; until Ctrl-C
///
/// Costs the server a little for each decision while it runs, nothing afterwards. Times are UTC. One trace at a time.
#[derive(Args)]
pub struct Trace {
    /// Only those of this client, or of clients in this network
    #[arg(long, value_name = "ADDR[/LEN]", value_parser = network)]
    client: Option<IpNet>,
    /// Only those on this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only those with this verdict; may be given several times
    #[arg(long = "verdict", value_enum, value_name = "VERDICT")]
    verdicts: Vec<Verdict>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// This server keeps the connection.
    Keep,
    /// A peer gets it.
    Steer,
    /// A peer steered it here.
    Guest,
    /// Its peer is dead: back to this server, which resets it.
    FallenBack,
}

/// A decision, in words.
#[derive(Serialize)]
struct Decision {
    /// Milliseconds since the beginning of 1970.
    time_ms: u64,
    verdict: Verdict,
    reason: &'static str,
    protocol: &'static str,
    client: SocketAddr,
    destination: SocketAddr,
    service: String,
    /// Own load (S202), in basis points.
    load: u32,
    /// Who gets it, if it is steered.
    peer: Option<String>,
}

/// What is asked of the daemon and the maps from time to time.
struct Names {
    services: Vec<String>,
    peers: PeerNames,
}

impl Trace {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        block_on(self.follow(instance))
    }

    async fn follow(&self, instance: &Instance) -> Result<()> {
        let maps = Maps::open(&instance.pin_dir)?;
        let mut names = Names::of(instance.status()?);
        if let Some(service) = &self.service
            && !names.services.contains(service)
        {
            bail!(
                "there is no service {service:?} here; there are: {}",
                names.services.join(", ")
            );
        }
        let program = attached_program(&instance.pin_dir)?;
        let mut events = Events::open(&instance.pin_dir, &program)?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        // Midnight of 1970 by the clock that decisions have.
        let epoch = clock::time_of_day().saturating_sub(Duration::from_nanos(clock::monotonic().0));
        let before = untold(&maps, names.services.len())?;
        let mut seen = BTreeMap::new();
        let mut renewal = interval(TOLD_FOR / 2);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = renewal.tick() => {
                    instance.command(&Request::Trace)?;
                    names = Names::of(instance.status()?);
                }
                read = events.read(|event| {
                    let decision = decision(event, epoch, &names, &maps)?;
                    if self.wants(&decision) {
                        *seen.entry(decision.verdict).or_insert(0) += 1;
                        self.print(&decision)?;
                    }
                    Ok(())
                }) => read?,
            }
        }
        let lost = untold(&maps, names.services.len())?.saturating_sub(before);
        eprintln!("{}", summary(&seen, lost));
        Ok(())
    }

    fn wants(&self, decision: &Decision) -> bool {
        let client = self
            .client
            .is_none_or(|network| network.contains(&decision.client.ip()));
        let service = self
            .service
            .as_ref()
            .is_none_or(|name| *name == decision.service);
        let verdict = self.verdicts.is_empty() || self.verdicts.contains(&decision.verdict);
        client && service && verdict
    }

    fn print(&self, decision: &Decision) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(decision)?)?;
        } else {
            writeln!(out, "{}", line(decision))?;
        }
        Ok(out.flush()?)
    }
}

impl Names {
    fn of(status: Status) -> Self {
        Self {
            services: status
                .services
                .into_iter()
                .map(|service| service.name)
                .collect(),
            peers: PeerNames::of_peers(status.peers),
        }
    }
}

/// An address stands for itself alone.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse())
        .map_err(|_| "write an address or a network, as in 192.0.2.7 or 192.0.2.0/24".to_owned())
}

/// `epoch`: the beginning of 1970, before the beginning of the monotonic clock.
fn decision(event: &Event, epoch: Duration, names: &Names, maps: &Maps) -> Result<Decision> {
    let reason = Reason::from_number(event.reason);
    let peer = match event.peer {
        KEPT => None,
        slot => Some(names.peers.of(maps.peers.get(&slot, 0)?.id)),
    };
    let verdict = match reason {
        Reason::GUEST => Verdict::Guest,
        Reason::FALLEN_BACK => Verdict::FallenBack,
        _ if peer.is_some() => Verdict::Steer,
        _ => Verdict::Keep,
    };
    let flow = &event.flow;
    let service = names.services.get(event.service as usize);
    Ok(Decision {
        time_ms: (epoch + Duration::from_nanos(event.time_ns)).as_millis() as u64,
        verdict,
        reason: reason.name(),
        protocol: if flow.protocol == u32::from(UDP) {
            "udp"
        } else {
            "tcp"
        },
        client: SocketAddr::new(IpAddr::from(flow.client), flow.client_port),
        destination: SocketAddr::new(IpAddr::from(flow.identity), flow.port),
        service: service
            .cloned()
            .unwrap_or_else(|| event.service.to_string()),
        load: event.load,
        peer,
    })
}

fn line(decision: &Decision) -> String {
    let verdict = match (decision.verdict, &decision.peer) {
        (Verdict::Steer, Some(peer)) => format!("steer to {peer}"),
        (Verdict::Steer | Verdict::Keep, _) => "keep".to_owned(),
        (Verdict::Guest, _) => "guest".to_owned(),
        (Verdict::FallenBack, _) => "fallen back".to_owned(),
    };
    format!(
        "{}  {verdict:<16}  {} {:<21} -> {:<21}  {:<8}  load {:>7}  {}",
        time_of_day(decision.time_ms),
        decision.protocol,
        decision.client.to_string(),
        decision.destination.to_string(),
        decision.service,
        percent(decision.load),
        decision.reason.replace('_', " "),
    )
}

/// As in `14:03:07.125`, UTC.
fn time_of_day(time_ms: u64) -> String {
    let seconds = time_ms / 1_000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        time_ms % 1_000
    )
}

/// Decisions so far that nobody could be told of, since the ring buffer was full.
fn untold(maps: &Maps, services: usize) -> Result<u64> {
    let mut sum = 0;
    for index in 0..services as u32 {
        sum += maps.counters(Some(index))?.untold;
    }
    Ok(sum)
}

fn summary(seen: &BTreeMap<Verdict, u64>, lost: u64) -> String {
    let total: u64 = seen.values().sum();
    let parts: Vec<_> = seen
        .iter()
        .map(|(verdict, count)| {
            let value = verdict.to_possible_value();
            let name = value.as_ref().map_or("?", |value| value.get_name());
            format!("{name} {count}")
        })
        .collect();
    let mut text = format!("{total} decisions");
    if !parts.is_empty() {
        text += &format!(": {}", parts.join(", "));
    }
    if lost > 0 {
        text += &format!(
            "; {lost} more came too fast to be told, of whatever client, service and verdict"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        trace: Trace,
    }

    fn trace(arguments: &[&str]) -> Trace {
        Line::parse_from([&["trace"], arguments].concat()).trace
    }

    fn steered() -> Decision {
        Decision {
            time_ms: 50_587_125,
            verdict: Verdict::Steer,
            reason: "steered_new",
            protocol: "tcp",
            client: "192.0.2.7:40000".parse().unwrap(),
            destination: "10.0.0.101:80".parse().unwrap(),
            service: "www".into(),
            load: 6_200,
            peer: Some("web2".into()),
        }
    }

    #[test]
    fn filters_let_through_what_they_name() {
        let all = [
            &[][..],
            &["--client", "192.0.2.7"],
            &["--client", "192.0.2.0/24", "--service", "www"],
            &["--verdict", "keep", "--verdict", "steer"],
        ];
        for arguments in all {
            assert!(trace(arguments).wants(&steered()), "{arguments:?}");
        }
        for arguments in [
            ["--client", "192.0.2.8"],
            ["--client", "2001:db8::/32"],
            ["--service", "mail"],
            ["--verdict", "guest"],
        ] {
            assert!(!trace(&arguments).wants(&steered()), "{arguments:?}");
        }
        assert!(Line::try_parse_from(["trace", "--client", "web1"]).is_err());
    }

    #[test]
    fn a_line_says_it_all() {
        assert_eq!(
            line(&steered()),
            "14:03:07.125  steer to web2     tcp 192.0.2.7:40000       -> 10.0.0.101:80          www       load  62.0 %  steered new"
        );
    }

    #[test]
    fn what_was_lost_is_said() {
        let seen = BTreeMap::from([(Verdict::Keep, 2), (Verdict::FallenBack, 1)]);
        assert_eq!(summary(&seen, 0), "3 decisions: keep 2, fallen-back 1");
        assert!(summary(&BTreeMap::new(), 9).starts_with("0 decisions; 9 more"));
    }
}
