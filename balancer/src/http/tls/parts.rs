//! A TLS connection taken apart, so that it can go on elsewhere.

use std::fmt;
use std::io::{Read as _, Write as _};

use rustls::{IoState, ProtocolVersion, ServerConnection};
use serde::{Deserialize, Serialize};
use tokio_rustls::server::TlsStream;

use super::keys::{RecordError, Secrets};
use super::whole::Whole;

/// A TLS 1.3 connection in parts. [`Records`](super::Records) goes on with it.
pub struct Parts<S> {
    /// What it came by.
    pub stream: S,
    /// What came from there and isn't opened: mostly nothing, or the beginning of a record.
    pub raw: Vec<u8>,
    /// The rest.
    pub session: Session,
}

/// What TLS knows of a connection.
#[derive(Clone, Serialize, Deserialize)]
pub struct Session {
    /// Its keys.
    pub secrets: Secrets,
    /// What the client sent, opened, and nobody has read.
    pub plaintext: Vec<u8>,
    /// The client sends no more (`close_notify`).
    pub ended: bool,
}

/// A connection that was not taken apart.
pub struct Refusal<T> {
    /// As it was, unless it is lost.
    pub kept: Option<Box<T>>,
    /// Why.
    pub reason: Reason,
}

/// Why a connection can't be taken apart now.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Reason {
    /// TLS 1.2, or none yet.
    #[error("only TLS 1.3 can be moved")]
    Version,
    /// The handshake goes on.
    #[error("the TLS handshake is not over")]
    Handshaking,
    /// Flush it first.
    #[error("not all has been sent")]
    Unsent,
    /// A record is read in part.
    #[error("a TLS record is read in part")]
    WithinRecord,
    /// This side has ended it.
    #[error("TLS has been closed")]
    Closed,
    /// It broke before.
    #[error("TLS is broken: {0}")]
    Broken(rustls::Error),
    /// It broke after a move.
    #[error("TLS is broken: {0}")]
    Failed(RecordError),
}

/// Takes apart a connection that nothing waits to be sent on.
///
/// # Errors
///
/// It isn't TLS 1.3, or not now; it is given back then.
pub fn take_apart<S>(
    mut stream: TlsStream<Whole<S>>,
) -> Result<Parts<S>, Refusal<TlsStream<Whole<S>>>> {
    let (whole, session) = stream.get_mut();
    let state = match settled(whole, session) {
        Ok(state) => state,
        Err(reason) => return Err(Refusal::kept(stream, reason)),
    };
    let (whole, mut session) = stream.into_inner();
    let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
    let secrets = session
        .reader()
        .read_exact(&mut plaintext)
        .map_err(|error| rustls::Error::General(error.to_string()))
        .and_then(|()| session.dangerous_extract_secrets())
        .and_then(|secrets| {
            Secrets::new(secrets).ok_or(rustls::Error::General("its suite has no keys".into()))
        })
        .map_err(|error| Refusal {
            kept: None,
            reason: Reason::Broken(error),
        })?;
    let (stream, raw) = whole.into_parts();
    Ok(Parts {
        stream,
        raw: raw.into(),
        session: Session {
            secrets,
            plaintext,
            ended: state.peer_has_closed(),
        },
    })
}

/// Where rustls is, if nothing but opened bytes is in it.
fn settled<S>(whole: &Whole<S>, session: &mut ServerConnection) -> Result<IoState, Reason> {
    if session.is_handshaking() {
        return Err(Reason::Handshaking);
    }
    if session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(Reason::Version);
    }
    let state = session.process_new_packets().map_err(Reason::Broken)?;
    // An answer to a client's new keys waits for the next write. After it, the keys are others.
    let _ = session.writer().write(&[]);
    if session.wants_write() {
        return Err(Reason::Unsent);
    }
    if !whole.is_between_records() {
        return Err(Reason::WithinRecord);
    }
    Ok(state)
}

impl<T> Refusal<T> {
    pub(super) fn kept(stream: T, reason: Reason) -> Self {
        Self {
            kept: Some(Box::new(stream)),
            reason,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Session(..)")
    }
}
