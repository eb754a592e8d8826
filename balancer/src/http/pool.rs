//! Where requests go, and the connections there that wait for the next one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::link::Link;
use super::stream::Transport;
use super::tls::{self, Tls};
use crate::cluster::Timestamp;
use crate::exchange::clock;

/// Connections that wait, at most, for each destination and worker.
const WAITING_MAX: usize = 256;

/// How long a connection waits for its next request: shorter than 5 s, after which several web servers close it (Node.js and
/// Apache do), so that a request seldom meets the end of its connection.
const WAITING_TIME: Duration = Duration::from_secs(4);

/// How long another host may leave data, or questions whether it is there, unacknowledged (tcp(7), `TCP_USER_TIMEOUT`), and
/// after how long a silence it is asked.
const DEAD_AFTER: Duration = Duration::from_secs(5);
const ASK_AFTER: Duration = Duration::from_secs(2);

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A web server.
    Tcp(SocketAddr),
    /// A web server, through a Unix socket.
    Unix(Arc<Path>),
    /// A peer's module, with TLS where clients come by TLS.
    Peer {
        /// The service's port there.
        address: SocketAddr,
        /// TLS.
        tls: bool,
    },
}

/// The connections of one worker that wait for a request.
#[derive(Default)]
pub struct Pool {
    /// For each destination; there are few.
    waiting: Mutex<Vec<(Destination, Vec<Waiting>)>>,
}

/// Where a connection goes when its answer is complete.
pub enum Home {
    /// To those that wait for anybody's request.
    Pool(Arc<Pool>, Destination),
    /// To the client that it was opened for.
    Client(Arc<Mutex<Option<(Destination, Link)>>>, Destination),
}

struct Waiting {
    link: Link,
    since: Timestamp,
}

impl Destination {
    /// Opens a connection. `tls`: how peers are known.
    ///
    /// # Errors
    ///
    /// It can't be reached.
    pub async fn connect(&self, tls: Option<&Tls>) -> io::Result<Transport> {
        let (address, tls) = match self {
            Self::Unix(path) => return Ok(Transport::Unix(UnixStream::connect(path).await?)),
            Self::Tcp(address)
            | Self::Peer {
                address,
                tls: false,
            } => (address, None),
            Self::Peer { address, tls: true } => (address, tls),
        };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if !address.ip().is_loopback() {
            notice_death(&stream)?;
        }
        let Some(towards_peers) = tls else {
            return Ok(Transport::Tcp(stream));
        };
        let name = ServerName::try_from(tls::NAME).map_err(io::Error::other)?;
        let connector = &towards_peers.connector;
        let stream = connector.connect(name, stream).await?;
        Ok(Transport::Tls(Box::new(stream)))
    }
}

/// Another host that dies says nothing: what it has not acknowledged for so long, or a silence of about as long in which it
/// answers no question either, ends a connection to it.
fn notice_death(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(ASK_AFTER)
            .with_interval(ASK_AFTER),
    )
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Peer { address, .. } => write!(f, "peer {address}"),
        }
    }
}

impl Home {
    /// A connection that can take another request comes back.
    pub fn put(self, link: Link) {
        match self {
            Self::Pool(pool, destination) => pool.put(destination, link),
            Self::Client(place, destination) => {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some((destination, link));
            }
        }
    }
}

impl Pool {
    /// A connection that can take a request now, as far as is known here.
    pub fn take(&self, destination: &Destination, context: &mut Context<'_>) -> Option<Link> {
        loop {
            // The last one is the one whose web server is least likely to be about to close it.
            let mut waiting = {
                let mut all = self.lock();
                let (_, waiting) = all.iter_mut().find(|(to, _)| to == destination)?;
                waiting.pop()?
            };
            if waiting.link.drive(context) {
                return Some(waiting.link);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub fn put(&self, destination: Destination, link: Link) {
        let since = clock::monotonic();
        let mut all = self.lock();
        let waiting = Waiting { link, since };
        match all.iter_mut().find(|(to, _)| *to == destination) {
            None => all.push((destination, vec![waiting])),
            Some((_, all)) if all.len() < WAITING_MAX => all.push(waiting),
            Some(_) => {}
        }
    }

    /// Closes those that have waited for long, and those whose other side has closed.
    pub fn sweep(&self, now: Timestamp) {
        // Whatever wakes them later finds nobody who waits for it.
        let mut context = Context::from_waker(Waker::noop());
        self.lock().retain_mut(|(_, waiting)| {
            waiting.retain_mut(|waiting| {
                now.since(waiting.since) < WAITING_TIME && waiting.link.drive(&mut context)
            });
            !waiting.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Destination, Vec<Waiting>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
