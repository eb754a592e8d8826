//! One of the threads that serve HTTP: its own event loop, its own listening sockets, its own connections to web servers.
//!
//! The kernel spreads new connections over the workers' sockets (`SO_REUSEPORT`), and what a connection does afterwards takes no
//! other thread. A panic ends the connection in whose task it is, nothing else.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connection;
use super::pool::Pool;
use super::site::Service;
use super::watch::{Order, Watch};
use crate::exchange::clock;

/// How often a worker looks at its connections.
const LOOK: Duration = Duration::from_millis(250);

/// When there are too many connections, this part of a worker's share is closed at once: those that have been idle for longest.
const CLOSED_AT_ONCE: usize = 64;

/// How long a worker waits at most when it can take no further connection.
const PAUSE: Duration = Duration::from_millis(50);

/// One thread's share.
pub struct Worker {
    /// The time of the last look, in nanoseconds.
    pub now: Arc<AtomicU64>,
    /// Connections to web servers and peers that wait for a request.
    pub pool: Arc<Pool>,
    /// No connection takes a second request. All workers have the same.
    finishing: Arc<AtomicBool>,
    connections: Mutex<HashMap<usize, Open>>,
    /// A connection is over.
    freed: Notify,
    next: AtomicUsize,
}

struct Open {
    watch: Arc<Watch>,
    service: Arc<Service>,
}

/// A connection's place in its worker's list, until it is dropped.
pub struct Place {
    /// Who serves it.
    pub worker: Arc<Worker>,
    /// What it is of.
    pub service: Arc<Service>,
    /// What the worker looks at.
    pub watch: Arc<Watch>,
    number: usize,
}

impl Worker {
    /// With nothing to do. `finishing`: each answer is its connection's last.
    pub fn new(finishing: Arc<AtomicBool>) -> Self {
        Self {
            now: Arc::new(AtomicU64::new(clock::monotonic().0)),
            pool: Arc::default(),
            finishing,
            connections: Mutex::default(),
            freed: Notify::new(),
            next: AtomicUsize::new(0),
        }
    }

    /// Takes connections of `service` until the end.
    pub async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        service: Arc<Service>,
        mut ended: Receiver<Option<Duration>>,
    ) {
        service.first_view().await;
        loop {
            if !self.has_room(&service) {
                // Too late is as good as freed.
                let _ = timeout(PAUSE, self.freed.notified()).await;
                continue;
            }
            // First those that wait: what is left at the end is reset.
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                _ = ended.wait_for(Option::is_some) => return,
            };
            match accepted {
                Ok((stream, sender)) => {
                    let place = self.clone().place(&service);
                    tokio::spawn(connection::serve(place, stream, sender));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    service.warn(&format!("cannot take a connection: {error}"));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Looks at the connections for as long as it is polled.
    pub async fn look_after(&self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let now = clock::monotonic();
            self.now.store(now.0, Relaxed);
            self.pool.sweep(now);
            let finishing = self.is_finishing();
            for open in self.connections().values() {
                open.watch.judge(now, open.service.site().patience);
                if finishing && open.watch.has_served() {
                    open.watch.order(Order::Finish);
                }
            }
        }
    }

    /// Whether each answer is its connection's last.
    pub fn is_finishing(&self) -> bool {
        self.finishing.load(Relaxed)
    }

    /// No connection takes a further request.
    pub fn finish_all(&self) {
        for open in self.connections().values() {
            open.watch.order(Order::Finish);
        }
    }

    /// Open connections of clients.
    pub fn count(&self) -> usize {
        self.connections().len()
    }

    /// Whether another connection of `service` may be open here. Makes room by ending those that have been idle for longest.
    pub fn has_room(&self, service: &Arc<Service>) -> bool {
        let most = service.site().http.limits.connections as usize;
        let share = most.div_ceil(service.workers);
        let connections = self.connections();
        let of_service = |open: &&Open| Arc::ptr_eq(&open.service, service);
        if connections.len() < share || connections.values().filter(of_service).count() < share {
            return true;
        }
        let idle = |open: &Open| Some((open.watch.idle_since()?, open.watch.clone()));
        let mut idle: Vec<_> = (connections.values().filter(of_service))
            .filter_map(idle)
            .collect();
        drop(connections);
        idle.sort_unstable_by_key(|(since, _)| *since);
        for (_, watch) in idle.iter().take(share.div_ceil(CLOSED_AT_ONCE)) {
            watch.order(Order::Close);
        }
        service.warn(&format!(
            "{most} connections are open, as many as its `limits` allow: new ones wait, idle ones are closed"
        ));
        false
    }

    /// A place in the list for a connection of `service`.
    pub fn place(self: Arc<Self>, service: &Arc<Service>) -> Place {
        let watch = Arc::new(Watch::new(self.now.clone()));
        let number = self.next.fetch_add(1, Relaxed);
        let open = Open {
            watch: watch.clone(),
            service: service.clone(),
        };
        self.connections().insert(number, open);
        Place {
            worker: self,
            service: service.clone(),
            watch,
            number,
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<usize, Open>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.connections().remove(&self.number);
        self.worker.freed.notify_one();
    }
}

/// The client has gone before it was taken, and such: accept(2), "Error handling".
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::exchange::{Key, Keyring};
    use crate::http::Plan;
    use crate::http::handoff::director;

    #[test]
    fn room_is_made_for_many_at_once() {
        let text = "[[service]]\nname = \"www\"\nports = [\"80/tcp\"]\n\n[[http]]\nservice = \"www\"\n\
                    backend = \"127.0.0.1:8080\"\ntls_ports = []\nlimits = { connections = 640 }\n";
        let config = Config::parse(text, "test").unwrap_or_else(|error| panic!("{error}"));
        let keyring = Keyring::new(&Key::from([1; 32]), &[]);
        let (service, _) = Plan::new(&config, &keyring)
            .unwrap()
            .services(&config, 1, &director().0)
            .remove(0);
        let worker = Arc::new(Worker::new(Arc::default()));
        let places: Vec<_> = (0..640).map(|_| worker.clone().place(&service)).collect();
        let closed = || {
            let told = |place: &&Place| place.watch.ordered() == Order::Close;
            places.iter().filter(told).count()
        };
        assert!(!worker.has_room(&service));
        assert_eq!(closed(), 0, "all of them are about to ask");
        for place in &places[..100] {
            place.watch.begin().end(true);
        }
        assert!(!worker.has_room(&service));
        assert_eq!(closed(), 10);
    }
}
