//! A client that sees how long a service is away, and which connections break.
#![expect(
    clippy::disallowed_methods,
    reason = "reading the clock is a benchmark's work"
)]

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use balancer_tests::Host;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Connections that are open when something fails.
pub const HELD: usize = 50;
/// How often a new connection asks for a page.
const PROBE: Duration = Duration::from_millis(2);
/// How often each of those held asks for one.
const USE: Duration = Duration::from_millis(100);
/// A request without an answer for so long is lost, and so is a connection with one. A SYN is repeated after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Asks one address again and again.
pub struct Client {
    answers: Arc<Mutex<Answers>>,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Held>>,
}

/// What new connections saw.
struct Answers {
    last: Instant,
    longest: Duration,
    lost: u32,
}

/// What became of a connection.
struct Held {
    server: String,
    broken: bool,
}

/// What a client saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The longest time without an answer to a new connection.
    pub gap: Duration,
    /// Requests of new connections that failed.
    pub lost: u32,
    /// Connections that one server had, the one that something was done to.
    pub its: Broken,
    /// Connections that the others had.
    pub others: Broken,
}

/// How many connections broke.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broken {
    pub broken: u32,
    pub of: u32,
}

impl Client {
    /// Opens the connections that it holds, and begins to open new ones.
    ///
    /// # Panics
    ///
    /// One of those to be held isn't answered.
    pub fn start(host: &Host, address: SocketAddr) -> Self {
        let answers = Arc::new(Mutex::new(Answers {
            last: Instant::now(),
            longest: Duration::ZERO,
            lost: 0,
        }));
        let ends = Arc::new(AtomicBool::new(false));
        let (ready, opened) = mpsc::channel();
        let (inside, ended) = (Arc::clone(&answers), Arc::clone(&ends));
        let thread = host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(run(address, &inside, &ended, &ready))
        });
        opened.recv().expect("all connections are open");
        Self {
            answers,
            ends,
            thread,
        }
    }

    /// How long the last answer is ago.
    pub fn silent_for(&self) -> Duration {
        self.answers.lock().expect("no panic").last.elapsed()
    }

    /// Ends, when each connection that is held has been used once more. `server` is the one that something was done to.
    pub fn finish(self, server: &str) -> Seen {
        // Without new connections, what is answered late would seem to end a long silence.
        let gap = {
            let answers = self.answers.lock().expect("no panic");
            answers.longest.max(answers.last.elapsed())
        };
        self.ends.store(true, Ordering::Relaxed);
        let held = self.thread.join().expect("the client's thread");
        let answers = self.answers.lock().expect("no panic");
        let count = |its: bool| {
            let of = held.iter().filter(|one| (one.server == server) == its);
            Broken {
                broken: of.clone().filter(|one| one.broken).count() as u32,
                of: of.count() as u32,
            }
        };
        Seen {
            gap,
            lost: answers.lost,
            its: count(true),
            others: count(false),
        }
    }
}

async fn run(
    address: SocketAddr,
    answers: &Arc<Mutex<Answers>>,
    ends: &Arc<AtomicBool>,
    ready: &mpsc::Sender<()>,
) -> Vec<Held> {
    let mut held = JoinSet::new();
    for _ in 0..HELD {
        let mut connection = Connection::open(address).await.expect("a connection");
        let server = connection.ask().await.expect("an answer");
        let ends = Arc::clone(ends);
        held.spawn(async move {
            let broken = keep(connection, &ends).await.is_err();
            Held { server, broken }
        });
    }
    answers.lock().expect("no panic").last = Instant::now();
    // Who doesn't wait any more has panicked, and says why.
    let _ = ready.send(());

    let mut probes = JoinSet::new();
    let mut ticks = interval(PROBE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !ends.load(Ordering::Relaxed) {
        ticks.tick().await;
        let answers = Arc::clone(answers);
        probes.spawn(async move {
            let answered = timeout(PATIENCE, probe(address)).await;
            let mut answers = answers.lock().expect("no panic");
            if let Ok(Ok(())) = answered {
                answers.longest = answers.longest.max(answers.last.elapsed());
                answers.last = Instant::now();
            } else {
                answers.lost += 1;
            }
        });
        while probes.try_join_next().is_some() {}
    }
    let held = held.join_all().await;
    probes.join_all().await;
    held
}

/// One request on a connection of its own. The client closes it, so that servers are left with nothing.
async fn probe(address: SocketAddr) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    connection.ask().await.map(drop)
}

/// Uses a connection until the end, and once after that.
async fn keep(mut connection: Connection, ends: &AtomicBool) -> Result<()> {
    loop {
        let last = ends.load(Ordering::Relaxed);
        timeout(PATIENCE, connection.ask())
            .await
            .map_err(|_| Error::from(ErrorKind::TimedOut))??;
        if last {
            return Ok(());
        }
        sleep(USE).await;
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = BufReader::new(TcpStream::connect(address).await?);
        Ok(Self { stream })
    }

    /// The server that answers a request well.
    async fn ask(&mut self) -> Result<String> {
        self.stream
            .write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
            .await?;
        if !self.line().await?.starts_with("HTTP/1.1 200 ") {
            return Err(ErrorKind::InvalidData.into());
        }
        let (mut server, mut length) = (String::new(), 0);
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                Some(("X-Server", name)) => name.clone_into(&mut server),
                Some(("Content-Length", text)) => length = text.parse().unwrap_or(0),
                None if line.is_empty() => break,
                Some(_) | None => {}
            }
        }
        self.stream.read_exact(&mut vec![0; length]).await?;
        Ok(server)
    }
    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
