//! Byte streams: to a web server or a peer's module, and from a client.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_rustls::client::TlsStream;

use super::handoff::Loosen;
use super::watch::Watch;

/// What a stream to a web server or a peer's module is made of.
pub enum Transport {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS, to a peer.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream to a web server or a peer's module. It tells whether anything came from there.
pub struct Upstream {
    transport: Transport,
    heard: Arc<AtomicBool>,
}

impl Transport {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => stream.write_all(bytes).await,
        }
    }
}

impl Upstream {
    /// `heard` becomes true when a byte comes in.
    pub fn new(transport: Transport, heard: Arc<AtomicBool>) -> Self {
        Self { transport, heard }
    }
}

/// How long a client may go on sending what nobody reads.
const LINGER: Duration = Duration::from_secs(5);

/// The stream of a client, from the first byte that isn't the PROXY protocol's: `unread` first, then what comes.
pub struct ClientStream<S> {
    stream: S,
    unread: Bytes,
    watch: Arc<Watch>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientStream<S> {
    /// Tells `watch` of what comes, and of what can't go.
    pub fn new(stream: S, unread: Bytes, watch: Arc<Watch>) -> Self {
        Self {
            stream,
            unread,
            watch,
            linger: None,
        }
    }

    /// The stream, and what of it hasn't been read here.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.unread)
    }
}

impl ClientStream<TcpStream> {
    /// Something may have come since it was read last, if all was read then.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        // A connection that broke has that to tell.
        self.stream.poll_read_ready(context).map(drop)
    }
}

/// A stream with something before it that was read from it already.
pub struct Rewound<S> {
    stream: S,
    unread: Bytes,
}

impl<S> Rewound<S> {
    /// `unread` comes first.
    pub fn new(stream: S, unread: Bytes) -> Self {
        Self { stream, unread }
    }

    /// The stream, and what of `unread` wasn't read.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.unread)
    }
}

impl<S: Loosen> Rewound<S> {
    /// Whether there may be anything to read.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.unread.is_empty() {
            self.stream.client().poll_readable(context)
        } else {
            Poll::Ready(())
        }
    }
}

/// Reads of what was read before.
fn read_again(unread: &mut Bytes, buffer: &mut ReadBuf<'_>) {
    let length = unread.len().min(buffer.remaining());
    buffer.put_slice(&unread[..length]);
    unread.advance(length);
    if unread.is_empty() {
        // Else it would keep its memory.
        *unread = Bytes::new();
    }
}

macro_rules! each_transport {
    ($self:expr, $stream:ident => $act:expr) => {
        match &mut $self.transport {
            Transport::Tcp($stream) => $act,
            Transport::Unix($stream) => $act,
            Transport::Tls($stream) => $act,
        }
    };
}

impl AsyncRead for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = each_transport!(self, stream => Pin::new(stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each_transport!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_transport!(self, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_transport!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_transport!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            if buffer.filled().len() > before {
                self.watch.on_bytes();
            }
        } else {
            read_again(&mut self.unread, buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch.on_write(result.is_pending());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch.on_write(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.watch.on_write(result.is_pending());
        result
    }

    /// Where a client may be sending what nobody reads, closing at once would reset the connection, and the client would lose
    /// the answer that tells it why (RFC 9112, 9.6): so what it sends is thrown away, for a while. Else the stream is closed
    /// at once, so a system call would tell the client what it is told in any case; but a WebSocket's goes on the other way.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.watch.has_unread() && !self.watch.is_two_way() {
            return Poll::Ready(Ok(()));
        }
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            if !self.watch.has_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut waste = [MaybeUninit::uninit(); 4096];
        loop {
            let mut waste = ReadBuf::uninit(&mut waste);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut waste))?;
            if waste.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        read_again(&mut self.unread, buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
