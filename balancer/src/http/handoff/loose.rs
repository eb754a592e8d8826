//! A connection that no stream has: taken out of one, to be put into another one, here or on another server.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::http::stream::ClientStream;
use crate::http::tls::{Parts, Reason, Records, Refusal, Session, Whole, take_apart};

/// How long a client may take for what TLS itself has to tell it before its connection moves.
const PATIENCE: Duration = Duration::from_secs(1);

/// A client's connection.
pub struct Loose {
    /// What it came by.
    pub socket: TcpStream,
    /// What was read from it and isn't used, as it came.
    pub read: Vec<u8>,
    /// What TLS knows of it, with what it has opened of a request.
    pub session: Option<Session>,
}

/// A stream that a connection can be taken out of.
pub trait Loosen: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// Takes it out. `read`: what was read from the stream, and is to be read again.
    fn loosen(self, read: Vec<u8>) -> impl Future<Output = Result<Loose>> + Send;

    /// What the client's bytes come by.
    fn client(&self) -> &ClientStream<TcpStream>;
}

impl Loosen for ClientStream<TcpStream> {
    async fn loosen(self, mut read: Vec<u8>) -> Result<Loose> {
        let (socket, rest) = self.into_parts();
        read.extend_from_slice(&rest);
        Ok(Loose {
            socket,
            read,
            session: None,
        })
    }

    fn client(&self) -> &ClientStream<TcpStream> {
        self
    }
}

impl Loosen for TlsStream<Whole<ClientStream<TcpStream>>> {
    async fn loosen(self, read: Vec<u8>) -> Result<Loose> {
        let mut stream = match take_apart(self) {
            Ok(parts) => return Ok(parted(parts, read)),
            Err(Refusal {
                kept: Some(stream),
                reason: Reason::Unsent,
            }) => stream,
            Err(refusal) => return Err(refusal.reason.into()),
        };
        flush(&mut *stream).await?;
        let parts = take_apart(*stream).map_err(|refusal| refusal.reason)?;
        Ok(parted(parts, read))
    }

    fn client(&self) -> &ClientStream<TcpStream> {
        self.get_ref().0.stream()
    }
}

impl Loosen for Records<ClientStream<TcpStream>> {
    async fn loosen(mut self, read: Vec<u8>) -> Result<Loose> {
        flush(&mut self).await?;
        let parts = self.into_parts().map_err(|refusal| refusal.reason)?;
        Ok(parted(parts, read))
    }

    fn client(&self) -> &ClientStream<TcpStream> {
        self.stream()
    }
}

fn parted(parts: Parts<ClientStream<TcpStream>>, mut opened: Vec<u8>) -> Loose {
    let (socket, rest) = parts.stream.into_parts();
    let mut read = parts.raw;
    read.extend_from_slice(&rest);
    let mut session = parts.session;
    opened.append(&mut session.plaintext);
    session.plaintext = opened;
    Loose {
        socket,
        read,
        session: Some(session),
    }
}

async fn flush(stream: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let flushed = timeout(PATIENCE, stream.flush()).await;
    let flushed = flushed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    flushed.context("the client takes nothing")
}
