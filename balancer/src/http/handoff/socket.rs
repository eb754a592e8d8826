//! One connection's socket, taken out of this server's kernel and put into another's, while the client notices nothing.
//!
//! The old owner [freezes](Frozen::freeze) it, the new one [restores](Restored::restore) it, the old one drops what it has, and only
//! then the new one [starts](Restored::start). Between freezing and starting neither server says a word on it: all that the client
//! sends is dropped by a socket filter, so the client sends it again. What is frozen must be kept until the packets, and those that
//! were on their way before, go to the new owner, else the old one's kernel answers them with a reset.
//!
//! Segments that came out of order are forgotten, and so is what the old owner had learned of the way to the client (round-trip time, window
//! of congestion). Explicit congestion notification ends with the move.

pub mod kernel;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use self::kernel::{
    AgreedOn, GetSockOpt as _, HAS_SACK, HAS_SCALES, HAS_TIMESTAMPS, Queues, SetSockOpt as _,
    Window,
};
use crate::http::listener;

/// Bytes that may wait in a connection that is moved, in all its queues together.
const MAX_QUEUED: usize = 4 << 20;

/// The largest receive buffer that a snapshot gets, in bytes.
const MAX_WINDOW: u32 = 16 << 20;

/// The least that the kernel takes a buffer for what is written at once, in bytes.
const MIN_BUFFER: usize = 64 << 10;

/// How often a connection is looked at until it holds still.
const LOOKS: usize = 5;

/// From one look to the next: longer than another processor takes for a packet.
const PAUSE: Duration = Duration::from_micros(100);

/// The program of a socket filter (`SO_ATTACH_FILTER`): "return 0 bytes of the packet" drops it, before TCP sees it.
const DROP_ALL: [SockFilter; 1] = [SockFilter::new(
    (libc::BPF_RET | libc::BPF_K) as u16,
    0,
    0,
    0,
)];

/// Why a connection doesn't move.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Without `CAP_NET_ADMIN`.
    #[error("the kernel has no TCP_REPAIR for this process: it needs the capability CAP_NET_ADMIN")]
    NotAllowed,
    /// One side has closed it, or it was reset.
    #[error("the connection is about to end")]
    Ending,
    /// Its addresses are valid on one link alone.
    #[error("{0} is valid on one link alone")]
    LinkLocal(IpAddr),
    /// More waits in its queues than may move.
    #[error("{0} bytes wait in the connection's queues, more than the {MAX_QUEUED} that may move")]
    TooMuch(usize),
    /// A packet was on its way into it all the time.
    #[error("the connection does not hold still")]
    Restless,
    /// A snapshot that no connection has.
    #[error("not the state of a connection: {0}")]
    Invalid(&'static str),
    /// The kernel refused a step.
    #[error("cannot {step}: {error}")]
    Kernel {
        /// What it was to do.
        step: &'static str,
        /// Its answer.
        error: io::Error,
    },
}

/// A connection's state in the kernel, as another server needs it to go on with it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    client: SocketAddr,
    server: SocketAddr,
    /// The longest segment that the client takes, in bytes.
    mss: u32,
    /// Whether there are selective acknowledgements (RFC 2018).
    sack: bool,
    /// How far the client's windows are shifted, and ours (RFC 7323, section 2).
    scales: Option<(u8, u8)>,
    /// The clock of the timestamps that the client gets from us (RFC 7323, section 4.1).
    timestamp: Option<u32>,
    window: Window,
    /// Sequence number after the last of the unread bytes.
    received: u32,
    /// Sequence number after the last of the unsent bytes.
    sent: u32,
    unread: Vec<u8>,
    unacknowledged: Vec<u8>,
    unsent: Vec<u8>,
}

/// A connection that acknowledges nothing and sends nothing, but that it repeats, after 200 ms at the soonest, the first of what the client
/// hasn't acknowledged. Dropping it closes it without a word to the client.
#[derive(Debug)]
pub struct Frozen {
    stream: TcpStream,
    /// The window before it was frozen.
    window: Window,
}

/// A connection of another server's on this one, silent until it is [started](Self::start). Dropping it closes it without a
/// word to the client.
#[derive(Debug)]
pub struct Restored {
    stream: TcpStream,
    /// What comes before the one byte that is in the socket's queue.
    read: Vec<u8>,
    unsent: Vec<u8>,
    /// Bytes were sent that the client may have acknowledged to nobody.
    in_flight: bool,
}

