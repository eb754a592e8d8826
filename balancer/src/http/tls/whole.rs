//! A stream that hands TLS records up only whole, so that what is inside rustls can always be taken out of it.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::keys::{HEADER, PLAIN_MAX};

/// Bytes of a record's body: TLS 1.2 allows more than 1.3 (RFC 5246, 6.2.3).
const BODY_MAX: usize = PLAIN_MAX + 2048;

/// What is asked for at least when a record's rest is read.
const READ: usize = 4096;

/// Between a connection and rustls. Records that come whole go up without a copy; of others the beginning is kept here.
pub struct Whole<S> {
    stream: S,
    /// What came and didn't go up yet.
    raw: BytesMut,
    /// How much of `raw` is the rest of a record that has gone up in part, since rustls had no room for all of it. It asks for
    /// the rest before it does anything else.
    rest: usize,
}

impl<S> Whole<S> {
    /// From the beginning of a record on.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            raw: BytesMut::new(),
            rest: 0,
        }
    }

    /// What is below.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Whether the reader has whole records alone.
    pub(super) fn is_between_records(&self) -> bool {
        self.rest == 0
    }

    /// The stream, and what came from it that the reader doesn't have.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.raw)
    }

    /// Gives what may go up and fits. Returns whether that is anything.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let room = buffer.remaining();
        let length = if self.rest > 0 {
            let length = self.rest.min(room);
            self.rest -= length;
            length
        } else {
            match whole_records(&self.raw, room) {
                0 => match record_length(&self.raw) {
                    // Too long for the buffer.
                    Some(length) if length <= self.raw.len() => {
                        self.rest = length - room;
                        room
                    }
                    _ => 0,
                },
                length => length,
            }
        };
        buffer.put_slice(&self.raw[..length]);
        self.raw.advance(length);
        if self.raw.is_empty() {
            // Else it would keep its memory.
            self.raw = BytesMut::new();
        }
        length > 0
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Whole<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.raw.is_empty() {
                let begin = buffer.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
                let read = &buffer.filled()[begin..];
                let whole = whole_records(read, read.len());
                if whole == read.len() {
                    return Poll::Ready(Ok(()));
                }
                this.raw.extend_from_slice(&read[whole..]);
                buffer.set_filled(begin + whole);
                if whole > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else if this.give(buffer) {
                return Poll::Ready(Ok(()));
            } else {
                let missing = record_length(&this.raw).map_or(0, |length| length - this.raw.len());
                this.raw.reserve(missing.max(READ));
                let read = pin!(this.stream.read_buf(&mut this.raw)).poll(context);
                if ready!(read)? == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Whole<S> {
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
        slices: &[IoSlice<'_>],
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

/// How many of the bytes are whole records, and no more than `room` together.
fn whole_records(bytes: &[u8], room: usize) -> usize {
    let mut end = 0;
    while let Some(length) = record_length(&bytes[end..])
        && end + length <= bytes.len().min(room)
    {
        end += length;
    }
    end
}

/// The length of the record that begins here, as soon as it can be told. What is no TLS is a header alone: rustls then says so
/// at once, rather than wait for a body.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let &[content, major, _, high, low, ..] = bytes else {
        return None;
    };
    let body = usize::from(u16::from_be_bytes([high, low]));
    let sound = (20..=23).contains(&content) && major == 3 && body <= BODY_MAX;
    Some(HEADER + if sound { body } else { 0 })
}
