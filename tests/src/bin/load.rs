//! An open-loop load of new HTTP connections.
//!
//! Requests set out at times fixed beforehand (a Poisson process, the same in each run), whether or not earlier ones have
//! been answered, and their latencies count from those times: a server that stalls can't slow its own load down, nor hide
//! the wait. One connection a request, and the time to connect counts.
//!
//! Prints one line of JSON at the end and, with `--live`, one each second before.
#![expect(
    clippy::disallowed_methods,
    reason = "reading the clock is a load generator's work"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Sends requests to an HTTP server at a given rate, each on a connection of its own.
#[derive(Parser)]
struct Arguments {
    /// Where to, such as <http://10.77.0.101/work>; of several, each in turn
    #[arg(required = true)]
    url: Vec<String>,
    /// Requests a second, on average
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    rate: f64,
    /// Requests in all
    #[arg(long, default_value_t = 100)]
    count: u32,
    /// A request that isn't answered completely within this many seconds has failed
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Print how far things are each second, too
    #[arg(long)]
    live: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut targets = Vec::new();
    for url in &arguments.url {
        targets.push(Target::resolve(url).await?);
    }
    let mut targets = targets.iter().cycle();
    let limit = Duration::from_secs(arguments.timeout);

    let mut departures = depart(arguments.rate, arguments.count);
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;

    let mut tally = Tally::default();
    let mut second = 0;
    while tally.finished() < arguments.count {
        tokio::select! {
            Some(departure) = departures.recv() => {
                tally.sent += 1;
                let Some(target) = targets.next().cloned() else { continue };
                let sender = sender.clone();
                tokio::spawn(async move {
                    let answer = timeout(limit, target.request(departure))
                        .await
                        .unwrap_or_else(|_| Err("timed out".into()));
                    // Nobody listens any more only when main is over.
                    let _ = sender.send(answer);
                });
            }
            Some(answer) = outcomes.recv() => tally.add(answer),
            _ = ticks.tick(), if arguments.live => {
                second += 1;
                println!("{}", tally.progress(second));
            }
        }
    }
    println!("{}", tally.summary());
    Ok(())
}

/// What became of the requests so far.
#[derive(Default)]
struct Tally {
    sent: u32,
    /// Answered completely and well, by the name that the server gives in `X-Server`.
    served: BTreeMap<String, u32>,
    /// By what went wrong.
    failed: BTreeMap<String, u32>,
    connect: Vec<Duration>,
    first_byte: Vec<Duration>,
}

/// A good answer.
struct Answer {
    server: String,
    /// From the intended departure to the established connection.
    connect: Duration,
    /// From the intended departure to the answer's first byte.
    first_byte: Duration,
}

impl Tally {
    fn add(&mut self, answer: Result<Answer, String>) {
        match answer {
            Ok(answer) => {
                *self.served.entry(answer.server).or_default() += 1;
                self.connect.push(answer.connect);
                self.first_byte.push(answer.first_byte);
            }
            Err(reason) => *self.failed.entry(reason).or_default() += 1,
        }
    }

    fn finished(&self) -> u32 {
        self.served.values().sum::<u32>() + self.failed.values().sum::<u32>()
    }

    fn progress(&self, second: u32) -> Value {
        json!({
            "second": second,
            "sent": self.sent,
            "open": self.sent - self.finished(),
            "served": self.served,
            "failed": self.failed,
        })
    }

    fn summary(mut self) -> Value {
        json!({
            "sent": self.sent,
            "served": self.served,
            "failed": self.failed,
            "connect_ms": distribution(&mut self.connect),
            "first_byte_ms": distribution(&mut self.first_byte),
        })
    }
}

/// An HTTP URL, taken apart.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

impl Target {
    async fn resolve(url: &str) -> Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("'{url}' doesn't start with http://");
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = if host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let address = tokio::net::lookup_host(&address)
            .await
            .with_context(|| {
                format!("'{host}' in '{url}' is no host with a port that can be resolved")
            })?
            .next()
            .with_context(|| format!("'{host}' in '{url}' has no address"))?;
        Ok(Self {
            address,
            host: host.to_owned(),
            path: format!("/{path}"),
        })
    }

    /// One request on a connection of its own. The error is a word or two to count it under.
    async fn request(&self, departure: Instant) -> Result<Answer, String> {
        let mut stream = TcpStream::connect(self.address)
            .await
            .map_err(|e| reason(&e))?;
        let connect = departure.elapsed();
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path, self.host
        );
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|e| reason(&e))?;

        let mut bytes = Vec::new();
        stream.read_buf(&mut bytes).await.map_err(|e| reason(&e))?;
        let first_byte = departure.elapsed();
        stream
            .read_to_end(&mut bytes)
            .await
            .map_err(|e| reason(&e))?;

        Ok(Answer {
            server: served_by(&bytes)?,
            connect,
            first_byte,
        })
    }
}

/// Sends each request's intended departure at that time.
fn depart(rate: f64, count: u32) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // tokio's timers may be a millisecond late, many times what a connection takes on a link; a thread's sleep isn't.
    thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(1);
        let mut departure = Instant::now();
        for _ in 0..count {
            departure += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
            thread::sleep(departure.saturating_duration_since(Instant::now()));
            if sender.send(departure).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The name of the server that gave a complete answer with status 200.
fn served_by(answer: &[u8]) -> Result<String, String> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = answer.windows(END.len()).position(|window| window == END) else {
        return Err(if answer.is_empty() {
            "closed early"
        } else {
            "cut short"
        }
        .into());
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or("no HTTP");
    if status != "200" {
        return Err(status.to_owned());
    }

    let mut server = "unnamed";
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("X-Server") {
            server = value;
        } else if name.eq_ignore_ascii_case("Content-Length")
            && value.parse() != Ok(answer.len() - end - END.len())
        {
            return Err("cut short".into());
        }
    }
    Ok(server.to_owned())
}

fn reason(error: &io::Error) -> String {
    error.kind().to_string()
}

/// Percentiles in milliseconds; null where nothing was measured.
fn distribution(samples: &mut [Duration]) -> Value {
    samples.sort_unstable();
    let at = |percent: usize| {
        let rank = (samples.len() * percent).div_ceil(100).max(1);
        samples
            .get(rank - 1)
            .map(|sample| sample.as_secs_f64() * 1e3)
    };
    json!({ "p50": at(50), "p99": at(99), "max": at(100) })
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.001..=100_000.0).contains(rate))
        .ok_or_else(|| "not a number from 0.001 to 100000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_complete_answer_is_named() {
        let answer = b"HTTP/1.1 200 OK\r\nx-server: web2\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(served_by(answer), Ok("web2".into()));
    }

    #[test]
    fn other_answers_are_counted_by_what_is_wrong() {
        for (answer, reason) in [
            ("", "closed early"),
            ("HTTP/1.1 200 OK\r\nX-Serv", "cut short"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
                "cut short",
            ),
            ("HTTP/1.1 503 Busy\r\n\r\n", "503"),
            ("what?\r\n\r\n", "no HTTP"),
        ] {
            assert_eq!(
                served_by(answer.as_bytes()),
                Err(reason.into()),
                "{answer:?}"
            );
        }
    }

    #[test]
    fn percentiles_are_of_the_samples() {
        let mut samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(
            distribution(&mut samples),
            json!({ "p50": 100.0, "p99": 198.0, "max": 200.0 })
        );
        assert_eq!(
            distribution(&mut []),
            json!({ "p50": null, "p99": null, "max": null })
        );
    }
}