impl Snapshot {
    /// The client's end.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The service's end.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Reads it from a connection that is frozen but for the window that it had.
    fn of(stream: &TcpStream, window: Window) -> Result<Self, Error> {
        let state = || -> io::Result<_> {
            let unsent = kernel::unsent(stream)?;
            let queues = Queues::of(stream)?;
            let info = kernel::TcpInfo.get(stream)?;
            let mss = kernel::TcpMaxSeg.get(stream)?;
            let clock = kernel::TcpTimestamp.get(stream)?;
            Ok((unsent, queues, info, mss, clock))
        };
        let (unsent, queues, info, mss, clock) =
            state().map_err(because("read the connection's state"))?;
        if queues.len() > MAX_QUEUED {
            return Err(Error::TooMuch(queues.len()));
        }
        let unread = kernel::peek_unread(stream, queues.unread)
            .map_err(because("read what the client has sent"))?;
        // Another processor may have had a packet past the filter before that was there, and reading acknowledges.
        let still_window = Window {
            snd_wnd: 0,
            ..window
        };
        let hold_still = || {
            let look = || -> io::Result<_> {
                Ok((Queues::of(stream)?, kernel::TcpRepairWindow.get(stream)?))
            };
            let now = look().map_err(because("look at the connection again"))?;
            if now == (queues, still_window) {
                Ok(())
            } else {
                Err(Error::Restless)
            }
        };
        hold_still()?;
        let (sent, mut unacknowledged) = kernel::peek_outgoing(stream, queues.outgoing)
            .map_err(because("read what the client is to get"))?;
        hold_still()?;
        let has = |option| info.tcpi_options & option != 0;
        // Two bit fields; which half is the first one's is up to the machine.
        let (low, high) = (
            info.tcpi_snd_rcv_wscale & 0xf,
            info.tcpi_snd_rcv_wscale >> 4,
        );
        let scales = if cfg!(target_endian = "little") {
            (low, high)
        } else {
            (high, low)
        };
        Ok(Self {
            client: address(stream.peer_addr())?,
            server: address(stream.local_addr())?,
            mss,
            sack: has(HAS_SACK),
            scales: has(HAS_SCALES).then_some(scales),
            timestamp: has(HAS_TIMESTAMPS).then_some(clock),
            window,
            received: queues.received,
            sent,
            unread,
            // The kernel may take more for sent by now.
            unsent: unacknowledged.split_off(queues.outgoing.saturating_sub(unsent)),
            unacknowledged,
        })
    }

    /// Refuses what the kernel might take, though no connection is so.
    fn check(&self, read: usize) -> Result<(), Error> {
        let queued = self.unread.len() + self.unacknowledged.len() + self.unsent.len() + read;
        if queued > MAX_QUEUED {
            return Err(Error::TooMuch(queued));
        }
        for end in [self.client, self.server] {
            if end.port() == 0 || end.ip().is_unspecified() || end.ip().is_multicast() {
                return Err(Error::Invalid("an end that is no address"));
            }
            if end.ip().to_canonical() != end.ip() {
                return Err(Error::Invalid("an IPv4 address in an IPv6 one"));
            }
        }
        if self.client.is_ipv4() != self.server.is_ipv4() {
            return Err(Error::Invalid("addresses of two families"));
        }
        Ok(())
    }

    /// What was agreed on when the connection was made. Windows are always given a scale: the kernel would take one of its own
    /// choice for what the client knows nothing of.
    fn agreed_on(&self) -> impl Iterator<Item = AgreedOn> {
        let (theirs, ours) = self.scales.unwrap_or_default();
        let scale = u32::from(theirs) | u32::from(ours) << 16;
        let sack = self.sack.then_some((kernel::OPTION_SACK, 0));
        let timestamps = self.timestamp.map(|_| (kernel::OPTION_TIMESTAMP, 0));
        [
            Some((kernel::OPTION_MSS, self.mss)),
            Some((kernel::OPTION_SCALE, scale)),
            sack,
            timestamps,
        ]
        .into_iter()
        .flatten()
        .map(|(code, value)| AgreedOn { code, value })
    }
}

impl fmt::Debug for Snapshot {
    /// Without the bytes: they are the client's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} to {}: {} bytes unread, {} unacknowledged, {} unsent",
            self.client,
            self.server,
            self.unread.len(),
            self.unacknowledged.len(),
            self.unsent.len()
        )
    }
}

