//! What is done to the first server, and what a client sees of it.

use std::thread::sleep;
use std::time::Duration;

use balancer_tests::{Signal, until};

use crate::client::{Client, Seen};
use crate::cluster::{Cluster, FIRST, System};

/// Something that happens to the first server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is to take no new connections for some time: `balancer drain`, for which keepalived has nothing.
    Drained,
    /// Its daemon is stopped (SIGSTOP) for 5 s.
    Stopped,
    /// For 5 s its daemon runs an eighth of the time, and is silent for longer than the time-out again and again.
    Slow,
    /// Its daemon is killed (SIGKILL), and started again after the time-out.
    Killed,
    /// Its daemon is replaced by another copy of the program.
    Replaced,
    /// Its link is down, as if the host were dead.
    Dead,
    /// Its link is up again.
    Back,
    /// Its daemon ends in good order (SIGTERM).
    Ended,
    /// Its daemon is started again.
    Started,
}

/// What one fault led to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub seen: Seen,
    /// Another server had the address, before the first one was well again.
    pub taken: bool,
}

/// How long a daemon is stopped, or slow.
const STOPPED: Duration = Duration::from_secs(5);
/// How long a client looks at what is well, before and after.
const CALM: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

impl Fault {
    /// What becomes of a host, in this order.
    pub const OF_HOSTS: [Self; 4] = [Self::Dead, Self::Back, Self::Ended, Self::Started];
    /// What becomes of a daemon while its host lives.
    pub const OF_DAEMONS: [Self; 5] = [
        Self::Drained,
        Self::Stopped,
        Self::Slow,
        Self::Killed,
        Self::Replaced,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Drained => "server drained",
            Self::Stopped => "daemon stopped for 5 s",
            Self::Slow => "daemon slow for 5 s",
            Self::Killed => "daemon killed, restarted",
            Self::Replaced => "daemon replaced",
            Self::Dead => "host dead",
            Self::Back => "host is back",
            Self::Ended => "daemon ends",
            Self::Started => "daemon is back",
        }
    }

    /// The longest gap that balancer may leave.
    pub fn target(self, interval: Duration) -> Duration {
        Duration::from_millis(match (self, interval.as_millis()) {
            (Self::Dead, 500) => 1_700,
            (Self::Dead, 100) => 350,
            (Self::Dead, _) => 40,
            _ => 20,
        })
    }

    /// Whether a system has something for it.
    pub fn is_of(self, system: System) -> bool {
        self != Self::Drained || system == System::Balancer
    }

    /// Makes it happen, and looks on.
    pub fn happen(self, cluster: &mut Cluster, interval: Duration) -> Outcome {
        cluster.forget_connections();
        let client = Client::start(&cluster.lab().client, Cluster::address());
        sleep(CALM);
        let mut taken = false;
        match self {
            Self::Drained => {
                cluster.drain_first();
                sleep(time_out(interval));
            }
            Self::Slow => taken = slow(cluster, interval),
            Self::Stopped => {
                cluster.signal_first(Signal::SIGSTOP);
                sleep(STOPPED);
            }
            Self::Killed => {
                cluster.kill_first();
                sleep(time_out(interval));
            }
            Self::Replaced => cluster.replace_first(),
            Self::Dead => cluster.cut(),
            Self::Back => cluster.mend(),
            Self::Ended => cluster.end_first(),
            Self::Started => cluster.start_first(false),
        }
        if matches!(self, Self::Dead | Self::Ended) {
            sleep(time_out(interval));
        }
        taken |= !matches!(self, Self::Back | Self::Started) && cluster.is_taken();
        match self {
            Self::Drained => cluster.undrain_first(),
            Self::Stopped => cluster.signal_first(Signal::SIGCONT),
            Self::Killed => cluster.start_first(true),
            _ => {}
        }
        if !matches!(self, Self::Dead | Self::Ended) {
            cluster.wait();
        }
        until("clients are answered", PATIENCE, || {
            client.silent_for() < Duration::from_millis(50)
        });
        sleep(CALM);
        let seen = client.finish(FIRST);
        Outcome { seen, taken }
    }
}

/// Stops the daemon and lets it go on, again and again. Gives whether another server had the address at the end of a silence.
fn slow(cluster: &Cluster, interval: Duration) -> bool {
    let (silence, speech) = (interval * 7 / 2, interval / 2);
    let mut taken = false;
    for _ in 0..STOPPED.as_millis() / (silence + speech).as_millis() {
        cluster.signal_first(Signal::SIGSTOP);
        sleep(silence);
        taken |= cluster.is_taken();
        cluster.signal_first(Signal::SIGCONT);
        sleep(speech);
    }
    taken
}

/// Longer than either system takes to notice a silence.
fn time_out(interval: Duration) -> Duration {
    interval * 4 + CALM
}
