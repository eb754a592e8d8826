//! HTTP as a client speaks it that looks closely: which server, and is every byte there.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::{Host, until_some};

/// How long a client waits for anything. Longer than three repetitions of a lost SYN.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a web server, kept open between requests.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The server, as its `X-Server` names it.
    pub server: String,
    /// All of the body.
    pub body: Vec<u8>,
}

/// What comes before the body.
struct Head {
    server: String,
    length: usize,
}

/// Connects the host that this thread is on to `to`, from a port that the connection before has left; 0: from any. Waits until that one
/// is over: a program that another test starts holds all sockets for a moment.
///
/// # Errors
///
/// Nobody answers.
pub fn connect_from(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let what = format!("port {port} is free");
    until_some(&what, PATIENCE, || match try_from(port, to) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => None,
        tried => Some(tried),
    })
}

fn try_from(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.bind(&SocketAddr::from((any, port)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

impl Connection {
    /// Connects `client` to port 80 at `address`.
    pub fn open(client: &Host, address: impl Into<IpAddr>) -> io::Result<Self> {
        let address = address.into();
        client.enter(|| Self::from_here(address))
    }

    /// As [`Self::open`], from a port of the client's that the connection before has left.
    pub fn open_from(client: &Host, port: u16, address: IpAddr) -> io::Result<Self> {
        client.enter(|| Self::over(connect_from(port, (address, 80).into())?))
    }

    /// Breaks it off, without waiting for the server.
    pub fn abort(self) {
        let socket = Socket::from(self.stream.into_inner());
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("a socket without linger");
    }

    /// Asks for `path`.
    ///
    /// # Errors
    ///
    /// The connection broke, or the answer isn't a whole one with status 200.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request("GET", path, &[])
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    ///
    /// As for [`Self::get`].
    pub fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        self.request("POST", path, body)
    }

    /// Its own end.
    pub fn local(&self) -> SocketAddr {
        self.stream
            .get_ref()
            .local_addr()
            .expect("a socket's address")
    }

    /// Connects the host that this thread is on.
    pub fn from_here(address: IpAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&(address, 80).into(), PATIENCE)?)
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        self.send(method, path, body)?;
        let head = self.head()?;
        let body = self.body(head.length)?;
        Ok(Response {
            server: head.server,
            body,
        })
    }

    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {length}\r\n\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    }

    fn head(&mut self) -> io::Result<Head> {
        let invalid = |what: String| io::Error::new(ErrorKind::InvalidData, what);
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(invalid(format!("answered with {status:?}")));
        }
        let mut head = Head {
            server: String::new(),
            length: 0,
        };
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                None => return Ok(head),
                Some(("X-Server", server)) => server.clone_into(&mut head.server),
                Some(("Content-Length", length)) => {
                    head.length = length.parse().map_err(|_| invalid(line.clone()))?;
                }
                Some(_) => {}
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }
}

/// Connections that are opened at once and then held open, each by an answer that takes its time. Dropped, they go on to
/// their ends, and nobody looks at these.
pub struct Held {
    servers: Vec<String>,
    ends: Vec<JoinHandle<io::Result<()>>>,
}

impl Held {
    /// Opens `count` connections from `client` to `address` for some `seconds`. When this returns, each is being answered.
    ///
    /// # Panics
    ///
    /// One of them isn't.
    pub fn open(client: &Host, address: impl Into<IpAddr>, count: usize, seconds: u32) -> Self {
        let address = address.into();
        let path = format!("/hold/{seconds}");
        let (sender, begun) = mpsc::channel();
        let ends = (0..count)
            .map(|number| {
                let (path, sender) = (path.clone(), sender.clone());
                let begun = move |server| sender.send((number, server));
                client.spawn(move || hold(address, &path, begun))
            })
            .collect();
        drop(sender);
        // Not until all senders are gone: each lasts as long as its connection.
        let mut servers = vec![String::new(); count];
        for (number, server) in begun.iter().take(count) {
            servers[number] =
                server.unwrap_or_else(|error| panic!("a connection to be held: {error}"));
        }
        Self { servers, ends }
    }

    /// How many of them the server called `name` has.
    pub fn served_by(&self, name: &str) -> usize {
        self.servers.iter().filter(|server| *server == name).count()
    }

    /// Waits for their ends.
    ///
    /// # Panics
    ///
    /// One of them broke, or brought less than all of its answer.
    pub fn finish(self) {
        self.finish_but("");
    }

    /// Waits for the ends of those that `server` doesn't serve; of the others nothing is expected.
    ///
    /// # Panics
    ///
    /// As [`Self::finish`].
    pub fn finish_but(self, server: &str) {
        let ends = self.servers.iter().zip(self.ends);
        let ends: Vec<_> = ends.filter(|(name, _)| *name != server).collect();
        let count = ends.len();
        let broken: Vec<_> = ends
            .into_iter()
            .filter_map(|(_, end)| end.join().expect("a client doesn't panic").err())
            .collect();
        assert!(
            broken.is_empty(),
            "{} of {count} held connections broke: {broken:?}",
            broken.len()
        );
    }
}

/// Sends the server's name, or why there is none, when the answer has begun. Returns when it is complete.
fn hold<E>(
    address: IpAddr,
    path: &str,
    begun: impl FnOnce(io::Result<String>) -> Result<(), E>,
) -> io::Result<()> {
    let first_part = || {
        let mut connection = Connection::from_here(address)?;
        connection.send("GET", path, &[])?;
        let head = connection.head()?;
        Ok((connection, head))
    };
    let (name, rest) = match first_part() {
        Ok((connection, head)) => (Ok(head.server), Some((connection, head.length))),
        Err(error) => (Err(error), None),
    };
    // Who doesn't listen any more has panicked, and says why.
    let _ = begun(name);
    if let Some((mut connection, length)) = rest {
        connection.body(length)?;
    }
    Ok(())
}