impl Frozen {
    /// Makes a connection silent, and reads its state. What its program has read is not in that.
    ///
    /// # Errors
    ///
    /// It can't move. It goes on here then, as if nothing had been.
    pub fn freeze(stream: TcpStream) -> Result<(Self, Snapshot), (TcpStream, Error)> {
        let window = match silence(&stream) {
            Ok(window) => window,
            Err(error) => {
                // What it did not come to can't be undone.
                let _ = speak(&stream, kernel::SILENT);
                return Err((stream, error));
            }
        };
        let mut frozen = Self { stream, window };
        match frozen.still() {
            Ok(snapshot) => Ok((frozen, snapshot)),
            Err(error) => {
                let _ = frozen.go_on();
                Err((frozen.stream, error))
            }
        }
    }

    /// Reads its state, as soon as that doesn't change any more: packets may have been past the filter before it was there, and
    /// reading what the client sent acknowledges it.
    fn still(&mut self) -> Result<Snapshot, Error> {
        for _ in 1..LOOKS {
            match Snapshot::of(&self.stream, self.window) {
                Err(Error::Restless) => std::thread::sleep(PAUSE),
                read => return read,
            }
            let shut = shut(&self.stream).map_err(because("stop the connection"))?;
            let told = if shut.snd_wnd == 0 {
                self.window.snd_wnd
            } else {
                shut.snd_wnd
            };
            self.window = Window {
                snd_wnd: told,
                ..shut
            };
        }
        Snapshot::of(&self.stream, self.window)
    }

    /// The connection goes on here. What nobody had read is still in its queue. What it had still to send may wait as if it were lost, for
    /// some 200 ms.
    ///
    /// # Errors
    ///
    /// The kernel refuses. The connection is closed.
    pub fn thaw(self) -> io::Result<TcpStream> {
        self.go_on()?;
        Ok(self.stream)
    }

    fn go_on(&self) -> io::Result<()> {
        kernel::TcpRepairWindow.set(&self.stream, &self.window)?;
        // What the client acknowledged meanwhile was dropped: ask it.
        let waits = kernel::outgoing(&self.stream)? > 0;
        speak(&self.stream, leave(waits))
    }
}

impl Restored {
    /// Makes the connection of a snapshot, in silence. `read` is what the old owner's program had read from it but not used.
    ///
    /// Its end must be an address of this server's. A socket that listens on the same port does no harm.
    ///
    /// # Errors
    ///
    /// The snapshot is no connection's, or the kernel doesn't take it: there is such a connection, no such address here, or no
    /// route to the client. Nothing is left of it then.
    pub fn restore(snapshot: Snapshot, mut read: Vec<u8>) -> Result<Self, Error> {
        snapshot.check(read.len())?;
        let outgoing = snapshot.unacknowledged.len() + snapshot.unsent.len();
        read.extend_from_slice(&snapshot.unread);
        // When it is read from the socket's queue the kernel sees to it that the client learns of the window.
        let last = read.pop();
        let new = || -> io::Result<_> {
            let domain = Domain::for_address(snapshot.server);
            let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
            listener::prepare(&socket)?;
            make_room(&socket, outgoing, snapshot.window.rcv_wnd)?;
            Ok(socket)
        };
        let socket = new().map_err(because("make a socket"))?;
        kernel::TcpRepair
            .set(&socket, &kernel::REPAIR)
            .map_err(refused)?;
        socket
            .attach_filter(&DROP_ALL)
            .map_err(because("silence the socket"))?;
        socket
            .bind(&snapshot.server.into())
            .map_err(because("take the connection's address"))?;
        let stream = TcpStream::from(socket);
        let received = snapshot.received.wrapping_sub(u32::from(last.is_some()));
        let sent = snapshot.sent.wrapping_sub(outgoing as u32);
        connect(&stream, &snapshot, received, sent).map_err(because("make the connection anew"))?;
        fill(&stream, &snapshot, last).map_err(because("fill the connection's queues"))?;
        kernel::TcpRepairWindow
            .set(&stream, &snapshot.window)
            .map_err(because("set the connection's window"))?;
        Ok(Self {
            stream,
            read,
            in_flight: !snapshot.unacknowledged.is_empty(),
            unsent: snapshot.unsent,
        })
    }

    /// Goes on with the connection: the stream, which doesn't block, and the bytes that come before what will be read from it.
    ///
    /// # Errors
    ///
    /// The kernel refuses. The connection is closed.
    pub fn start(self) -> io::Result<(TcpStream, Vec<u8>)> {
        speak(&self.stream, leave(self.in_flight))?;
        // There is room for it.
        (&self.stream).write_all(&self.unsent)?;
        Ok((self.stream, self.read))
    }
}

