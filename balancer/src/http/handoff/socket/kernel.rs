//! What Linux offers for moving a connection: `TCP_REPAIR` and what goes with it (tcp(7) hardly tells of it; `net/ipv4/tcp.c`).

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd as _};

use libc::c_int;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use serde::{Deserialize, Serialize};

pub use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce, TcpMaxSeg, TcpRepair};
pub use nix::sys::socket::{GetSockOpt, SetSockOpt};

/// Values of [`TcpRepair`]. To leave with [`SPEAK`] sends a window probe, whose answer tells what the client has.
pub const SPEAK: u32 = 0;
/// In repair mode.
pub const REPAIR: u32 = 1;
/// Leave without a word (-1).
pub const SILENT: u32 = u32::MAX;

/// Values of [`TcpRepairQueue`], which says what [`TcpQueueSeq`], reading and writing are about.
pub const NO_QUEUE: c_int = 0;
/// What came in.
pub const RECEIVE_QUEUE: c_int = 1;
/// What is written to it in repair mode counts as sent.
pub const SEND_QUEUE: c_int = 2;

/// Kinds of a [`TcpRepairOption`], as in a SYN (RFC 9293, section 3.1; RFC 7323; RFC 2018).
pub const OPTION_MSS: u32 = 2;
/// The client's shift in the lower half of the value, ours in the upper.
pub const OPTION_SCALE: u32 = 3;
/// Without a value.
pub const OPTION_SACK: u32 = 4;
/// Without a value.
pub const OPTION_TIMESTAMP: u32 = 8;

/// Flags of `tcp_info.tcpi_options`.
pub const HAS_TIMESTAMPS: u8 = 1;
/// Selective acknowledgements.
pub const HAS_SACK: u8 = 2;
/// Window scaling.
pub const HAS_SCALES: u8 = 4;

/// `tcp_info.tcpi_state` of a connection that neither side has closed.
pub const ESTABLISHED: u8 = 1;

/// A value of [`TcpSaveSyn`]: from its Ethernet header on.
pub const FROM_ETHERNET: c_int = 2;

/// Bytes of the longest first packet: an Ethernet header, an IPv6 header, a TCP header with all options.
const FIRST_MAX: usize = 14 + 40 + 60;

/// `asm-generic/socket.h`
const SO_BUF_LOCK: c_int = 72;

sockopt_impl!(
    /// Which queue is being repaired.
    TcpRepairQueue, SetOnly, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, c_int
);
sockopt_impl!(
    /// The sequence number after the queue's last byte.
    TcpQueueSeq, Both, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, u32
);
sockopt_impl!(
    /// Something that was agreed on when the connection was made.
    TcpRepairOption, SetOnly, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, AgreedOn
);
sockopt_impl!(
    /// The clock of the timestamps that are sent (RFC 7323, section 4.1).
    TcpTimestamp, Both, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP, u32
);
sockopt_impl!(
    /// How much each side may send.
    TcpRepairWindow, Both, libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW, Window
);
sockopt_impl!(
    /// State and options of the connection.
    TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, libc::tcp_info
);
sockopt_impl!(
    /// Whether the buffers keep the sizes that somebody set, by bits. Without, they grow as they need to.
    BufLock, SetOnly, libc::SOL_SOCKET, SO_BUF_LOCK, c_int
);

sockopt_impl!(
    /// Whether connections of a listener keep their first packet, and from where on.
    TcpSaveSyn, SetOnly, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, c_int
);

/// `struct tcp_repair_opt`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AgreedOn {
    /// Which option.
    pub code: u32,
    /// Its value.
    pub value: u32,
}

/// `struct tcp_repair_window`
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Sequence number of the client's segment that last told its window.
    pub snd_wl1: u32,
    /// Bytes that the client takes, from the first one on that it hasn't acknowledged.
    pub snd_wnd: u32,
    /// The most that it ever took.
    pub max_wnd: u32,
    /// Bytes that it was told it may send, from `rcv_wup` on.
    pub rcv_wnd: u32,
    /// What was expected when it was told so.
    pub rcv_wup: u32,
}

/// How much is in a connection's queues, and where that ends which came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Queues {
    /// The number that the next byte from the client has.
    pub received: u32,
    /// Bytes that nobody has read.
    pub unread: usize,
    /// Bytes that were written, sent or not, and that the client hasn't acknowledged.
    pub outgoing: usize,
}

impl Queues {
    /// Those of a socket in repair mode.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self {
            received: with_queue(stream, RECEIVE_QUEUE, || Ok(TcpQueueSeq.get(stream)?))?,
            unread: waiting(stream, libc::FIONREAD)?,
            outgoing: outgoing(stream)?,
        })
    }

    /// Bytes in both of them.
    pub fn len(&self) -> usize {
        self.unread + self.outgoing
    }
}

/// How many bytes were written, sent or not, that the client hasn't acknowledged.
pub fn outgoing(stream: &TcpStream) -> io::Result<usize> {
    waiting(stream, libc::TIOCOUTQ)
}

/// How many of them were never sent. It is sure before [`peek_outgoing`] only.
pub fn unsent(stream: &TcpStream) -> io::Result<usize> {
    waiting(stream, libc::SIOCOUTQNSD)
}

/// The bytes that nobody has read, which stay where they are. Reading acknowledges them.
pub fn peek_unread(stream: &TcpStream, length: usize) -> io::Result<Vec<u8>> {
    with_queue(stream, RECEIVE_QUEUE, || peek(stream, length))
}

/// The number that the next byte written has, and the bytes that the client hasn't acknowledged, which stay where they are.
///
/// While their queue is chosen, whatever has the kernel send (a timer of the pacing, say) makes all that is unsent count as sent,
/// though nothing leaves.
pub fn peek_outgoing(stream: &TcpStream, length: usize) -> io::Result<(u32, Vec<u8>)> {
    with_queue(stream, SEND_QUEUE, || {
        Ok((TcpQueueSeq.get(stream)?, peek(stream, length)?))
    })
}

/// Does something with a queue, which is chosen no longer than that.
fn with_queue<T>(
    stream: &TcpStream,
    queue: c_int,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    TcpRepairQueue.set(stream, &queue)?;
    let done = act();
    TcpRepairQueue.set(stream, &NO_QUEUE)?;
    done
}

/// The bytes of the queue that is chosen.
fn peek(stream: &TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    // Nothing to read would be an error.
    if length > 0 && stream.peek(&mut bytes)? != length {
        // Urgent data is in the way.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// The headers of a connection's first packet, if it came to a listener that had it kept. The kernel lets go of it.
pub fn first_packet(stream: &impl AsFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FIRST_MAX];
    let mut length = FIRST_MAX as libc::socklen_t;
    // SAFETY: the descriptor is open, and there is room for as many bytes as `length` says.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    bytes.truncate(length as usize);
    Ok(bytes)
}

/// Asks how many bytes wait (tcp(7): `SIOCINQ` is `FIONREAD`, `SIOCOUTQ` is `TIOCOUTQ`).
fn waiting(stream: &TcpStream, request: libc::Ioctl) -> io::Result<usize> {
    let mut count: c_int = 0;
    // SAFETY: the descriptor is open, and these requests write one int.
    let result = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), request, &raw mut count) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}
