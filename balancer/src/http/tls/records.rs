//! TLS 1.3 after the handshake, from its keys alone (RFC 8446, 5 and 6): what a server speaks on a connection that another
//! server, or rustls, began.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::{AlertDescription, ContentType, HandshakeType};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::keys::{BODY_MAX, HEADER, Opener, RecordError, Sealer, Secrets};
use super::parts::{Parts, Reason, Refusal, Session};

/// No more is sealed while so much waits to be sent; the last record may go beyond it.
const UNSENT_MAX: usize = 64 * 1024;

/// What is asked for at least when records are read.
const READ: usize = 4096;

const FATAL: u8 = 2;
const WARNING: u8 = 1;

/// Plaintext above, records below.
pub struct Records<S> {
    stream: S,
    opener: Opener,
    sealer: Sealer,
    /// From the beginning of a record on.
    raw: BytesMut,
    plaintext: BytesMut,
    unsent: BytesMut,
    /// Why nothing more is read.
    over: Option<Over>,
    /// An alert that ends this side was sealed: nothing may follow it.
    closed: bool,
}

#[derive(Clone, Copy)]
enum Over {
    Closed,
    Failed(RecordError),
}

impl<S> Records<S> {
    /// Goes on with a connection.
    pub fn new(parts: Parts<S>) -> Self {
        let Session {
            secrets,
            plaintext,
            ended,
        } = parts.session;
        Self {
            stream: parts.stream,
            opener: Opener::new(secrets.from_client),
            sealer: Sealer::new(secrets.to_client),
            raw: BytesMut::from(&parts.raw[..]),
            plaintext: BytesMut::from(&plaintext[..]),
            unsent: BytesMut::new(),
            over: ended.then_some(Over::Closed),
            closed: false,
        }
    }

    /// What is below.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Takes apart a connection that nothing waits to be sent on.
    ///
    /// # Errors
    ///
    /// Not now; it is given back then.
    pub fn into_parts(self) -> Result<Parts<S>, Refusal<Self>> {
        if let Some(Over::Failed(error)) = self.over {
            return Err(Refusal::kept(self, Reason::Failed(error)));
        }
        if self.closed {
            return Err(Refusal::kept(self, Reason::Closed));
        }
        if !self.unsent.is_empty() {
            return Err(Refusal::kept(self, Reason::Unsent));
        }
        Ok(Parts {
            stream: self.stream,
            raw: self.raw.into(),
            session: Session {
                secrets: Secrets {
                    from_client: self.opener.into_direction(),
                    to_client: self.sealer.into_direction(),
                },
                plaintext: self.plaintext.into(),
                ended: self.over.is_some(),
            },
        })
    }

    /// Opens the next record, if all of it is there. Returns whether it was.
    fn open_next(&mut self) -> Result<bool, RecordError> {
        let Some(length) = self.record_length()? else {
            return Ok(false);
        };
        if self.raw.len() < length {
            return Ok(false);
        }
        let (content, plain) = self.opener.open(self.raw.split_to(length))?;
        match content {
            ContentType::ApplicationData => self.plaintext = plain,
            ContentType::Alert => {
                let &[_, alert] = &plain[..] else {
                    return Err(RecordError::Malformed);
                };
                match AlertDescription::from(alert) {
                    // RFC 8446, 6.1: what comes after it doesn't count.
                    AlertDescription::CloseNotify => self.over = Some(Over::Closed),
                    AlertDescription::UserCanceled => {}
                    alert => return Err(RecordError::Alert(alert)),
                }
            }
            ContentType::Handshake if plain.first() == Some(&HandshakeType::KeyUpdate.into()) => {
                return Err(RecordError::KeyUpdate);
            }
            _ => return Err(RecordError::Unexpected),
        }
        Ok(true)
    }

    /// The length of the record that begins `raw`, as soon as it can be told.
    fn record_length(&self) -> Result<Option<usize>, RecordError> {
        let Some(&[_, _, _, high, low]) = self.raw.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let body = usize::from(u16::from_be_bytes([high, low]));
        if body > BODY_MAX {
            return Err(RecordError::TooLong);
        }
        Ok(Some(HEADER + body))
    }

    /// Ends this side.
    fn close(&mut self, level: u8, alert: AlertDescription) {
        if !self.closed {
            self.closed = true;
            let alert = [level, alert.into()];
            let sealed = self.sealer.seal(
                ContentType::Alert,
                &[IoSlice::new(&alert)],
                &mut self.unsent,
            );
            debug_assert!(sealed.is_ok(), "alerts always go");
        }
    }
}

impl<S: AsyncRead + Unpin> Records<S> {
    /// Reads on.
    fn poll_raw(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let length = self.record_length().ok().flatten().unwrap_or(0);
        let missing = length.saturating_sub(self.raw.len());
        self.raw.reserve(missing.max(READ));
        let read = pin!(self.stream.read_buf(&mut self.raw)).poll(context);
        if read.is_pending() && self.raw.is_empty() {
            // Else an idle connection would keep its memory.
            self.raw = BytesMut::new();
        }
        if ready!(read)? == 0 {
            // RFC 8446, 6.1: without a close_notify, something may be missing.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Records<S> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        self.unsent = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// The connection can't go on: the client is told, if it takes it now.
    fn fail(&mut self, context: &mut Context<'_>, error: RecordError) -> io::Error {
        match error.alert() {
            Some(AlertDescription::CloseNotify) => {
                self.close(WARNING, AlertDescription::CloseNotify);
            }
            Some(alert) => self.close(FATAL, alert),
            None => self.closed = true,
        }
        self.over = Some(Over::Failed(error));
        // What broke the connection counts, not what becomes of the alert.
        let _ = self.poll_drain(context);
        broken(error)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Records<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.plaintext.is_empty() {
                let length = this.plaintext.len().min(buffer.remaining());
                buffer.put_slice(&this.plaintext[..length]);
                this.plaintext.advance(length);
                if this.plaintext.is_empty() {
                    // Else it would keep its memory, which `raw` can use again.
                    this.plaintext = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            match this.over {
                Some(Over::Closed) => return Poll::Ready(Ok(())),
                Some(Over::Failed(error)) => return Poll::Ready(Err(broken(error))),
                None => {}
            }
            match this.open_next() {
                Ok(true) => {}
                Ok(false) => ready!(this.poll_raw(context))?,
                Err(error) => return Poll::Ready(Err(this.fail(context, error))),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// What is taken is sealed, and goes as soon as the connection takes it.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.unsent.len() >= UNSENT_MAX {
            // Some of it going is enough.
            if let Poll::Ready(Err(error)) = this.poll_drain(context) {
                return Poll::Ready(Err(error));
            }
            if this.unsent.len() >= UNSENT_MAX {
                return Poll::Pending;
            }
        }
        let mut slices = slices.to_vec();
        let mut left = &mut slices[..];
        let mut taken = 0;
        while left.iter().any(|slice| !slice.is_empty()) && this.unsent.len() < UNSENT_MAX {
            let sealed = this
                .sealer
                .seal(ContentType::ApplicationData, left, &mut this.unsent);
            match sealed {
                Ok(length) => {
                    taken += length;
                    IoSlice::advance_slices(&mut left, length);
                }
                Err(_) if taken > 0 => break,
                Err(error) => return Poll::Ready(Err(this.fail(context, error))),
            }
        }
        match this.poll_drain(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(WARNING, AlertDescription::CloseNotify);
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn broken(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