/// Makes a connection deaf and dumb. Returns the window that it had.
fn silence(stream: &TcpStream) -> Result<Window, Error> {
    for end in [stream.peer_addr(), stream.local_addr()] {
        address(end)?;
    }
    // Before repair mode, which acknowledges what comes in.
    SockRef::from(stream)
        .attach_filter(&DROP_ALL)
        .map_err(because("silence the socket"))?;
    kernel::TcpRepair
        .set(stream, &kernel::REPAIR)
        .map_err(refused)?;
    let state = kernel::TcpInfo
        .get(stream)
        .map_err(because("read the connection's state"))?;
    if state.tcpi_state != kernel::ESTABLISHED {
        return Err(Error::Ending);
    }
    shut(stream).map_err(because("stop the connection"))
}

/// Has a connection in repair mode send nothing that is unsent, as it else would as soon as it may. Returns the window that it had.
fn shut(stream: &TcpStream) -> io::Result<Window> {
    let window = kernel::TcpRepairWindow.get(stream)?;
    let none = Window {
        snd_wnd: 0,
        ..window
    };
    kernel::TcpRepairWindow.set(stream, &none)?;
    Ok(window)
}

/// Undoes [`silence`], but for the window. `how` is a value of `TcpRepair`.
fn speak(stream: &TcpStream, how: u32) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.detach_filter()?;
    kernel::TcpRepair.set(stream, &how)?;
    // Repair mode has taken it away, and a daemon that is started anew couldn't listen on the port.
    socket.set_reuse_address(true)
}

/// How to leave repair mode: asking the client what it has got costs it a packet and us its answer.
fn leave(ask: bool) -> u32 {
    if ask { kernel::SPEAK } else { kernel::SILENT }
}

/// Buffers for what the old owner had in its queues, and for what the client may send as it was told.
fn make_room(socket: &Socket, outgoing: usize, window: u32) -> io::Result<()> {
    if outgoing > 0 {
        kernel::SndBufForce.set(socket, &(2 * outgoing).max(MIN_BUFFER))?;
    }
    let window = window.min(MAX_WINDOW) as usize;
    if socket.recv_buffer_size()? < 2 * window {
        kernel::RcvBufForce.set(socket, &window)?;
    }
    kernel::BufLock.set(socket, &0)?;
    Ok(())
}

fn connect(stream: &TcpStream, snapshot: &Snapshot, received: u32, sent: u32) -> io::Result<()> {
    // As an option below it comes too late for the size of segments.
    kernel::TcpMaxSeg.set(stream, &snapshot.mss)?;
    kernel::TcpRepairQueue.set(stream, &kernel::RECEIVE_QUEUE)?;
    kernel::TcpQueueSeq.set(stream, &received)?;
    kernel::TcpRepairQueue.set(stream, &kernel::SEND_QUEUE)?;
    kernel::TcpQueueSeq.set(stream, &sent)?;
    SockRef::from(stream).connect(&snapshot.client.into())?;
    for option in snapshot.agreed_on() {
        kernel::TcpRepairOption.set(stream, &option)?;
    }
    if let Some(clock) = &snapshot.timestamp {
        kernel::TcpTimestamp.set(stream, clock)?;
    }
    Ok(())
}

fn fill(mut stream: &TcpStream, snapshot: &Snapshot, last: Option<u8>) -> io::Result<()> {
    kernel::TcpRepairQueue.set(stream, &kernel::SEND_QUEUE)?;
    stream.write_all(&snapshot.unacknowledged)?;
    kernel::TcpRepairQueue.set(stream, &kernel::RECEIVE_QUEUE)?;
    stream.write_all(last.as_slice())
}

/// An end of a connection. A socket of both families has IPv4 addresses in IPv6 ones.
fn address(end: io::Result<SocketAddr>) -> Result<SocketAddr, Error> {
    // One that was reset has no other end.
    let end = end.map_err(|_| Error::Ending)?;
    match end.ip().to_canonical() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(Error::LinkLocal(v6.into())),
        ip => Ok(SocketAddr::new(ip, end.port())),
    }
}

fn refused(error: nix::Error) -> Error {
    match error {
        nix::Error::EPERM => Error::NotAllowed,
        _ => because("repair the connection")(error),
    }
}

fn because<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Kernel {
        step,
        error: error.into(),
    }
}
