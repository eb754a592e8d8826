//! The content-aware module: it listens on the ports of services that have an `[[http]]`, and their requests are routed one by
//! one.
//!
//! The way of a request: `listener` -> `worker` (a thread for each CPU) -> `connection` (PROXY protocol, TLS) -> `speaking`
//! (HTTP/1.1 or HTTP/2) -> `request` -> `send` -> the local web server (`pool`, `link`) or a peer's module, and its answer back (`body`).
//!
//! `target` says what a request asks for, whatever way it is written; `route` decides who answers it, from a `view` of the
//! cluster that it is given. Neither has a clock, a socket or a random source.

mod body;
pub mod certificates;
mod choice;
mod connection;
pub mod explain;
mod forwarded;
mod handoff;
mod head;
mod hop;
mod link;
mod listener;
mod pool;
mod proxy_protocol;
mod request;
pub mod route;
mod rules;
mod send;
mod site;
mod speaking;
mod stream;
mod tally;
pub mod target;
pub mod ticket;
mod tls;
mod upgrade;
pub mod view;
mod watch;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

pub use self::handoff::{Move, Moved, Origin};
use self::handoff::{Moves, director};
pub use self::site::Plan;
use self::site::Service;
use self::view::View;
use self::worker::Worker;
use crate::config::{Config, Name};
use crate::exchange::Keyring;

/// How often it is looked whether all connections are over.
const SOON: Duration = Duration::from_millis(20);

/// The services with an `[[http]]`, being served. They end when it is dropped.
pub struct Module {
    services: Vec<Arc<Service>>,
    finishing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    end: Sender<Option<Duration>>,
    moves: Moves,
}

impl Module {
    /// Listens on the ports of all services with an `[[http]]`, and serves them.
    ///
    /// # Errors
    ///
    /// A port is taken, or a certificate can't be used.
    pub fn start(config: &Config, keyring: &Keyring) -> Result<Self> {
        let (end, ended) = channel(None);
        let finishing = Arc::new(AtomicBool::new(false));
        let (director, moves) = director();
        let mut module = Self {
            services: Vec::new(),
            finishing,
            threads: Vec::new(),
            end,
            moves,
        };
        if config.http.is_empty() {
            return Ok(module);
        }
        allow_many_files();
        let count = std::thread::available_parallelism().map_or(1, Into::into);
        let mut shares: Vec<Share> = std::iter::repeat_with(Vec::new).take(count).collect();
        for (service, ports) in Plan::new(config, keyring)?.services(config, count, &director) {
            for port in ports {
                let listeners = listener::bind(port, count, &service)?;
                for (listener, share) in listeners.into_iter().zip(&mut shares) {
                    share.push((listener, service.clone()));
                }
            }
            module.services.push(service);
        }
        for (number, share) in shares.into_iter().enumerate() {
            let worker = Arc::new(Worker::new(module.finishing.clone()));
            let ended = ended.clone();
            let (started, result) = mpsc::channel();
            let thread = std::thread::Builder::new()
                .name(format!("http {number}"))
                .spawn(move || live(worker, share, ended, &started))
                .context("cannot start a thread of the HTTP module")?;
            module.threads.push(thread);
            result.recv()?.context("cannot start the HTTP module")?;
        }
        Ok(module)
    }

    /// Goes by a new configuration, for requests that come from now on.
    pub fn reload(&self, plan: Plan) {
        plan.apply(&self.services);
    }

    /// The cluster has changed for a service.
    pub fn set_view(&self, service: &Name, view: View) {
        if let Some(service) = self.services.iter().find(|known| known.name == *service) {
            service.set_view(view);
        }
    }

    /// What became of a service's requests, by name.
    pub fn tally(&self, service: &Name) -> impl Iterator<Item = (&'static str, u64)> {
        let known = self.services.iter().find(|known| known.name == *service);
        known.into_iter().flat_map(|service| service.tally.named())
    }

    /// Which connection's packets are to get to another server.
    pub async fn next_move(&mut self) -> Move {
        self.moves.next().await
    }

    /// No connection moves any more, as the daemon takes no further question.
    pub fn end_moves(&mut self) {
        self.moves.end();
    }

    /// While it finishes, each answer is its connection's last.
    pub fn set_finishing(&self, on: bool) {
        self.finishing.store(on, Relaxed);
    }

    /// Takes no further connection, and gives requests in flight so much time.
    pub async fn end(&mut self, grace: Duration) {
        self.set_finishing(true);
        self.end.send_replace(Some(grace));
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // Its panic was told of when it happened.
                let _ = thread.join();
            }
        });
        if timeout(grace + Duration::from_secs(1), joined)
            .await
            .is_err()
        {
            log::warn!("the HTTP module doesn't end in time");
        }
    }
}

/// A worker's sockets.
type Share = Vec<(std::net::TcpListener, Arc<Service>)>;

/// A worker's life. It tells whether it could start.
fn live(
    worker: Arc<Worker>,
    share: Share,
    ended: Receiver<Option<Duration>>,
    started: &mpsc::Sender<io::Result<()>>,
) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| {
        let inside = runtime.enter();
        for (listener, service) in share {
            let listener = TcpListener::from_std(listener)?;
            runtime.spawn(worker.clone().accept(listener, service, ended.clone()));
        }
        drop(inside);
        Ok(runtime)
    });
    match result {
        Ok(runtime) => {
            // Who started it waits for this.
            let _ = started.send(Ok(()));
            runtime.block_on(work(worker, ended));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

async fn work(worker: Arc<Worker>, mut ended: Receiver<Option<Duration>>) {
    let grace = tokio::select! {
        () = worker.look_after() => None,
        // Its sender is gone when the daemon failed to start.
        grace = ended.wait_for(Option::is_some) => grace.ok().and_then(|grace| *grace),
    };
    worker.finish_all();
    let finished = async {
        while worker.count() > 0 {
            sleep(SOON).await;
        }
    };
    // What is left then is dropped with the runtime.
    let _ = timeout(grace.unwrap_or_default(), finished).await;
}

/// Each connection of a client, and each to a web server, is an open file: as many as may be. If there are too few, `accept`
/// says so.
fn allow_many_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
